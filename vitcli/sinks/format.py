"""The format of an output: a name, and its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

PagePlace = Literal["none", "beside", "alone"]


@dataclass(frozen=True, slots=True)
class Format:
    """The name of a format, and its options.

    `null` ends paths with NUL; `echo` writes the lines to standard output too; `page` is for a
    page of all images, next to the output or in its place.
    """

    name: str = "jsonl"
    null: bool = False
    echo: bool = False
    page: PagePlace = "none"

    @property
    def options(self) -> dict[str, object]:
        """The options that rows depend on, by the names of the command line."""
        return {"format": self.name, "null": self.null, "html": self.page != "none"}

    @staticmethod
    def of(values: Mapping[str, Any]) -> Format:
        """The format in a fingerprint."""
        page: PagePlace = "beside" if values.get("--html") is True else "none"
        return Format(values["--format"], null=values.get("--null") is True, page=page)


JSONL = Format()

OPTION_DEFAULTS: Mapping[str, object] = {"null": False, "html": False}
"""The default values of the options of a format, except its name."""
