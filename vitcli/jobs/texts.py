"""The texts of `vit embed`: from the command line, a file with a text a line, or Python."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args

from vitcli.errors import UsageError, is_utf8, listed
from vitcli.jobs.class_lists import shown
from vitcli.jobs.text_files import lines_of, read_text_file
from vitcli.records import TextClean

OPTION = "--texts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Texts:
    """The texts to embed, in order, and how they become tokens.

    `clean=None` cleans texts as the model's library does; `tokenizer=None` takes the model's.
    `file` is the file that has the texts. Raises UsageError for no text, and for a blank one.
    """

    texts: tuple[str, ...]
    clean: TextClean | None = None
    tokenizer: str | None = None
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.texts:
            raise UsageError("no texts are given", 'give one: --text "a red car"')
        for number, text in enumerate(self.texts, start=1):
            if not isinstance(text, str):
                raise UsageError(f"text {number} is {type(text).__name__}", "give a list of texts")
            if not text.strip():
                raise UsageError(f"text {number} is blank", "leave it out")
            if not is_utf8(text):
                raise UsageError(f"the text {shown(text)} is not UTF-8")
        if self.clean is not None and self.clean not in get_args(TextClean):
            known = listed(get_args(TextClean), len(get_args(TextClean)))
            raise UsageError(f"text_clean={self.clean!r}", f"give one of {known}")

    def files_read(self) -> Iterator[tuple[Path, str]]:
        """The files that are read for the texts, and the option of each."""
        if self.file is not None:
            yield self.file, f"the file of {OPTION}"
        if self.tokenizer is not None:
            yield Path(self.tokenizer), "the file of --tokenizer"


def read_texts(name: str) -> tuple[str, ...]:
    """Read a file, or standard input (`-`), with a text a line: the line as it is, without its end.

    Raises the errors of `read_text_file` and `lines_of`, and UsageError for a file without texts.
    """
    where = f"{'standard input' if name == '-' else name} ({OPTION})"
    hint = "a line is a row: give it a text, or remove it"
    lines = lines_of(read_text_file(name, OPTION), where, hint)
    if not lines:
        raise UsageError(f"{where} has no texts", "give a text a line")
    return tuple(lines)


def texts_of(
    texts: str | Sequence[str] | None,
    *,
    clean: TextClean | None = None,
    tokenizer: str | None = None,
) -> Texts | None:
    """The texts of a run from values of Python; None if there are none. Raises UsageError, like
    `Texts`."""
    if texts is None:
        for name, value in (("text_clean", clean), ("tokenizer", tokenizer)):
            if value is not None:
                raise UsageError(f"{name} has no effect without texts", "add texts=[...]")
        return None
    several = (texts,) if isinstance(texts, str) else tuple(texts)
    return Texts(texts=several, clean=clean, tokenizer=tokenizer)
