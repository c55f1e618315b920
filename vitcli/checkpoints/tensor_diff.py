"""How the tensors of a checkpoint changed from one layout to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from vitcli.checkpoints.keymap import Made, Names

ChangeKind = Literal["kept", "renamed", "reshaped", "fused", "split", "merged", "added"]


@dataclass(frozen=True, slots=True)
class Change:
    """Tensors of one layout that hold the same numbers as some of the other."""

    kind: ChangeKind
    before: Names
    after: Names


def changes(before: Mapping[str, Made], after: Mapping[str, Made]) -> list[Change]:
    """Compare the sources of our tensors with what they become. *merged* tensors went into others,
    *added* ones are not in the file."""
    found = []
    for ours in _together(before, after):
        old, new = (_names(side[name] for name in ours if name in side) for side in (before, after))
        turned = [name for name in ours if _is_turned(before, name) != _is_turned(after, name)]
        found.append(Change(_kind(old, new, is_reshaped=bool(turned)), old, new))
    return found


def _together(before: Mapping[str, Made], after: Mapping[str, Made]) -> list[list[str]]:
    """Group our names: those that share a tensor of either layout."""
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
    return tuple(dict.fromkeys(name for one in made for name in one.of))


def _is_turned(side: Mapping[str, Made], ours: str) -> bool:
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
