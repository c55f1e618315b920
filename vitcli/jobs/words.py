"""The classes that a user gives in words, and the texts that templates make of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias, get_args

from vitcli.errors import UsageError, is_utf8, listed
from vitcli.jobs.class_lists import WordClass, classes_of, shown
from vitcli.records import TextClean

TemplateSet = Literal["simple", "openai", "none"]
Classes: TypeAlias = str | Sequence[str] | Mapping[str, str | Sequence[str]]
"""A text like that of `--classes`, the names, or the phrases of each name."""

DEFAULT_TEMPLATES = ("a photo of a {}.",)
SLOT = "{}"
_HINT = "write {} where the class belongs: 'a photo of a {}.'"


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """The classes of a run in the order of their indices, and how they become texts.

    `clean=None` cleans texts as the model's library does; `tokenizer=None` takes the model's.
    `file` is the file that names the classes; rows depend on its classes only.
    Raises UsageError for no class, an empty or a repeated one, and for a template without `{}`.
    """

    classes: tuple[WordClass, ...]
    templates: tuple[str, ...] = DEFAULT_TEMPLATES
    clean: TextClean | None = None
    tokenizer: str | None = None
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not self.classes:
            raise UsageError("no classes are given", 'name them: --classes "cat, dog, a red car"')
        for number, one in enumerate(self.classes):
            _check_class(one, number)
        for name, times in Counter(self.labels).items():
            if times > 1:
                raise UsageError(f"the class {shown(name)} is given {times} times", "name it once")
        if not self.templates:
            raise UsageError("no template is given", f"leave it out for {DEFAULT_TEMPLATES[0]!r}")
        for template in self.templates:
            _check_template(template)
        self.check_texts(str)

    @property
    def labels(self) -> tuple[str, ...]:
        """The name of each class."""
        return tuple(one.name for one in self.classes)

    def files_read(self) -> Iterator[tuple[Path, str]]:
        """The files that are read for the classes, and the option of each."""
        if self.file is not None:
            yield self.file, "the file of --classes-file"
        if self.tokenizer is not None:
            yield Path(self.tokenizer), "the file of --tokenizer"

    def prompts(self, one: WordClass) -> tuple[str, ...]:
        """The texts of a class: each phrase in each template, in order, each text once."""
        filled = (t.replace(SLOT, phrase) for phrase in one.phrases for t in self.templates)
        return tuple(dict.fromkeys(filled))

    def check_texts(self, seen: Callable[[str], Hashable]) -> None:
        """Raise UsageError for a phrase of which the model sees nothing, and for two classes whose
        texts are equal to it, which would have equal scores. `seen` returns what the model sees of
        a text: cleaned, or its tokens."""
        nothing, found = seen(""), dict[Hashable, str]()
        for one in self.classes:
            for phrase in one.phrases:
                if seen(phrase) == nothing:
                    raise UsageError(
                        f"the model sees nothing of {shown(phrase)} (class {shown(one.name)})",
                        "describe the class in other words, or use --text-clean none",
                    )
            texts = frozenset(Counter(map(seen, self.prompts(one))).items())
            other = found.setdefault(texts, one.name)
            if other != one.name:
                raise UsageError(
                    f"the classes {shown(other)} and {shown(one.name)} are the same text for "
                    "the model, and would have equal scores",
                    "leave one of them out, or describe it with another phrase",
                )


def words_of(
    classes: Classes | None,
    *,
    templates: str | Sequence[str] | None = None,
    clean: TextClean | None = None,
    tokenizer: str | None = None,
) -> Words | None:
    """The classes of a run from values of Python; None if there are none. `templates` are the name
    of a set or the templates themselves. Raises UsageError, like `Words`."""
    if classes is None:
        given = {"templates": templates, "text_clean": clean, "tokenizer": tokenizer}
        for name in (name for name in given if given[name] is not None):
            raise UsageError(f"{name} has no effect without classes", "add classes=[...]")
        return None
    if clean is not None and clean not in get_args(TextClean):
        raise UsageError(f"text_clean={clean!r}", f"give one of {_choices(TextClean)}")
    return Words(
        classes=classes_of(classes),
        templates=templates_of(templates),
        clean=clean,
        tokenizer=tokenizer,
    )


def templates_of(templates: str | Sequence[str] | None) -> tuple[str, ...]:
    """The templates of a set (simple, openai, none), or those given; by default `a photo of a {}.`
    Raises UsageError for an unknown set."""
    if templates is None:
        return DEFAULT_TEMPLATES
    if templates == "none":
        return (SLOT,)
    if not isinstance(templates, str):
        for template in templates:
            if not isinstance(template, str):
                raise UsageError(f"{shown(str(template))} is in the place of a template", _HINT)
        return tuple(templates)
    if templates not in get_args(TemplateSet):
        if SLOT in templates:
            return (templates,)
        raise UsageError(
            f"{shown(templates)} is not a set of templates",
            f"give one of {_choices(TemplateSet)}, or templates such as {DEFAULT_TEMPLATES[0]!r}",
        )
    from importlib.resources import files  # slow to import, for `vit --help`

    text = files("vitcli.jobs").joinpath("templates", f"{templates}.txt").read_text("utf-8")
    return tuple(line for line in text.splitlines() if not line.startswith("#"))


def _check_class(one: WordClass, number: int) -> None:
    if not one.name.strip():
        raise UsageError(f"the class with index {number} is empty", "name each class")
    if not one.phrases:
        raise UsageError(f"the class {shown(one.name)} has no phrase", "give one after its name")
    for text in (one.name, *one.phrases):
        if not text.strip():
            raise UsageError(f"the class {shown(one.name)} has an empty phrase", "leave it out")
        if not is_utf8(text):
            raise UsageError(f"the class {shown(one.name)} is not UTF-8 text")


def _check_template(template: str) -> None:
    rest = template.replace(SLOT, "")
    if SLOT not in template or "{" in rest or "}" in rest:
        what = "has no {}" if SLOT not in template else "has other braces than {}"
        raise UsageError(
            f"the template {shown(template)} {what}",
            _HINT,
        )
    if not is_utf8(template):
        raise UsageError(f"the template {shown(template)} is not UTF-8 text")


def _choices(literal: object) -> str:
    return listed(get_args(literal), len(get_args(literal)))
