"""Valid things made odd: bytes, JSON, and the words that people and programs get wrong."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

Draw = Callable[[st.SearchStrategy[Any]], Any]

NUMBERS = (-1, 0, 1, 2, 255, 65536, 2**31 - 1, 2**32 - 1, 2**63, -(2**63), 10**30)
FLOATS = (0.5, -0.0, 1e-320, 1e308, float("inf"), float("nan"))
KEPT, SECRET = (
    "../elsewhere/kept.txt",
    "../elsewhere/secret.png",
)  # beside in/ and out/; nobody may touch or show them
TEXTS = (
    *("", " ", ".", "..", "-", "--", "~", "0", "1e400", "nan", "null", "é", "e\u0301", "鳥", "\0"),
    *("\ud800", "\x1b[31m", "a\nb", "a\\b", "a,b\t;", '"', "%s{0}", "*", "[", "x" * 300),
    *("in/a.png", "in/b.png", "in", "out", KEPT, SECRET, "/dev/zero", "/dev/null", "file:///x"),
    *("http://127.0.0.1:9/x.png", "http://[::1/", "https://"),
)
DEEP = "deep deep deep"  # stands for JSON that is nested 100,000 times
ODD_JSON = (b"", b"\0", b"null", b"[]", b"{", b"\xff\xfe{\0}\0", b"\xef\xbb\xbf{}", b"<html>")

long = st.just("x").map(lambda x: x * 140_000)
texts = st.one_of(st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.text(max_size=12), long)
scalars = st.one_of(
    st.sampled_from((None, True, False, DEEP, *NUMBERS, *FLOATS)), st.integers(), st.floats(), texts
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=4,
)


def of(draw: Draw, *choices: Any) -> Any:
    """One of these."""
    return choices[draw(st.integers(0, len(choices) - 1))]


def spoiled(draw: Draw, data: bytes, most: int = 3) -> bytes:
    """Bytes with up to `most` faults, more of them near the start, where headers are."""
    for _ in range(draw(st.integers(1, most))):
        size, near = len(data), min(len(data), 64)
        first, any_, last = ((0, near), (0, size), (size - near, size))
        at = draw(st.one_of(st.integers(*first), st.integers(*any_), st.integers(*last)))
        length = of(draw, 1, 1, 2, 4, 8, 100)
        match of(draw, "set", "number", "number", "cut", "end", "double", "insert"):
            case "set":
                new, rest = draw(st.binary(min_size=1, max_size=4)), at + 1
            case "number":
                number = of(draw, *NUMBERS) % (1 << 8 * min(length, 8))
                order = of(draw, "little", "big")
                new = number.to_bytes(min(length, 8), order)
                rest = at + len(new)
            case "cut":
                new, rest = b"", at + length
            case "end":
                new, rest = b"", len(data)
            case "double":
                new, rest = data[at : at + length] * 2, at + length
            case _:
                new, rest = draw(st.binary(min_size=1, max_size=8)), at
        data = data[:at] + new + data[rest:]
    return data


def perhaps(draw: Draw, data: bytes) -> bytes:
    """As it is, or spoiled."""
    return spoiled(draw, data) if draw(st.booleans()) else data


def edited(draw: Draw, value: Any, most: int = 2) -> Any:
    """JSON with up to `most` of its parts replaced, lost, renamed, doubled or of another type."""
    whole = {"": copy.deepcopy(value)}
    for _ in range(draw(st.integers(1, most))):
        places = [(whole, ""), *_places(whole[""])]
        parent, key = places[draw(st.integers(0, len(places) - 1))]
        old = parent[key]
        match of(draw, *["replace"] * 3, "wrap", "text", "lose", "name", "twice"):
            case "replace":
                parent[key] = draw(values)
            case "wrap":
                parent[key] = of(draw, [old], {"": old}, [old, old])
            case "text":
                parent[key] = of(draw, str(old), f"{old} ", len(str(old)))
            case "lose" if parent is not whole:
                del parent[key]
            case "name" if isinstance(parent, dict) and parent is not whole:
                parent[draw(texts)] = parent.pop(key)
            case "twice" if isinstance(parent, list):
                parent.insert(key, old)
            case _:
                parent[key] = draw(scalars)
    return whole[""]


def _places(value: Any) -> list[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value) if isinstance(value, list) else 0)
    return [(value, key) for key in keys] + [p for key in keys for p in _places(value[key])]


def dumped(value: Any) -> bytes:
    """JSON as a line, whatever is in it."""
    text = json.dumps(value).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)
    return text.encode()


def odd_json(draw: Draw, data: bytes) -> bytes:
    """A JSON file made odd: in its structure, in its bytes, or another one altogether."""
    match of(draw, "edit", "edit", "edit", "edit", "spoil", "other"):
        case "edit":
            return dumped(edited(draw, json.loads(data)))
        case "spoil":
            return spoiled(draw, data)
    return of(draw, *ODD_JSON) if draw(st.booleans()) else dumped(draw(values))


def odd_lines(draw: Draw, data: bytes) -> bytes:
    """JSON lines of which one is made odd, lost, doubled or moved."""
    lines = data.splitlines(keepends=True)
    at, to = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
    match of(draw, "edit", "edit", "edit", "edit", "spoil", "lose", "twice", "move"):
        case "edit":
            lines[at] = dumped(edited(draw, json.loads(lines[at]))) + b"\n"
        case "spoil":
            lines[at] = spoiled(draw, lines[at])
        case "lose":
            del lines[at]
        case "twice":
            lines.insert(at, lines[at])
        case _:
            lines.insert(to, lines.pop(at))
    return b"".join(lines)
