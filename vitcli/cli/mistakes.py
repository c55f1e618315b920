"""Explain the parser's usage errors: what is wrong in one line, the way out in another."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import Any

from vitcli.errors import UsageError

MAX_COMMAND = 200  # characters of a command that a hint repeats

# What other programs call a command, and an option.
COMMANDS = {
    **dict.fromkeys(("label", "predict", "tag", "infer", "run", "class"), "classify"),
    **dict.fromkeys(("extract", "features", "encode", "embeddings", "index"), "embed"),
    **dict.fromkeys(("find", "query"), "search"),
    **dict.fromkeys(("duplicates", "dups", "twins", "dedup"), "dedupe"),
    **dict.fromkeys(("plot", "umap", "cluster"), "map"),
    **dict.fromkeys(("train", "fit", "tune", "fine-tune"), "finetune"),
    **dict.fromkeys(("eval", "test", "score", "validate"), "evaluate"),
    **dict.fromkeys(("export", "save"), "convert"),
    **dict.fromkeys(("benchmark", "speed"), "bench"),
    **dict.fromkeys(("show", "describe", "inspect"), "info"),
    **dict.fromkeys(("list", "ls"), "models"),
    **dict.fromkeys(("download", "pull"), "models pull"),
    **dict.fromkeys(("heatmap", "attn"), "attention"),
    **dict.fromkeys(("join", "concat"), "merge"),
    **dict.fromkeys(("help",), "--help"),
    **dict.fromkeys(("version",), "--version"),
}
OPTIONS = {
    **dict.fromkeys(("--gpu", "--cuda", "--gpus"), "--device"),
    **dict.fromkeys(("--checkpoint", "--weights", "--arch", "--pretrained"), "--model"),
    **dict.fromkeys(("--output", "--save", "--output-dir"), "--out"),
    **dict.fromkeys(("--threads", "--num-workers", "--jobs", "--n-workers"), "--workers"),
    **dict.fromkeys(("--batch", "--bs", "--batchsize"), "--batch-size"),
    **dict.fromkeys(("--size", "--resolution", "--img-size", "--imgsz"), "--image-size"),
    **dict.fromkeys(("--k", "--top", "--topk", "--num"), "--top-k"),
    **dict.fromkeys(("--force", "--replace", "-f"), "--overwrite"),
    **dict.fromkeys(("--continue",), "--resume"),
    **dict.fromkeys(("--precision", "--fp16", "--half", "--bf16", "--amp"), "--dtype"),
    **dict.fromkeys(("--learning-rate",), "--lr"),
    **dict.fromkeys(("--num-epochs", "-e"), "--epochs"),
    **dict.fromkeys(("--silent",), "--quiet"),
    **dict.fromkeys(("--tome", "--token-merging"), "--merge-tokens"),
    **dict.fromkeys(("--prompt", "--prompts", "--query"), "--text"),
}


PLACES = ("-m", "--model", "-o", "--out")  # what some commands take without an option

# What other programs call a value.
VALUES = {
    **dict.fromkeys(("float16", "half", "f16"), "fp16"),
    **dict.fromkeys(("float32", "float", "full", "f32"), "fp32"),
    **dict.fromkeys(("bfloat16",), "bf16"),
    **dict.fromkeys(("json", "ndjson"), "jsonl"),
    **dict.fromkeys(("numpy",), "npy"),
    **dict.fromkeys(("pytorch",), "torch"),
    **dict.fromkeys(("average", "avg", "gap"), "mean"),
    **dict.fromkeys(("class", "token"), "cls"),
    **dict.fromkeys(("huggingface", "transformers"), "hf"),
}


def explained(error: Any, words: Sequence[str]) -> UsageError:
    """Return the UsageError for a usage error of the parser. `words` are those of the command line,
    without `vit`."""
    context = error.ctx
    match type(error).__name__:
        case "NoSuchOption":
            return no_such_option(error.option_name, context, words)
        case "MissingParameter":
            return _missing(error.param, context)
        case "BadParameter":
            return _bad_value(error, words)
    if match := re.fullmatch(r"No such command '(.*?)'\..*", error.message, re.DOTALL):
        return _no_such_command(match[1], context, words)
    if match := re.fullmatch(r"Got unexpected extra argument\(s\) \((.*)\)", error.message, re.S):
        taken = [p.metavar or p.name for p in context.command.params if _is_argument(p)]
        takes = f"takes {' and '.join(taken)}" if taken else "takes options only"
        return UsageError(
            f"{context.command_path} {takes}, and this is left over: {match[1]}",
            f"quote a name with spaces; {way_out(context)}",
        )
    return UsageError(error.message.rstrip("."), way_out(context))


def way_out(context: Any) -> str:
    """Return the example of a command, or else the command that explains it."""
    path = context.command_path
    found = re.search(rf"{re.escape(path)} \S.*", context.command.help or "")
    return f"for example: {found[0]}" if found else f"{path} --help explains it"


def command_of(words: Iterable[str]) -> str:
    """Return the words as a command for a shell."""
    return shlex.join(["vit", *words])


def options_of(command: Any) -> list[str]:
    """Return the long and short names of a command's options."""
    options = (p for p in command.params if not _is_argument(p) and not p.hidden)
    return [name for param in options for name in (*param.opts, *param.secondary_opts)]


def nearest(name: str, names: Sequence[str], cutoff: float = 0.6) -> str | None:
    """Return the name that is spelled most like another one, if any is."""
    plain = {other.replace("-", "").replace("_", "").lower(): other for other in names}
    same = plain.get(name.replace("-", "").replace("_", "").lower())
    return same or next(iter(get_close_matches(name, names, 1, cutoff)), None)


def no_such_option(name: str, context: Any, words: Sequence[str]) -> UsageError:
    """The error for an option that a command does not have, with the option that is meant."""
    command, path = context.command, context.command_path
    lists = f"{path} --help-all lists the options"
    if getattr(command, "commands", None):
        return _before_the_command(name, command, words)
    names = options_of(command)
    for word in words:  # the parser reads -format as -f ormat
        if word.startswith(name) and not word.startswith("--") and f"-{word}" in names:
            return one_dash(word)
    longs = [*(option for option in names if option.startswith("--")), "--help", "--help-all"]
    other = OPTIONS.get(name)
    near = other if other in names else nearest(name, longs, 0.7)
    siblings = context.parent.command.commands if context.parent else {}
    of_others = [
        key for key, it in siblings.items() if it is not command and name in options_of(it)
    ]
    if near is None and name.startswith("--") and len(name) > 4:
        near = next((option for option in longs if option.startswith(name)), None)
    if of_others and (near is None or near != other):
        where = ", ".join(f"vit {key}" for key in of_others[:3])
        hint = way_out(context) if name in PLACES else lists
        return UsageError(f"{path} has no {name}, which is an option of {where}", hint)
    return UsageError(
        f"{path} has no option {name}", f"did you mean {near}? {lists}" if near else lists
    )


def one_dash(word: str) -> UsageError:
    """The error for an option with a long name and one dash."""
    return UsageError(f"{word} is not an option: long names have two dashes", f"write -{word}")


def _before_the_command(name: str, group: Any, words: Sequence[str]) -> UsageError:
    """The error for `vit -m demo classify photos`."""
    place = next((at for at, word in enumerate(words) if word in group.commands), None)
    if place is None and name == "-v":
        return UsageError("vit has no option -v", "vit --version prints the version")
    if place is None:
        return UsageError(
            f"{name} is given without a command", "vit --help lists the commands, such as classify"
        )
    right = command_of([words[place], *words[place + 1 :], *words[:place]])
    return UsageError(
        f"{name} comes before the command {words[place]}",
        f"options follow the command: {right}"
        if len(right) <= MAX_COMMAND
        else f"options follow the command: vit {words[place]} ... {name} ...",
    )


def _no_such_command(name: str, context: Any, words: Sequence[str]) -> UsageError:
    path, others = context.command_path, [*context.command.commands]
    rest = [word for at, word in enumerate(words) if at != _place(name, words)]
    near = COMMANDS.get(name.lower()) if path == "vit" else None
    if near in ("--help", "--version"):
        right = [*[word for word in rest if word in others][:1], near]
        return UsageError(f"there is no command {name}", f"did you mean: {command_of(right)}")
    near = near or nearest(name, others)
    if near is None and (os.path.lexists(name) or re.search(r"[./\\*]", name)):
        meant = command_of(["classify", *words])
        return UsageError(f"{name} is not a command", f"say what to do with it first: {meant}")
    if near is None:
        return UsageError(
            f"{path} has no command {name}",
            f"it has {', '.join(others)}; {path} --help explains them",
        )
    before = path.split()[1:]
    whole = command_of([*before, *near.split(), *[word for word in rest if word not in before]])
    meant = whole if len(whole) <= MAX_COMMAND else near
    return UsageError(f"there is no command {name}", f"did you mean: {meant}")


def _place(name: str, words: Sequence[str]) -> int:
    return words.index(name) if name in words else -1


def _missing(param: Any, context: Any) -> UsageError:
    """The error for an argument or option that must be given."""
    if _is_argument(param):
        what = param.metavar or (param.name or "").upper()
    else:
        choices = "|".join(map(str, param.type_descriptor.choices or ())) or "VALUE"
        what = f"{param.opts[0]} {param.metavar or choices}"
    return UsageError(f"{context.command_path} needs {what.strip('{}.')}", way_out(context))


def misused(error: Any, command: Any) -> UsageError:
    """The error for an option without its value, or a flag with one: the parser's error does not
    know its command."""
    name = error.option_name
    param = next((p for p in command.params if name in (*p.opts, *p.secondary_opts)), None)
    if "requires" not in error.message:
        return UsageError(f"{name} takes no value", f"give {name} alone")
    value = getattr(param, "metavar", None) or "VALUE"
    return UsageError(f"{name} has no value", f"give one: {name} {value}")


def _bad_value(error: Any, words: Sequence[str]) -> UsageError:
    """The error for a value that an option or argument does not take."""
    param, context = error.param, error.ctx
    details: list[dict[str, Any]] = getattr(error.__cause__, "errors", list)()
    detail = details[0] if details else {}
    kind, limits = detail.get("type", ""), detail.get("ctx") or {}
    value = str(detail.get("input", ""))
    if param is None:
        return UsageError(error.message.rstrip("."), way_out(context))
    name = _as_given(param, context, words)  # with what stands before a value
    given = f"{name}{value}".strip()
    number = {"int": "a whole number", "float": "a number"}.get(kind.partition("_")[0])
    if number is not None:
        return UsageError(f"{given} is not {number}", f"give {number}, such as {name}5")
    for key, words_of in _LIMITS.items():
        if key in limits:
            return UsageError(f"{given}: {words_of[0]}", words_of[1].format(f"{limits[key]:g}"))
    choices = re.findall(r"'((?:[^'\\]|\\.)*)'", error.message.partition(" is not one of ")[2])
    if choices:
        meant = VALUES.get(value.lower())
        prefixed = [choice for choice in choices if value.startswith(choice)]
        near = meant if meant in choices else next(iter(prefixed), nearest(value, choices))
        hint = (
            f"did you mean {name}{near}?"
            if near
            else f"{context.command_path} --help explains them"
        )
        return UsageError(f"{given} is not one of {', '.join(choices)}", hint)
    return UsageError(f"{given}: {error.message.rstrip('.')}", way_out(context))


_LIMITS = {
    "ge": ("the number is too small", "give {} or more"),
    "gt": ("the number is too small", "give more than {}"),
    "le": ("the number is too large", "give {} or less"),
    "lt": ("the number is too large", "give less than {}"),
}


def _as_given(param: Any, context: Any, words: Sequence[str]) -> str:
    """Return what stands before a parameter's value: `-k `, `--top-k `, `VIT_TOP_K=`, or nothing
    for an argument."""
    if _is_argument(param):
        return ""
    given = [word.partition("=")[0] for word in words]
    named = [name for name in (*param.opts, *param.secondary_opts) if name in given]
    short = [name for name in param.opts if len(name) == 2 and any(w[:2] == name for w in given)]
    source = context.get_parameter_source(param.name) if context is not None else None
    if not named and not short and source is not None and source.name == "ENVIRONMENT":
        names = param.envvar if isinstance(param.envvar, list) else [param.envvar]
        return f"{names[0]}="
    return f"{[*named, *short, max(param.opts, key=len)][0]} "


def _is_argument(param: Any) -> bool:
    return bool(param.param_type_name == "argument")
