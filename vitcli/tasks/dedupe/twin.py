"""The rows of `vit dedupe`: the members of each group of twins."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["bytes", "pixels", "near"]
KINDS: tuple[Kind, ...] = ("bytes", "pixels", "near")  # the strongest first
SCORE_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Twin:
    """A member of a group; the kept one comes first.

    kind: the strongest that it shares with the kept one: the same `bytes`, the same `pixels` (all
    that can be seen, as `appearance.py` says), or `near`; of the kept one, the strongest in the
    group. score: its cosine with the kept one. why: why it is kept or not. of: the path of the kept
    one. row: its row in the index.
    """

    group: int
    path: str
    kind: Kind
    score: float
    keep: bool
    why: str
    of: str
    row: int

    def record(self) -> dict[str, object]:
        """The fields by name, as files have them."""
        return asdict(self)
