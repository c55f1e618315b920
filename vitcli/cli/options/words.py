"""The options for classes in words. They build `Words`, and find mistakes before anything loads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from vitcli.cli.config.current import current
from vitcli.errors import UsageError
from vitcli.jobs.class_lists import classes_in, read_classes
from vitcli.jobs.words import TemplateSet, Words, templates_of
from vitcli.records import TextClean

# Typer splits the variable of a repeatable option at spaces, which texts contain: these are read
# here, one value a line.
CLASSES, TEMPLATE = "VIT_CLASSES", "VIT_TEMPLATE"

ClassesOpt = Annotated[
    list[str] | None,
    typer.Option(
        "--classes",
        help='Classes in words, for a model with a text tower: "cat, dog, a red car"; repeatable. '
        f"(env var: {CLASSES})",
        metavar="TEXT",
    ),
]
ClassesFile = Annotated[
    Path | None,
    typer.Option(
        "--classes-file",
        help="Classes from a file: one a line, as `name` or `name: phrase, phrase`; or JSON.",
        envvar="VIT_CLASSES_FILE",
        metavar="FILE",
    ),
]
Template = Annotated[
    list[str] | None,
    typer.Option(
        "--template",
        help="Text in which {} stands for a class; repeat to average several. Default: "
        f"a photo of a {{}}. (env var: {TEMPLATE})",
        metavar="TEXT",
    ),
]
TemplatesOpt = Annotated[
    TemplateSet | None,
    typer.Option(
        "--templates",
        help="Average CLIP's 7 (simple) or 80 (openai) templates; none takes the class alone.",
        envvar="VIT_TEMPLATES",
        show_default=False,
    ),
]
TextCleanOpt = Annotated[
    TextClean | None,
    typer.Option(
        "--text-clean",
        help="Clean the texts as this library does, not as the model's own.",
        envvar="VIT_TEXT_CLEAN",
        show_default=False,
    ),
]
Tokenizer = Annotated[
    str | None,
    typer.Option(
        "--tokenizer",
        help="Take the tokenizer of this hub id, folder or file, not the model's.",
        envvar="VIT_TOKENIZER",
        metavar="MODEL",
    ),
]


def words(
    classes: ClassesOpt = None,
    classes_file: ClassesFile = None,
    template: Template = None,
    templates: TemplatesOpt = None,
    text_clean: TextCleanOpt = None,
    tokenizer: Tokenizer = None,
) -> Words | None:
    """The classes in words; None if there are none. Raises UsageError for options that contradict
    each other or have no effect, and the errors of `read_classes`."""
    texts = classes or lines(CLASSES)
    if texts and classes_file is not None:
        raise UsageError(
            "--classes and --classes-file are both given",
            f"use one of them; the variables {CLASSES} and {CLASSES}_FILE count, too",
        )
    if not texts and classes_file is None:
        given = {"--templates": templates, "--text-clean": text_clean, "--tokenizer": tokenizer}
        for option in idle({"--template": template or None, **given}):
            raise UsageError(f"{option} has no effect without classes", "add --classes TEXT")
        return None
    several = template or lines(TEMPLATE)
    if several and templates is not None:
        raise UsageError(
            "--template and --templates are both given",
            f"use one of them; the variables {TEMPLATE} and {TEMPLATE}S count, too",
        )
    return Words(
        classes=classes_in(texts) if classes_file is None else read_classes(classes_file),
        templates=templates_of(several or templates),
        clean=text_clean,
        tokenizer=tokenizer,
        file=classes_file,
    )


def idle(given: Mapping[str, object]) -> list[str]:
    """The options that have a value from the command line, not from a variable or a file."""
    standing = current().standing
    return [
        name
        for name, value in given.items()
        if value is not None and name[2:].replace("-", "_") not in standing
    ]


def lines(variable: str) -> list[str]:
    """The lines of an environment variable that are not blank."""
    return [line for line in os.environ.get(variable, "").splitlines() if line.strip()]
