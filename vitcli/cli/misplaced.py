"""Find words of a command line that stand in the wrong place: a model among the images, an output
without -o. What has one meaning is understood; else the error is the command that is meant."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import typer

from vitcli.cli.mistakes import command_of, misused, one_dash, options_of
from vitcli.cli.screen import report
from vitcli.errors import UsageError, printable

ARRAYS = (".npy", ".npz", ".safetensors")  # of `vit embed`: neither an image nor a list of images
OUTPUTS = {
    "classify": (".jsonl", ".csv", ".tsv", ".parquet", ".html"),
    "embed": (*ARRAYS, ".parquet", ".jsonl"),
    "search": (".jsonl", ".csv", ".tsv", ".parquet", ".html"),
    "dedupe": (".jsonl", ".csv", ".tsv", ".parquet", ".html"),
    "map": (".html", ".jsonl", ".csv", ".tsv", ".parquet"),
    "merge": (".jsonl", ".csv", ".tsv", *ARRAYS),
}
WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".ckpt", ".npz")
LONG_DASHES = ("\u2013", "\u2014", "\u2212")  # en dash, em dash, minus sign
_UsageError: Any = typer.BadParameter.__base__


def placed(command: Any, context: Any, words: list[str]) -> list[str]:
    """Return the words of a command with a misplaced model behind -m. Raises UsageError for other
    misplaced words, with the command that is meant."""
    for word in words:
        if word.startswith(LONG_DASHES) and not os.path.lexists(word):
            raise UsageError(
                f"{word} begins with a long dash, as word processors write it",
                f"type hyphens: --{word.lstrip(''.join(LONG_DASHES))}",
            )
        if re.match(r"-[a-z][a-z-]+$", word) and f"-{word}" in options_of(command):
            raise one_dash(word)
    own = command.context_class(command, info_name=command.name, parent=context)
    try:
        values, extra, order = command.make_parser(own).parse_args(args=list(words))
    except _UsageError as error:
        if type(error).__name__ == "BadOptionUsage":
            raise misused(error, command) from None
        return words  # the command's own parser raises it, with its context
    given = {option.name for option in order}
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    inputs = [*(word for p in arguments for word in _words(values.get(p.name))), *extra]
    options = {p.name: p for p in command.params if p.param_type_name != "argument"}
    for first, second in pairwise(inputs):
        if os.path.lexists(f"{first} {second}") and not os.path.lexists(first):
            at = words.index(first)
            right = [command.name, *words[:at], f"{first} {second}", *words[at + 2 :]]
            raise UsageError(
                f"{first} {second} has a space, and came as two names",
                f"quote it: {command_of(right)}",
            )
    if not inputs or any(word in ("-", "--") for word in words):
        return words
    if command.name == "bench" and len(inputs) == 2 and "on" not in given:
        right = [command.name, *_without(words, inputs[1]), "--on", inputs[1]]
        raise UsageError(
            f"vit bench takes one MODEL; --on names the images: {inputs[1]}",
            f"did you mean: {command_of(right)}",
        )
    if "out" in options and "out" not in given and not _from_environment(options["out"]):
        if command.name == "finetune" and len(inputs) == 2 and "model" in given:
            raise _is_output(command.name, words, inputs[-1], "-o")
        _check_output(command.name, words, inputs)
    if any(p.name == "positional" for p in arguments):  # vit info MODEL is vit info -m MODEL
        is_model = "model" not in given and len(inputs) == 1
        return [*_without(words, inputs[0]), "-m", inputs[0]] if is_model else words
    takes_model = "model" in options and "model" not in given
    if takes_model and not _from_environment(options["model"]):
        return _with_model(command.name, words, inputs, given)
    return words


def _check_output(name: str, words: Sequence[str], inputs: Sequence[str]) -> None:
    """Raise UsageError if the last input is the output of a forgotten -o."""
    last, suffix = inputs[-1], Path(inputs[-1]).suffix.lower()
    if len(inputs) < 2 or suffix not in OUTPUTS.get(name, ()) or _is_pattern(last):
        return
    is_there = os.path.lexists(last)
    if is_there and (suffix not in ARRAYS or name != "embed"):
        return
    option = "--html" if suffix == ".html" and name != "map" else "-o"
    raise _is_output(name, words, last, option)


def _is_output(name: str, words: Sequence[str], last: str, option: str) -> UsageError:
    """The error for an output without its option."""
    is_there = os.path.lexists(last)
    right = [
        name,
        *_without(words, last),
        option,
        last,
        *(["--overwrite"] if Path(last).is_file() else []),
    ]
    what = "is not an input" if is_there else "does not exist"
    return UsageError(
        f"{last} {what}; {option} names the output", f"did you mean: {command_of(right)}"
    )


def _with_model(
    name: str, words: list[str], inputs: Sequence[str], given: Collection[str]
) -> list[str]:
    """Return the words with the first input as the model, if it is one."""
    first, *others = inputs
    right = [*_without(words, first), "-m", first]
    if not os.path.lexists(first):
        if not _is_known_model(first):
            return words
        if not others:
            raise UsageError(
                f"{first} is a model, and no images are given",
                f"for example: {command_of([name, 'photos', *right])}",
            )
        _note(f"{first} is a model: it is taken as -m {first}", given)
        return right
    is_weights = Path(first).suffix in WEIGHTS and Path(first).is_file()
    if is_weights or (Path(first) / "config.json").is_file():
        if not others:
            right = [*right[:-2], "photos", *right[-2:]]
        raise UsageError(
            f"{first} holds a model, not images", f"did you mean: {command_of([name, *right])}"
        )
    return words


def _is_known_model(text: str) -> bool:
    """Whether a text is `demo`, the id of a well-known model, or a timm name."""
    if text == "demo":
        return True
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+(@[\w./-]+)?)?", text):
        return False
    from vitcli.checkpoints.catalogue import is_known

    return is_known(text)


def _words(value: Any) -> list[str]:
    """Return the words of an argument's value."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)


def _without(words: Sequence[str], word: str) -> list[str]:
    """Return the words without the last one that equals `word`."""
    place = len(words) - 1 - list(reversed(words)).index(word)
    return [*words[:place], *words[place + 1 :]]


def _is_pattern(text: str) -> bool:
    return re.search(r"[*?{\[]|://", text) is not None


def _from_environment(param: Any) -> bool:
    names = [param.envvar] if isinstance(param.envvar, str) else param.envvar or []
    return any(os.environ.get(name) for name in names)


def _note(text: str, given: Collection[str]) -> None:
    """Print a note, unless the options that are given or the environment ask for silence."""
    if "quiet" in given or os.environ.get("VIT_QUIET"):
        return
    if "log_json" in given or os.environ.get("VIT_LOG_JSON"):
        report.log("note", {"message": text})
    else:
        print(f"vit: {printable(text)}", file=sys.stderr, flush=True)
