"""The options for texts to embed. They build `Texts`, and find mistakes before anything loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from vitcli.cli.options.declare import Group, Option
from vitcli.cli.options.words import TextCleanOpt, Tokenizer, idle, lines
from vitcli.errors import UsageError
from vitcli.jobs.texts import Texts, read_texts

TEXT = "VIT_TEXT"
TextOpt = Annotated[
    list[str] | None,
    Option(
        "--text",
        group=Group.INPUTS,
        brief="Embed this text, not images; repeatable.",
        help="Embed this text, not images, with the text tower of a model; repeatable.",
        metavar="TEXT",
        lines="VIT_TEXT",
    ),
]
TextsOpt = Annotated[
    str | None,
    Option(
        "--texts",
        group=Group.INPUTS,
        brief="Embed the lines of a file of texts; - is stdin.",
        help="Embed the texts of a file, one a line; - is standard input.",
        env="VIT_TEXTS",
        metavar="FILE",
    ),
]


def texts(
    text: TextOpt = None,
    texts: TextsOpt = None,
    text_clean: TextCleanOpt = None,
    tokenizer: Tokenizer = None,
) -> Texts | None:
    """The texts to embed; None if there are none. Raises UsageError for options that contradict
    each other or have no effect, and the errors of `read_texts`."""
    several = text or lines(TEXT)
    if several and texts is not None:
        raise UsageError(
            "--text and --texts are both given",
            f"use one of them; the variables {TEXT} and {TEXT}S count, too",
        )
    if not several and texts is None:
        given = {"--text-clean": text_clean, "--tokenizer": tokenizer}
        for option in idle(given):
            raise UsageError(f"{option} has no effect without texts", "add --text TEXT")
        return None
    return Texts(
        texts=tuple(several) if texts is None else read_texts(texts),
        clean=text_clean,
        tokenizer=tokenizer,
        file=None if texts in (None, "-") else Path(str(texts)),
    )
