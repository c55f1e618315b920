"""What a conversion says that it did with each tensor."""

from __future__ import annotations

import pytest

from vitcli.checkpoints.keymap import Made
from vitcli.checkpoints.tensor_diff import Change, ChangeKind, changes

Side = dict[str, Made]


def side(**made: str) -> Side:
    """ours="their other", and ours="their/" for one that is turned."""
    return {
        ours: Made(tuple(theirs.rstrip("/").split()), theirs.endswith("/"))
        for ours, theirs in made.items()
    }


# kind, by what of theirs ours were made, what is made of ours, the names before and after
CASES: tuple[tuple[ChangeKind, Side, Side, str, str], ...] = (
    ("kept", side(a="x"), side(a="x"), "x", "x"),
    ("renamed", side(a="x"), side(a="y"), "x", "y"),
    ("reshaped", side(a="x"), side(a="y/"), "x", "y"),
    ("reshaped", side(a="x/"), side(a="y"), "x", "y"),
    ("renamed", side(a="x/"), side(a="y/"), "x", "y"),  # turned there and back
    ("fused", side(qkv="q k v"), side(qkv="all"), "q k v", "all"),
    ("split", side(qkv="all"), side(qkv="q k v"), "all", "q k v"),
    ("kept", side(qkv="q k v"), side(qkv="q k v"), "q k v", "q k v"),
    # Theirs is cut into two of ours: one change, whichever side has the whole.
    ("split", side(q="in", kv="in"), side(q="q", kv="kv"), "in", "q kv"),
    ("fused", side(q="q", kv="kv"), side(q="in", kv="in"), "q kv", "in"),
    ("renamed", side(q="in", kv="in"), side(q="all", kv="all"), "in", "all"),
    # A layer scale goes into the weights before it; a class's own tensor comes from nowhere.
    ("merged", side(gamma="ls"), side(), "ls", ""),
    ("added", side(), side(bias="zeros"), "", "zeros"),
)


@pytest.mark.parametrize(("kind", "before", "after", "old", "new"), CASES)
def test_a_change_has_its_kind_and_its_names(
    kind: ChangeKind, before: Side, after: Side, old: str, new: str
) -> None:
    assert changes(before, after) == [Change(kind, tuple(old.split()), tuple(new.split()))]


def test_groups_that_overlap_on_either_side_are_one() -> None:
    """a and b share a tensor before, b and c one after."""
    before, after = side(a="x", b="x", c="y", d="z"), side(a="A", b="B", c="B", d="z")
    assert changes(before, after) == [
        Change("renamed", ("x", "y"), ("A", "B")),
        Change("kept", ("z",), ("z",)),
    ]
