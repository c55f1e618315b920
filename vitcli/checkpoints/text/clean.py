"""Clean a text as the library that trained a model does, before its tokenizer sees it.

open_clip (open_clip/tokenizer.py) runs ftfy, unescapes HTML twice, and strips. `_repair` does what
ftfy 6 does, except for one step: text that was decoded with the wrong encoding ("cafÃ©" for "café")
stays as it is. Texts have no surrogates.
"""

from __future__ import annotations

import html
import re
import string
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from html.entities import html5
from typing import Final

ENTITY = re.compile(r"&#?[0-9A-Za-z]{1,24};")
TERMINAL_ESCAPE = re.compile(r"\x1b\[[\d;]*[a-zA-Z]", re.ASCII)
LINE_BREAK = re.compile("\r\n|[\r\u2028\u2029\x85]")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

# Letters of two: typographic ligatures and the digraphs of Dutch, Afrikaans, Serbian and Croatian.
# NFKC gives their letters, except for ſt, whose long s stays.
LIGATURES: Final = "ĲĳŉǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ"
QUOTES: Final = {"'": "ʼ‘’‚‛", '"': "“”„‟"}
# Controls without a shape: ASCII's, except tab and line breaks, the deprecated Arabic ones, the
# byte order mark, and the marks of annotations and objects.
CONTROLS: Final = (
    *(code for code in range(0x20) if chr(code) not in "\t\n\f\r"),
    0x7F,
    *range(0x206A, 0x2070),
    0xFEFF,
    *range(0xFFF9, 0xFFFD),
)


def around(text: str, marks: Sequence[str], clean: Callable[[str], str]) -> str:
    """Clean what is around the marks in a text."""
    if not marks:
        return clean(text)
    # The group keeps the marks, which are every second part. Long marks come before their starts.
    longest_first = sorted(marks, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text)
    parts[::2] = map(clean, parts[::2])
    return "".join(parts)


def as_siglip(text: str, *, lower: bool) -> str:
    """Delete ASCII punctuation, and join words by single spaces, as transformers' SiglipTokenizer
    does."""
    text = (text.lower() if lower else text).translate(NO_PUNCTUATION)
    return re.sub(r"\s+", " ", text).strip()


def canonicalize(text: str) -> str:
    """Repair and unescape a text, put a space for "_", delete ASCII punctuation, lower-case it, and
    join words by single spaces: open_clip's `canonicalize`, which is that of big_vision
    (evaluators/proj/image_text/prompt_engineering.py) after the repair."""
    plain = _basic(text).replace("_", " ").translate(NO_PUNCTUATION).lower()
    return " ".join(plain.split())


def lower(text: str) -> str:
    """Repair and unescape a text, join words by single spaces, and lower-case it."""
    return whitespace(text).lower()


def whitespace(text: str) -> str:
    """Repair and unescape a text, and join words by single spaces."""
    return " ".join(_basic(text).split())


OPEN_CLIP: Mapping[str, Callable[[str], str]] = {
    "canonicalize": canonicalize,
    "lower": lower,
    "whitespace": whitespace,
}


def _basic(text: str) -> str:
    return html.unescape(html.unescape(_repair(text))).strip()


def _repair(text: str) -> str:
    """Repair each line until nothing changes. Entities stay from the first "<" on, as it may be
    HTML."""
    if text.isascii() and text.isprintable() and "&" not in text:
        return text
    lines, is_markup = [], False
    for line in re.split("(?<=\n)", text):
        is_markup |= "<" in line
        while (repaired := _repair_once(line, is_markup)) != line:
            line = repaired
        lines.append(line)
    return "".join(lines)


def _repair_once(text: str, is_markup: bool) -> str:
    if not is_markup:
        text = ENTITY.sub(_character, text)
    text = text.translate(_replacements())
    text = LINE_BREAK.sub("\n", text)
    text = TERMINAL_ESCAPE.sub("", text).translate(dict.fromkeys(CONTROLS))
    return unicodedata.normalize("NFC", text)


@cache
def _replacements() -> dict[int, str]:
    """The replacements of single characters: C1 controls by those of Windows-1252, ligatures by
    their letters, wide and narrow forms by the usual ones, curly quotes by straight ones."""
    table = {code: bytes([code]).decode("cp1252", "replace") for code in range(0x80, 0xA0)}
    table = {code: letter for code, letter in table.items() if letter != "\ufffd"}
    table |= {ord(pair): unicodedata.normalize("NFKC", pair) for pair in LIGATURES} | {0xFB05: "ſt"}
    wide = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFF01, 0xFFF0)}
    table |= {code: plain for code, plain in wide.items() if plain != chr(code)} | {0x3000: " "}
    curly = {ord(quote): straight for straight, quotes in QUOTES.items() for quote in quotes}
    return {code: plain.translate(curly) for code, plain in table.items()} | curly


def _character(entity: re.Match[str]) -> str:
    """The character of an entity, which may be written in capitals (`&EACUTE;`)."""
    name = entity[0]
    if name.startswith("&#"):
        plain = html.unescape(name)
        return name if ";" in plain else plain
    return html5.get(name[1:]) or _capitals().get(name, name)


@cache
def _capitals() -> dict[str, str]:
    """The entities that are in HTML in small letters only, in capitals."""
    small = {f"&{name.upper()}": character.upper() for name, character in html5.items()
             if name.endswith(";") and name == name.lower()}  # fmt: skip
    return {name: character for name, character in small.items() if html.unescape(name) == name}
