"""Compile an expression over a row, such as `label == "cat" and score >= 0.8`, to a function.

    truth   = truth ("and" | "or") truth | "not" truth | "(" truth ")" | "any(" truth ")" | compared
    compared = value (("==" | "!=" | "<" | "<=" | ">" | ">=" | "~" | ["not"] "in") value)+
    value   = NAME | NUMBER | TEXT, and after "in" also "(" value ("," value)* ")"

This module reads the tokens and checks their order. `ast.parse` then finds the structure of the
expression, in which `v` replaces every value and `<` every sign of a comparison. Python evaluates
nothing. Names mean the best prediction; inside any(...) they mean each prediction in turn.
"""

from __future__ import annotations

import ast
import fnmatch
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, Literal, NoReturn, TypeAlias

from vitcli.errors import UsageError, printable
from vitcli.records import Classified, Prediction

Kind = Literal["text", "number"]


@dataclass(frozen=True, slots=True)
class _Facts:
    """One prediction of an image, its rank, and all predictions of the image."""

    path: str
    prediction: Prediction
    rank: int
    others: tuple[Prediction, ...]


Value: TypeAlias = Callable[[_Facts], Any]
Truth: TypeAlias = Callable[[_Facts], bool]
Matches: TypeAlias = Callable[[str, str], bool]  # (label, text it is compared with)

NAMES: dict[str, tuple[Kind, Value]] = {
    "label": ("text", lambda facts: facts.prediction.label),
    "score": ("number", lambda facts: facts.prediction.score),
    "index": ("number", lambda facts: facts.prediction.index),
    "rank": ("number", lambda facts: facts.rank),
    "path": ("text", lambda facts: facts.path),
}
_NOTHING = Prediction("", -1, float("-inf"))  # the best prediction if --threshold removed all

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)
      | (?P<in>(?:not\s+)?in\b)
      | (?P<word>[A-Za-z_]\w*)
      | (?P<sign>==|!=|<=|>=|<|>|~)
      | (?P<bracket>[(),])
      | (?P<end>$)
    )""",
    re.VERBOSE,
)
MAX_DEPTH = 100  # of nested brackets and nots
_HINTS = {"=": "==", "&": "and", "|": "or", "!": "not", "/": "~ with a pattern"}
_NO_VALUE = f"a value is expected here: {', '.join(NAMES)}, a number or a text in quotes"
_NO_COMPARISON = 'a comparison is missing here, such as == "cat" or >= 0.8'
_NO_END = "the end, and / or is expected here"


def _no_name(word: str) -> str:
    """The error for a word that is not a name: a misspelt name, or a text without quotes."""
    if near := get_close_matches(word, NAMES, 1):
        return f"{word} is not known: did you mean {near[0]}?"
    return f'{word} is not one of {", ".join(NAMES)}: a text is written in quotes, "{word}"'


_STARTS = {"value", "not", "any", "("}  # the first token of something true or false
_FOLLOWS: dict[str, tuple[set[str], str]] = {  # the tokens that may follow, else the message
    **dict.fromkeys(("start", "and", "or", "not", "("), (_STARTS, _NO_VALUE)),
    "any": ({"("}, "( is missing here"),
    "sign": ({"value"}, _NO_VALUE),
    "first": ({"sign", "in"}, _NO_COMPARISON),  # the first value of a comparison
    "in": ({"value", "("}, _NO_VALUE),
    "list": ({"value"}, _NO_VALUE),  # the bracket after in
    ",": ({"value", ")"}, _NO_VALUE),
    "value": ({"sign", "in", "and", "or", ")", ",", "end"}, _NO_END),
    ")": ({"and", "or", ")", "end"}, _NO_END),
}
_CODES = {"value": "v", "sign": "<", "end": ""}
_WIDTH = len("not in ")  # of each token in the code: column // _WIDTH is its number


def _matches(text: str, pattern: str) -> bool:
    """Whether a shell pattern matches; upper and lower case are the same."""
    return fnmatch.fnmatchcase(text.lower(), pattern.lower())


_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "~": _matches,
    "in": lambda a, b: a in b,
    "not in": lambda a, b: a not in b,
}


@dataclass(frozen=True, slots=True)
class Selection:
    """A compiled expression. `labels` holds the texts that it compares labels with, and how."""

    text: str
    truth: Truth
    labels: tuple[tuple[str, Matches], ...]

    def __reduce__(self) -> tuple[Callable[[str], Selection], tuple[str]]:
        return parse, (self.text,)

    def takes(self, row: Classified) -> bool:
        top = row.predictions[0] if row.predictions else _NOTHING
        return self.truth(_Facts(row.ref.path, top, 1, row.predictions))

    def check_labels(self, labels: Sequence[str]) -> None:
        """Raise UsageError for a label that the model does not have: it would select nothing."""
        for text, matches in self.labels:
            if text and not any(matches(label, text) for label in labels):
                part = text.strip("*?").lower()
                close = [label for label in labels if part in label.lower()][:3]
                hint = "the model has " + (
                    ", ".join(map(repr, close)) or f"labels such as {labels[0]!r}"
                )
                raise UsageError(
                    f"--select: the model has no label {printable(repr(text))}",
                    printable(f"{hint}; ~ '*{part}*' finds a part of a name"),
                )


@dataclass(frozen=True, slots=True)
class _Token:
    """A word or sign of the expression and its offset. Names and literals are of kind "value"."""

    kind: str
    text: str
    place: int


@dataclass(frozen=True, slots=True)
class _Operand:
    """One side of a comparison. `literals` holds the constants: one, or those of a list."""

    kind: Kind
    value: Value
    name: str = ""
    literals: tuple[Any, ...] = ()
    is_list: bool = False


def parse(text: str) -> Selection:
    """Compile an expression. Raise UsageError that points at the first mistake."""
    parser = _Parser(text)
    truth = parser.truth(parser.structure())
    return Selection(text, truth, tuple(parser.labels))


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[_Token] = []
        self.labels: list[tuple[str, Matches]] = []

    def fail(self, reason: str, place: int) -> NoReturn:
        raise UsageError(f"--select: {reason}", self.text, caret=place)

    def scan(self) -> Iterator[_Token]:
        place, kind = 0, ""
        while kind != "end":
            match = _TOKEN.match(self.text, place)
            if match is None or match.lastgroup is None:
                place += len(self.text[place:]) - len(self.text[place:].lstrip())
                sign = self.text[place]
                hint = f": write {_HINTS[sign]}" if sign in _HINTS else ""
                reason = "this text is not closed" if sign in "\"'" else "this is not understood"
                self.fail(reason + hint, place)
            place, kind, word = match.end(), match.lastgroup, match[match.lastgroup]
            if kind in ("text", "number") or word in NAMES:
                yield _Token("value", word, match.start(kind))
            elif kind == "in":
                yield _Token("in", " ".join(word.split()), match.start(kind))
            else:
                is_fixed = kind == "bracket" or word in ("and", "or", "not", "any")
                yield _Token(word if is_fixed else kind, word, match.start(kind))

    def structure(self) -> ast.expr:
        """The syntax tree. Raise UsageError for a token that cannot follow the one before it."""
        depth, before = 0, "start"
        levels = [(before, depth)]  # for each open bracket, its kind and the depth inside
        for token in self.scan():
            self.tokens.append(token)
            kind, (allowed, reason) = token.kind, _FOLLOWS[before]
            is_outside = {")": len(levels) == 1, ",": levels[-1][0] != "list"}
            if kind not in allowed or is_outside.get(kind, False):
                is_word = kind == "word" and reason is _NO_VALUE
                self.fail(_no_name(token.text) if is_word else reason, token.place)
            if kind == "end" and len(levels) > 1:
                self.fail(") is missing here", token.place)
            if allowed is _STARTS and depth >= MAX_DEPTH:
                self.fail("this is nested too deeply", token.place)
            depth += kind in ("not", "(")
            if kind == "(":
                before = "list" if before == "in" else kind
                levels.append((before, depth))
                continue
            if kind == ")":
                levels.pop()
            if kind in (")", "and", "or"):
                depth = levels[-1][1]
            before = "first" if kind == "value" and allowed is _STARTS else kind
        code = "".join(_CODES.get(t.kind, t.text).ljust(_WIDTH) for t in self.tokens)
        return ast.parse(code, mode="eval").body

    def truth(self, node: ast.expr, *, in_any: bool = False) -> Truth:
        match node:
            case ast.BoolOp(op=op, values=values):
                combine = all if isinstance(op, ast.And) else any
                tests = [self.truth(value, in_any=in_any) for value in values]
                return lambda facts: combine(test(facts) for test in tests)
            case ast.UnaryOp(operand=operand):
                inner = self.truth(operand, in_any=in_any)
                return lambda facts: not inner(facts)
            case ast.Call(args=[argument]):
                if in_any:
                    place = self.tokens[node.col_offset // _WIDTH].place
                    self.fail("any(...) cannot be inside any(...)", place)
                inner = self.truth(argument, in_any=True)
                return lambda facts: any(
                    inner(replace(facts, prediction=prediction, rank=rank))
                    for rank, prediction in enumerate(facts.others, start=1)
                )
            case ast.Compare(left=left, comparators=others):
                return self.compared(self.value(left, in_any), others, in_any)
        raise AssertionError(ast.dump(node))  # `structure` refuses everything else

    def compared(self, left: _Operand, others: list[ast.expr], in_any: bool) -> Truth:
        """Compile a comparison, or a chain of them: 0.2 < score < 0.8."""
        tests = []
        for node in others:
            start = node.col_offset // _WIDTH  # a tuple starts at its bracket
            start -= not isinstance(node, ast.Tuple) and self.tokens[start - 1].kind == "("
            is_list = self.tokens[start].kind == "("
            right = self.list(node, in_any) if is_list else self.value(node, in_any)
            tests.append(self.test(left, self.tokens[start - 1], right))
            left = right
        return lambda facts: all(test(facts) for test in tests)

    def value(self, node: ast.expr, in_any: bool) -> _Operand:
        token = self.tokens[node.col_offset // _WIDTH]
        if not isinstance(node, ast.Name):
            self.fail(_NO_VALUE, token.place)
        if token.text == "rank" and not in_any:
            self.fail("rank is known only inside any(...)", token.place)
        if token.text in NAMES:
            return _Operand(*NAMES[token.text], name=token.text)
        if token.text[0] in "\"'":
            text = re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL)
            return _Operand("text", lambda facts: text, literals=(text,))
        number = float(token.text)
        return _Operand("number", lambda facts: number, literals=(number,))

    def list(self, node: ast.expr, in_any: bool) -> _Operand:
        """The operand `("cat", "dog")`, or `("cat")`."""
        nodes = node.elts if isinstance(node, ast.Tuple) else [node]
        operands = [self.value(item, in_any) for item in nodes]
        if len({o.kind for o in operands}) > 1 or any(o.name for o in operands):
            end = nodes[-1].col_offset // _WIDTH + 1
            self.fail("a list must hold only texts or only numbers", self.tokens[end].place)
        literals = tuple(o.literals[0] for o in operands)
        return _Operand(operands[0].kind, lambda facts: literals, literals=literals, is_list=True)

    def test(self, left: _Operand, sign: _Token, right: _Operand) -> Truth:
        """Compile one comparison, and collect the texts that it compares labels with."""
        if left.kind != right.kind:
            self.fail("a text cannot be compared with a number", sign.place)
        if sign.text == "~" and not (right.literals and right.kind == "text"):
            self.fail('~ needs a pattern in quotes, such as "*cat*"', sign.place)
        is_within = sign.kind == "in" and not right.is_list
        if is_within and right.kind != "text":
            self.fail("in needs a list in brackets, or a text", sign.place)
        if sign.text not in ("<", "<=", ">", ">="):
            equals = _matches if sign.text == "~" else operator.eq
            matches = operator.contains if is_within else equals
            sides = [(right.name, left.literals), (left.name, () if is_within else right.literals)]
            self.labels += [
                (text, matches) for name, texts in sides if name == "label" for text in texts
            ]
        compare, a, b = _COMPARISONS[sign.text], left.value, right.value
        return lambda facts: compare(a(facts), b(facts))
