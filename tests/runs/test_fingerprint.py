"""Options at their default stay out of the fingerprint, so that a new one orphans no output."""

from __future__ import annotations

from vitcli.runs.fingerprint import Fingerprint, fingerprint

PLAIN = {"top_k": 5, "exif": True}


def made(options: dict[str, object], defaults: dict[str, object]) -> Fingerprint:
    return fingerprint("classify", [], options, defaults)


def test_only_what_is_not_the_default_counts() -> None:
    values = made({"top_k": 3, "exif": True, "drop": ()}, {**PLAIN, "drop": ()}).values
    assert values == {
        **{"command": "classify", "model": [], "config": [], "rows of version": 1},
        "--top-k": 3,
    }


def test_a_new_option_differs_only_where_it_is_used() -> None:
    old = made({"top_k": 3}, {"top_k": 5})
    assert old.difference(made({"top_k": 3, "exif": True}, PLAIN)) is None
    assert old.difference(made({"top_k": 3, "exif": False}, PLAIN)) == "--exif True (now False)"


def test_an_option_that_is_gone_differs_only_where_it_was_used() -> None:
    new = made({"top_k": 5}, {"top_k": 5})
    assert made(dict(PLAIN), PLAIN).difference(new) is None
    assert made({**PLAIN, "exif": False}, PLAIN).difference(new) == "--exif False (now True)"


def test_a_default_that_was_recorded_as_a_value_is_the_same() -> None:
    explicit = Fingerprint({**made({}, {}).values, "--top-k": 5, "--style": {"alpha": 0.5}})
    usual: dict[str, object] = {"top_k": 5, "style": {"alpha": 0.5, "mass": 0.6}}
    other = {**usual, "style": {"alpha": 0.3, "mass": 0.6}}
    assert explicit.difference(made(usual, usual)) is None
    assert made(usual, usual).difference(explicit) is None
    assert explicit.difference(made(other, usual)) == "--style.alpha 0.5 (now 0.3)"


def test_a_default_that_has_changed_differs() -> None:
    old, new = made({"top_k": 5}, {"top_k": 5}), made({"top_k": 10}, {"top_k": 10})
    assert old.difference(new) == "--top-k 5 (now 10)"
