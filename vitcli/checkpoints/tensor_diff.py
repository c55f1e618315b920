"""Compare the tensors of a checkpoint in two layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vitcli.checkpoints.keymap import Made, Names

ChangeKind = Literal["kept", "renamed", "reshaped", "fused", "split", "merged", "added"]


@dataclass(frozen=True, slots=True)
class Change:
    """Tensors of one layout, and the tensors of the other that hold the same numbers."""

    kind: ChangeKind
    before: Names
    after: Names


def changes(before: Mapping[str, Made], after: Mapping[str, Made]) -> list[Change]:
    """List the changes between two layouts, given the file's tensors of each tensor of the model in
    either. *merged* tensors were multiplied into others, *added* ones are not in the old file."""
    listed = []
    for ours in _together(before, after):
        old, new = (_names(side[name] for name in ours if name in side) for side in (before, after))
        is_reshaped = any(_is_reshaped(before, name) != _is_reshaped(after, name) for name in ours)
        listed.append(Change(_kind(old, new, is_reshaped=is_reshaped), old, new))
    return listed


def _together(before: Mapping[str, Made], after: Mapping[str, Made]) -> list[list[str]]:
    """Group the model's tensors that share a tensor of the file in either layout."""
    groups: list[list[str]] = []
    seen: dict[tuple[int, str], list[str]] = {}
    for ours in dict.fromkeys((*before, *after)):
        theirs = [(i, n) for i, side in enumerate((before, after)) if ours in side
                  for n in side[ours].of]  # fmt: skip
        group = next((seen[name] for name in theirs if name in seen), None)
        if group is None:
            group = []
            groups.append(group)
        group.append(ours)
        seen |= dict.fromkeys(theirs, group)
    return groups


def _names(made: Iterable[Made]) -> Names:
    return tuple(dict.fromkeys(name for source in made for name in source.of))


def _is_reshaped(side: Mapping[str, Made], ours: str) -> bool:
    return ours in side and side[ours].is_reshaped


def _kind(old: Names, new: Names, *, is_reshaped: bool) -> ChangeKind:
    if old == new:
        return "kept"
    if not new:
        return "merged"
    if not old:
        return "added"
    if len(old) > len(new):
        return "fused"
    if len(old) < len(new):
        return "split"
    return "reshaped" if is_reshaped else "renamed"
