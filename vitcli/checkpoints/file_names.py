"""Translate vitcli's tensor names and shapes into a file's, for messages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, cast

from vitcli.checkpoints.keymap import NOT_WHOLE, Names, Rule, fill, regex_of
from vitcli.checkpoints.layouts.layout import MissingTensor
from vitcli.checkpoints.weights.lazy import LazyTensor
from vitcli.errors import CheckpointError

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Spelling:
    """Translates vitcli's names into those of a file with the tensors `theirs`. `prefix` is the
    part that vitcli's names have only in the rules, such as `decoder.`"""

    rules: tuple[Rule, ...] = ()
    theirs: Mapping[str, Tensor] = field(default_factory=dict)
    prefix: str = ""

    def of(self, prefix: str) -> Spelling:
        """The spelling of the tensors that have this prefix in the rules."""
        return replace(self, prefix=prefix)

    def name(self, ours: str) -> str:
        """The file's name of a tensor; for a fused one, the name of its first part."""
        return self._find(ours)[1][0]

    def parts(self, ours: str, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        """The names and shapes of the file's tensors that make a tensor of this shape."""
        rule, names = self._find(ours)
        whole = cast("Tensor", LazyTensor.empty(shape))
        if rule is not None and rule.shares:
            share = dict(rule.shares)[_pattern_of(self.prefix + ours, rule)]
            whole = rule.save(whole) if rule.save is not None else whole
            rows = whole.shape[0] * sum(n for _, n in rule.shares) // share
            whole = cast("Tensor", LazyTensor.empty((rows, *whole.shape[1:])))
        elif rule is not None and rule.save is not None:
            whole = rule.save(whole)
        pieces = whole.chunk(len(names)) if len(names) > 1 else (whole,)
        return {name: tuple(piece.shape) for name, piece in zip(names, pieces, strict=True)}

    def shape(self, theirs: str) -> tuple[int, ...] | None:
        """The shape of a tensor in the file; None if it is missing."""
        return tuple(self.theirs[theirs].shape) if theirs in self.theirs else None

    def _find(self, ours: str) -> tuple[Rule | None, Names]:
        """The rule for a tensor, and the names of its parts in the spelling closest to the
        file's."""
        for rule in self.rules:
            for name in rule.our_names:
                if match := regex_of(name).fullmatch(self.prefix + ours):
                    slots = match.groupdict()
                    spelled = [
                        tuple(fill(part, slots) for part in names) for names in rule.spellings
                    ]
                    return rule, max(spelled, key=self._likeness)
        return None, (ours,)

    def _likeness(self, names: Names) -> int:
        return max((_alike(names[0], other) for other in self.theirs), default=0)


def missing(error: MissingTensor, spelling: Spelling) -> CheckpointError:
    """The error for a missing tensor, with its name in the file."""
    return CheckpointError(f"{spelling.name(error.name)} is missing", NOT_WHOLE)


def _pattern_of(ours: str, rule: Rule) -> str:
    return next(name for name in rule.our_names if regex_of(name).fullmatch(ours))


def _alike(one: str, other: str) -> int:
    """The length of the common prefix of two names."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
