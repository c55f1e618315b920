"""Find and read a config file: TOML with a table for each command."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vitcli.errors import UsageError, printable
from vitcli.files import instead_of, open_regular

NAME, VARIABLE = "vit.toml", "VIT_CONFIG"
MAX_BYTES = 16 << 20  # as of a meta file
MAX_TRACED = 1000  # lines of a file whose keys are looked for
IGNORE = "--config '' reads no file"


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """A config file: its name as it was given, its tables, and who named it: an option, the
    variable VIT_CONFIG, or nobody: it is in the working folder."""

    name: str
    tables: Mapping[str, Any]
    text: str
    named_by: Literal["option", "variable", "nobody"]

    @property
    def shown(self) -> str:
        """The name, for a message."""
        return printable(self.name)

    def lines_of(self, table: tuple[str, ...]) -> dict[str, int]:
        """The line on which each key of a table begins, counted from 1; empty for a long file, and
        for one that is not TOML itself.

        The lines before a statement are TOML by themselves, and those up to its end have its key.
        """
        lines = self.text.splitlines(keepends=True)
        if len(lines) > MAX_TRACED or self.name.endswith(".json"):
            return {}
        found: dict[str, int] = {}
        last = 0
        for count in range(1, len(lines) + 1):
            try:
                values: Any = tomllib.loads("".join(lines[:count]))
            except tomllib.TOMLDecodeError:
                continue
            for name in table:
                values = values.get(name, {}) if isinstance(values, dict) else {}
            for key in values if isinstance(values, dict) else ():
                found.setdefault(key, last + 1)
            last = count
        return found


def find_file(given: str | None) -> ConfigFile | None:
    """The config file: that of --config, of the variable VIT_CONFIG, or `vit.toml` in the working
    folder. None if there is none, or if the option or the variable is empty. Raises UsageError."""
    if given is not None:
        return read_file(given, "option") if given else None
    if (named := os.environ.get(VARIABLE)) is not None:
        return read_file(named, "variable") if named else None
    return read_file(NAME, "nobody") if os.path.lexists(NAME) else None


def read_file(name: str, named_by: Literal["option", "variable", "nobody"]) -> ConfigFile:
    """Read a config file, or the one in the field `config` of a JSON file that vit wrote. Raises
    UsageError for a file that cannot be read or is not TOML."""
    hint = f"{VARIABLE} names it" if named_by == "variable" else None
    hint = IGNORE if named_by == "nobody" else hint
    try:
        # A pipe is welcome where it is named: --config <(jq -r .config feats.meta.json)
        with Path(name).open("rb") if named_by == "option" else open_regular(Path(name)) as file:
            data = file.read(MAX_BYTES + 1)
        text = data.decode("utf-8-sig")
    except FileNotFoundError:
        hint = f"{instead_of(name)} ({hint})" if hint else instead_of(name)
        raise UsageError(f"there is no config file {printable(name)}", hint) from None
    except UnicodeDecodeError:
        raise UsageError(f"{printable(name)} is not text in UTF-8", hint) from None
    except (OSError, ValueError) as error:  # ValueError for a name with NUL
        why = getattr(error, "strerror", None) or str(error)
        raise UsageError(f"cannot read the config file {printable(name)}: {why}", hint) from None
    if len(data) > MAX_BYTES:
        raise UsageError(f"{printable(name)} is too large for a config file", hint)
    if name.endswith(".json"):
        text = _config_of(name, text)
    try:
        return ConfigFile(name, tomllib.loads(text), text, named_by)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        where, what = _place(str(error))
        hint = hint or 'a line is written as in: top-k = 5, or model = "demo"'
        raise UsageError(f"{printable(name)}{where} is not TOML: {printable(what)}", hint) from None


def _config_of(name: str, text: str) -> str:
    """The config file in a JSON file."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    config = value.get("config") if isinstance(value, dict) else None
    if not isinstance(config, str):
        raise UsageError(
            f"{printable(name)} has no config: it is not the meta file or the summary of a run",
            "give a TOML file, such as vit.toml",
        )
    return config


def _place(error: str) -> tuple[str, str]:
    """Split a message of tomllib: `:3` and what is wrong there."""
    match = re.fullmatch(r"(.*) \(at (?:line (\d+), column \d+|end of document)\)", error, re.S)
    if match is None:
        return "", error
    where = f":{match[2]}" if match[2] else ""
    return where, match[1][:1].lower() + match[1][1:]
