"""Turn the values of a config file into those that the parser of the command line would read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from vitcli.files import at_home

NOT_IN_FILE = ("config", "show_config")  # options that say which file is read
NUMBER = re.compile(r"\b(N|ROW)\b")  # in the metavar of an option whose text may be a number
MANY = ",..."  # ends the metavar of an option whose text is a list
WORDS = ("TEXT", "EXPR", "PATTERN")  # metavars of texts in which a ~ is only a letter


class Unfit(ValueError):
    """The value has the wrong type; the message says what the option takes."""


def keys_of(command: Any) -> dict[str, tuple[Any, bool]]:
    """The keys of a command's table, each with its parameter and whether the value is negated, as
    that of `no-norm`. An argument has a key if the command has no other argument."""
    keys: dict[str, tuple[Any, bool]] = {}
    options = (p for p in command.params if p.param_type_name == "option" and not p.is_eager)
    for option in options:
        if option.name not in NOT_IN_FILE:
            keys |= {name: (option, False) for name in _long(option.opts)}
            keys |= {name: (option, True) for name in _long(option.secondary_opts)}
    arguments = arguments_of(command)
    if len(arguments) == 1:
        [(name, argument)] = arguments.items()
        keys.setdefault(name, (argument, False))
    return keys


def arguments_of(command: Any) -> dict[str, Any]:
    """The arguments of a command, by the names in its help: `inputs` for INPUTS..."""
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    return {(p.metavar or p.name).strip("[].").lower(): p for p in arguments}


def key_of(parameter: Any) -> str:
    """The key of a parameter: its longest name, or the name of an argument."""
    if parameter.param_type_name == "argument":
        return str((parameter.metavar or parameter.name).strip("[].").lower())
    return max(_long(parameter.opts), key=len, default=parameter.name)


def _long(names: list[str]) -> Iterator[str]:
    yield from (name[2:] for name in names if name.startswith("--"))


def is_repeatable(parameter: Any) -> bool:
    """Whether a parameter takes several values."""
    return bool(getattr(parameter, "multiple", False)) or parameter.nargs == -1


def parser_value(parameter: Any, value: object, *, negated: bool = False) -> Any:
    """The value that the parser would read for a value of a config file. Raises Unfit."""
    if getattr(parameter, "is_flag", False):
        if not isinstance(value, bool):
            raise Unfit("true or false, without quotes")
        return value is not negated
    if is_repeatable(parameter):
        several = value if isinstance(value, list) else [value]
        return [_one(parameter, item) for item in several]
    metavar = parameter.metavar or ""
    if isinstance(value, list) and metavar.endswith(MANY):
        return ",".join(str(_one(parameter, item)) for item in value)
    if metavar == "[ADDRESS]" and value is True:
        return "auto"  # `--ray` alone
    return _one(parameter, value)


def _one(parameter: Any, value: object) -> Any:
    """A single value, checked for its type alone: the parser checks it further."""
    kind = parameter.type_descriptor.annotation
    metavar = parameter.metavar or ""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    if kind is int:
        if not is_whole:
            raise Unfit("a whole number, without quotes")
        return str(value)
    if kind is float:
        if not is_whole and not isinstance(value, float):
            raise Unfit("a number, without quotes")
        return str(value)
    if isinstance(value, str):
        is_path = value.startswith("~/") and metavar not in WORDS
        return str(at_home(value)) if is_path else value
    if is_whole and NUMBER.search(metavar):
        return str(value)
    if is_repeatable(parameter):
        raise Unfit('a list of texts in quotes, such as ["a", "b"]')
    more = " or a whole number" if NUMBER.search(metavar) else ""
    raise Unfit(f"a text in quotes{more}")
