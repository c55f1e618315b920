"""Rename a layout's tensors to vitcli's names and back, by rules that are data.

A rule names tensors by patterns with slots: `{s}` is a stage, `{i}` a block, `{p}` weight or bias,
`{rest}` anything. `rename` maps a tensor to another name, `fuse` joins several tensors on dim 0,
`split` cuts a tensor into several, `reshape` changes the shape of one tensor or of several joined,
`drop` ignores a tensor for a reason. In the code, `theirs` are the layout's names and `ours`
vitcli's. `also` lists other spellings of the layout's names, which are read but never written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias

from vitcli.checkpoints.weights.lazy import cat
from vitcli.errors import CheckpointError, listed

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

Names = tuple[str, ...]
Reshape: TypeAlias = "Callable[[Tensor], Tensor]"
NOT_WHOLE = "it is not a whole checkpoint: download it again, with all of its shards"

_SLOTS = {
    "{s}": r"(?P<s>\d+)",
    "{i}": r"(?P<i>\d+)",
    "{p}": r"(?P<p>weight|bias)",
    "{rest}": r"(?P<rest>.+)",
}


@dataclass(frozen=True, slots=True)
class Rule:
    """Maps `theirs` (one name, or the parts of a fused tensor in order) to `ours` (None: dropped).

    `load` reshapes the tensors of `theirs`, joined on dim 0; `save` is its inverse. `shares` has
    vitcli's name and the share of the rows for each part of a split tensor; the first name is
    `ours`, and a part without a name is left out; `load` and `save` then reshape each part. `why`
    is the reason to drop a tensor, and a note for the user if `is_told`.
    """

    theirs: Names
    ours: str | None
    also: tuple[Names, ...] = ()
    load: Reshape | None = None
    save: Reshape | None = None
    shares: tuple[tuple[str, int], ...] = ()
    why: str = ""
    is_told: bool = False

    @property
    def spellings(self) -> tuple[Names, ...]:
        return (self.theirs, *self.also)

    @property
    def our_names(self) -> Names:
        """vitcli's names: none for a dropped tensor, several for a split one."""
        if self.ours is None:
            return ()
        return tuple(name for name, _ in self.shares if name) or (self.ours,)

    def divide(self, name: str, tensor: Tensor) -> Sequence[Tensor]:
        """Return a tensor for each of `our_names`, by reshaping or splitting the layout's tensor.
        Raises CheckpointError, with `name`, for a tensor whose shape does not permit that."""
        if not self.shares:
            return (_reshaped(self.load, tensor, name) if self.load else tensor,)
        shares = [share for _, share in self.shares]
        if tensor.ndim == 0 or tensor.shape[0] % sum(shares):
            raise CheckpointError(
                f"{name} has shape {list(tensor.shape)}: "
                f"its rows cannot be split {':'.join(map(str, shares))}"
            )
        unit = tensor.shape[0] // sum(shares)
        parts = tensor.split(  # type: ignore[no-untyped-call]
            [unit * share for share in shares]
        )
        kept = [part for part, (ours, _) in zip(parts, self.shares, strict=True) if ours]
        return [_reshaped(self.load, part, name) for part in kept] if self.load else kept


def rename(theirs: str, ours: str, *also: str) -> Rule:
    """Map one tensor to another name."""
    return Rule((theirs,), ours, tuple((name,) for name in also))


def fuse(theirs: Names, ours: str, *also: Names) -> Rule:
    """Join several of the layout's tensors on dim 0, in this order, into one."""
    return Rule(theirs, ours, also)


def reshape(theirs: Names, ours: str, load: Reshape, save: Reshape, *also: Names) -> Rule:
    """Change the shape of one tensor, or of several joined."""
    return Rule(theirs, ours, also, load, save)


def split(
    theirs: str,
    *shares: tuple[str, int],
    also: tuple[Names, ...] = (),
    load: Reshape | None = None,
    save: Reshape | None = None,
) -> Rule:
    """Cut one of the layout's tensors on dim 0 into (vitcli's name, share), in this order. A part
    with the name "" is left out; such a rule can only be read."""
    return Rule((theirs,), shares[0][0], also, load, save, shares)


def drop(theirs: str, why: str, *, is_told: bool = False) -> Rule:
    """Ignore a known tensor, for the reason `why`; with `is_told`, the user gets a note."""
    return Rule((theirs,), None, why=why, is_told=is_told)


@dataclass(frozen=True, slots=True)
class Made:
    """The names of the tensors (`of`) from which a tensor was made, and whether it was reshaped."""

    of: Names
    is_reshaped: bool = False


@dataclass(frozen=True, slots=True)
class Renamed:
    """A state dict in vitcli's names, the sources of each tensor, the reason for each dropped
    tensor, and notes for the user."""

    tensors: dict[str, Tensor]
    made: dict[str, Made]
    dropped: dict[str, str]
    notes: tuple[str, ...] = ()


def to_ours(state: Mapping[str, Tensor], rules: Iterable[Rule]) -> Renamed:
    """Rename every tensor to vitcli's name. Raises CheckpointError for a name that no rule matches,
    a fused tensor with a missing part, and two tensors that would get the same name."""
    parts: dict[str, dict[int, str]] = {}  # ours -> position -> theirs
    rule_of: dict[str, tuple[Rule, Names, dict[str, str]]] = {}  # ours -> rule, its parts, slots
    dropped: dict[str, str] = {}
    noted: dict[str, list[str]] = {}  # why -> names
    unknown = []
    patterns = _compile(tuple(rules))
    for name in state:
        match = _match(name, patterns)
        if match is None:
            unknown.append(name)
            continue
        rule, position, spelled, slots = match
        if rule.ours is None:
            dropped[name] = rule.why
            if rule.is_told:
                noted.setdefault(rule.why, []).append(name)
            continue
        ours = fill(rule.ours, slots)
        taken = parts.setdefault(ours, {})
        if position in taken:
            raise CheckpointError(f"{name} and {taken[position]} are the same tensor, {ours}")
        taken[position] = name
        rule_of[ours] = (rule, spelled, slots)
    if unknown:
        raise CheckpointError(
            f"{_count(unknown, 'tensor')} of unknown name: {_first(unknown, state)}",
            "an unknown tensor may change the numbers, so it is not ignored; if it is not part of "
            f"the model, --drop '{unknown[0].rpartition('.')[0] or unknown[0]}.*' leaves it out",
        )
    tensors: dict[str, Tensor] = {}
    made: dict[str, Made] = {}
    for ours, names in parts.items():
        rule, spelled, slots = rule_of[ours]
        absent = [fill(part, slots) for i, part in enumerate(spelled) if i not in names]
        if absent:
            raise CheckpointError(
                f"{', '.join(absent)} is missing: {ours} is made of {len(spelled)} tensors, "
                f"the file has only {', '.join(names.values())}",
                NOT_WHOLE,
            )
        tensor = _joined({names[position]: state[names[position]] for position in sorted(names)})
        source = Made(tuple(names[position] for position in sorted(names)), rule.load is not None)
        for part, name in zip(rule.divide(names[0], tensor), rule.our_names, strict=True):
            tensors[fill(name, slots)] = part
            made[fill(name, slots)] = source
    notes = [f"left out: {_with_others(names)} ({why})" for why, names in noted.items()]
    return Renamed(tensors, made, dropped, tuple(notes))


def to_theirs(tensors: Mapping[str, Tensor], rules: Iterable[Rule]) -> dict[str, Tensor]:
    """Rename every tensor from vitcli's name to the layout's. Raises CheckpointError, with their
    names, for tensors that the layout cannot express."""
    kept = [rule for rule in rules if rule.ours is not None]
    inverse = [replace(rule, theirs=rule.our_names, also=()) for rule in kept]
    rule_for = {rule.ours: rule for rule in reversed(kept)}
    patterns = _compile(tuple(inverse))
    groups: dict[str, dict[int, str]] = {}  # theirs -> position -> ours
    rule_of: dict[str, tuple[Rule, int, dict[str, str]]] = {}  # theirs -> rule, parts, slots
    unknown = []
    for name in tensors:
        match = _match(name, patterns)
        if match is None:
            unknown.append(name)
            continue
        matched, position, parts, slots = match
        rule = rule_for[matched.ours]
        theirs = fill(rule.theirs[0], slots)
        groups.setdefault(theirs, {})[position] = name
        rule_of[theirs] = (rule, len(parts), slots)
    if unknown:
        raise CheckpointError(f"this layout cannot express {_first(unknown, tensors)}")
    state: dict[str, Tensor] = {}
    for theirs, names in groups.items():
        rule, count, slots = rule_of[theirs]
        if len(names) != count:
            have = ", ".join(names.values())
            raise CheckpointError(f"{theirs} is made of {count} tensors, there is only {have}")
        pieces = [tensors[names[position]] for position in range(count)]
        if rule.save and rule.shares:
            pieces = [rule.save(piece) for piece in pieces]
        whole = pieces[0] if count == 1 else cat(pieces)
        whole = rule.save(whole) if rule.save and not rule.shares else whole
        for part, name in zip(whole.chunk(len(rule.theirs)), rule.theirs, strict=True):
            state[fill(name, slots)] = part.contiguous()
    return state


def knows(names: Iterable[str], rules: Iterable[Rule]) -> bool:
    """Whether the rules match every name, and at least one of the names belongs to a block."""
    patterns = _compile(tuple(rules))
    matches = [_match(name, patterns) for name in names]
    return None not in matches and any(match and "i" in match[3] for match in matches)


_Pattern = tuple[re.Pattern[str], Rule, int, Names]


@lru_cache(maxsize=64)
def _compile(rules: tuple[Rule, ...]) -> list[_Pattern]:
    """A pattern for each name in each spelling of each rule: its regular expression, the rule, the
    position of the name in the spelling, and the spelling."""
    return [
        (regex_of(name), rule, position, names)
        for rule in rules
        for names in rule.spellings
        for position, name in enumerate(names)
    ]


def regex_of(name: str) -> re.Pattern[str]:
    pattern = re.escape(name)
    for slot, expression in _SLOTS.items():
        pattern = pattern.replace(re.escape(slot), expression)
    return re.compile(pattern)


def _match(
    name: str, patterns: Iterable[_Pattern]
) -> tuple[Rule, int, Names, dict[str, str]] | None:
    for pattern, rule, position, parts in patterns:
        if match := pattern.fullmatch(name):
            return rule, position, parts, match.groupdict()
    return None


def fill(name: str, slots: Mapping[str, str]) -> str:
    for slot, value in slots.items():
        name = name.replace(f"{{{slot}}}", value)
    return name


def _joined(pieces: Mapping[str, Tensor]) -> Tensor:
    """Join tensors on dim 0. Raises CheckpointError, which lists the shapes, if they differ."""
    tensors = list(pieces.values())
    if len({tensor.shape for tensor in tensors}) > 1:
        shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in pieces.items())
        raise CheckpointError(f"these should have one shape: {shapes}")
    return tensors[0] if len(tensors) == 1 else cat(tensors)


def _reshaped(load: Reshape, tensor: Tensor, name: str) -> Tensor:
    try:
        return load(tensor).contiguous()
    except (RuntimeError, IndexError, ValueError):
        shape = list(tensor.shape)
        raise CheckpointError(f"{name} has the wrong shape ({shape})") from None


def _with_others(names: list[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _count(names: list[str], noun: str) -> str:
    return f"1 {noun}" if len(names) == 1 else f"{len(names)} {noun}s"


def _first(names: list[str], state: Mapping[str, Tensor]) -> str:
    return listed([f"{name} {list(state[name].shape)}" for name in names], 5)
