"""An expression over a row, such as `label == "cat" and score >= 0.8`, into a function of the row.

A parser of its own instead of `eval`: it knows the names below and nothing else.

    either  = both ("or" both)*
    both    = negated ("and" negated)*
    negated = "not" negated | "(" either ")" | "any" "(" either ")" | compared
    compared = value (("==" | "!=" | "<" | "<=" | ">" | ">=" | "~" | ["not"] "in") value)+
    value   = NAME | NUMBER | STRING | "(" value ("," value)* ")"     the last behind "in"

Names are those of the best prediction; within any(...), those of each one in turn.
"""

from __future__ import annotations

import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NoReturn, TypeAlias

from vitcli.errors import UsageError, printable
from vitcli.records import Classified, Kept, Prediction, Row, Sink

Kind = Literal["text", "number"]


@dataclass(frozen=True, slots=True)
class _Facts:
    """What an expression is about: one prediction of an image, and the others beside it."""

    path: str
    prediction: Prediction
    rank: int
    others: tuple[Prediction, ...]


Value: TypeAlias = Callable[[_Facts], object]
Truth: TypeAlias = Callable[[_Facts], bool]
Matches: TypeAlias = Callable[[str, str], bool]  # a label, and what it is compared with

NAMES: dict[str, tuple[Kind, Value]] = {
    "label": ("text", lambda facts: facts.prediction.label),
    "score": ("number", lambda facts: facts.prediction.score),
    "index": ("number", lambda facts: facts.prediction.index),
    "rank": ("number", lambda facts: facts.rank),
    "path": ("text", lambda facts: facts.path),
}
_NOTHING = Prediction("", -1, float("-inf"))  # the top one, where --threshold has left none

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>==|!=|<=|>=|<|>|~|\(|\)|,)
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
_ORDER: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
DEEPEST = 100  # brackets and nots within each other
_MEANT = {"=": "==", "&": "and", "|": "or", "!": "not", "/": "~ with a pattern"}


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows are wanted. `labels` holds what the labels are compared with, to be checked."""

    text: str
    truth: Truth
    labels: tuple[tuple[str, Matches], ...]

    def takes(self, row: Classified) -> bool:
        top = row.predictions[0] if row.predictions else _NOTHING
        return self.truth(_Facts(row.ref.path, top, 1, row.predictions))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise UsageError for a label that the model does not have: nothing would be selected."""
        for text, matches in self.labels:
            if text and not any(matches(label, text) for label in labels):
                part = text.strip("*?").lower()
                close = [label for label in labels if part in label.lower()][:3]
                hint = "the model has " + (", ".join(map(repr, close)) or f"{labels[0]!r} and such")
                raise UsageError(
                    f"--select: no label is {printable(repr(text))}",
                    printable(f"{hint}; ~ '*{part}*' finds a part of a name"),
                )


@dataclass(slots=True)
class SelectSink:
    """Passes on the rows that are wanted, and the failures, which nobody has decided about.
    Without a selection every row is."""

    sink: Sink
    selection: Selection | None
    selected: int = 0

    def write(self, rows: Sequence[Row]) -> list[int]:
        """The bytes of text that each row has become: none for one that is not wanted."""
        taken = [self._takes(row) for row in rows]
        lengths = self.sink.write(
            [row for row, is_taken in zip(rows, taken, strict=True) if is_taken]
        )
        left = iter(lengths if isinstance(lengths, list) else ())
        return [next(left, 0) if is_taken else 0 for is_taken in taken]

    def _takes(self, row: Row) -> bool:
        """Whether a row is selected. One from an earlier run has text only if it was then."""
        if self.selection is None or not isinstance(row, Classified | Kept):
            return True
        is_wanted = bool(row.text) if isinstance(row, Kept) else self.selection.takes(row)
        self.selected += is_wanted and not (isinstance(row, Kept) and row.is_failed)
        return is_wanted

    def finish(self, meta: Mapping[str, object]) -> None:
        self.sink.finish(meta)

    def abort(self) -> None:
        self.sink.abort()


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    place: int


def parse(text: str) -> Selection:
    """Raises UsageError that points at the place where it cannot be understood."""
    parser = _Parser(text)
    truth = parser.either()
    if parser.now.kind != "end":
        parser.fail("here it should end, or go on with and / or")
    return Selection(text, truth, tuple(parser.labels))


@dataclass(frozen=True, slots=True)
class _Operand:
    """One side of a comparison. `literals` are what was written out: one, or a list in brackets."""

    kind: Kind
    value: Value
    name: str = ""
    literals: tuple[object, ...] = ()
    is_list: bool = False


class _Parser:
    """Reads one token ahead, `now`."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.labels: list[tuple[str, Matches]] = []
        self._is_in_any = False
        self._depth = 0
        self._tokens = self._scan()
        self.now = next(self._tokens)

    def _scan(self) -> Iterator[_Token]:
        place = 0
        while True:
            found = _TOKEN.match(self.text, place)
            if found is None or found.lastgroup is None:
                place += len(self.text[place:]) - len(self.text[place:].lstrip())
                sign = self.text[place]
                meant = f": write {_MEANT[sign]}" if sign in _MEANT else ""
                unclosed = "this text has no end" if sign in "\"'" else "this is not understood"
                self.fail(unclosed + meant, place)
            place = found.end()
            yield _Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))

    def fail(self, reason: str, place: int | None = None) -> NoReturn:
        place = self.now.place if place is None else place
        raise UsageError(f"--select: {reason}", self.text, caret=place)

    def take(self, *texts: str) -> str | None:
        """The next token if it is one of these words or signs."""
        if self.now.kind in ("word", "sign") and self.now.text in texts:
            taken, self.now = self.now.text, next(self._tokens)
            return taken
        return None

    def need(self, text: str) -> None:
        if self.take(text) is None:
            self.fail(f"{text} is missing here")

    def either(self) -> Truth:
        tests = [self.both()]
        while self.take("or"):
            tests.append(self.both())
        return tests[0] if len(tests) == 1 else lambda facts: any(test(facts) for test in tests)

    def both(self) -> Truth:
        tests = [self.negated()]
        while self.take("and"):
            tests.append(self.negated())
        return tests[0] if len(tests) == 1 else lambda facts: all(test(facts) for test in tests)

    def negated(self) -> Truth:
        self._depth += 1
        if self._depth > DEEPEST:
            self.fail("this is nested too deeply")
        found = self._negated()
        self._depth -= 1
        return found

    def _negated(self) -> Truth:
        if self.take("not"):
            inner = self.negated()
            return lambda facts: not inner(facts)
        if self.take("("):
            inner = self.either()
            self.need(")")
            return inner
        place = self.now.place
        if self.take("any"):
            return self.any(place)
        return self.compared()

    def any(self, place: int) -> Truth:
        """Whether it holds for one of the predictions of the row."""
        if self._is_in_any:
            self.fail("any within any: it asks for each prediction already", place)
        self.need("(")
        self._is_in_any = True
        inner = self.either()
        self._is_in_any = False
        self.need(")")
        return lambda facts: any(
            inner(replace(facts, prediction=prediction, rank=rank))
            for rank, prediction in enumerate(facts.others, start=1)
        )

    def compared(self) -> Truth:
        """One comparison, or several that share their values: 0.2 < score < 0.8."""
        left, tests = self.value(), []
        while True:
            place = self.now.place
            sign = self.take(*_ORDER, "~", "in")
            if sign is None and self.take("not"):
                self.need("in")
                sign = "not in"
            if sign is None:
                break
            right = self.list() if sign.endswith("in") and self.take("(") else self.value()
            tests.append(self.test(left, sign, right, place))
            left = right
        if not tests:
            self.fail('a comparison is missing here, such as == "cat" or >= 0.8')
        return tests[0] if len(tests) == 1 else lambda facts: all(t(facts) for t in tests)

    def value(self) -> _Operand:
        place = self.now.place
        kind, text, self.now = self.now.kind, self.now.text, self._after()
        if kind == "number":
            number = float(text)
            return _Operand("number", lambda facts: number, literals=(number,))
        if kind == "text":
            string = re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)
            return _Operand("text", lambda facts: string, literals=(string,))
        if kind != "word" or text not in NAMES:
            known = ", ".join(NAMES)
            self.fail(f"here a value should stand: {known}, a number or a text in quotes", place)
        if text == "rank" and not self._is_in_any:
            self.fail("rank is 1 but in any(...), which asks for each prediction", place)
        return _Operand(*NAMES[text], name=text)

    def list(self) -> _Operand:
        """The rest of ("cat", "dog")."""
        found = [self.value()]
        while self.take(",") and self.now.text != ")":
            found.append(self.value())
        if len({one.kind for one in found}) > 1 or any(one.name for one in found):
            self.fail("a list holds either texts or numbers")
        self.need(")")
        literals = tuple(literal for one in found for literal in one.literals)
        return _Operand(found[0].kind, lambda facts: literals, literals=literals, is_list=True)

    def test(self, left: _Operand, sign: str, right: _Operand, place: int) -> Truth:
        """The comparison itself; what the label is compared with is noted."""
        if left.kind != right.kind or left.is_list:
            self.fail("a text and a number are never equal", place)
        a, b = left.value, right.value
        if sign in _ORDER:
            order = _ORDER[sign]
            if sign in ("==", "!="):
                self.note_labels(left.name, right.literals, operator.eq)
                self.note_labels(right.name, left.literals, operator.eq)
            return lambda facts: order(a(facts), b(facts))
        if sign == "~":
            if not (right.literals and right.kind == "text"):
                self.fail('behind ~ there should be a pattern in quotes, such as "*cat*"', place)
            self.note_labels(left.name, right.literals, _matches)
            pattern = right.literals[0]
            return lambda facts: _matches(a(facts), pattern)
        if not right.is_list and right.kind != "text":
            self.fail("behind in there should be a list in brackets, or a text", place)
        if right.is_list:
            self.note_labels(left.name, right.literals, operator.eq)
        else:
            self.note_labels(right.name, left.literals, operator.contains)
        is_wanted = sign == "in"
        return lambda facts: (a(facts) in b(facts)) is is_wanted  # type: ignore[operator]

    def note_labels(self, name: str, literals: Sequence[object], matches: Matches) -> None:
        if name == "label":
            self.labels += [(str(literal), matches) for literal in literals]

    def _after(self) -> _Token:
        return next(self._tokens, self.now)


def _matches(text: Any, pattern: Any) -> bool:
    """As a shell's pattern, in any case."""
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())
