"""Declare an option: its names and its help, the group of the help that it is in, and whether the
short help shows it. `declared` reads the options of a command back, for help and completion."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from typer.models import ArgumentInfo, OptionInfo

FILE_METAVARS = ("FILE", "MODEL")


class Group(StrEnum):
    """The groups of a command's help, in their order."""

    INPUTS = "Inputs"
    MODEL = "Model"
    TRAINING = "Training"
    MAPS = "Maps"
    TWINS = "Twins"
    OUTPUT = "Output"
    SPEED = "Speed"
    LONG_RUNS = "Long runs"
    TALK = "Talk"


class Option(OptionInfo):
    """An option of the command line.

    A `brief` option is in the short help, too, with `help` or with a shorter text. A hidden one is
    in no help: the command refuses its values by name. `env` is the environment variable that Typer
    reads, `lines` one that the command reads itself, a value a line.
    """

    def __init__(
        self,
        *names: str,
        help: str,
        group: Group,
        brief: bool | str = False,
        env: str | None = None,
        lines: str | None = None,
        **rest: Any,
    ) -> None:
        super().__init__(default=..., param_decls=names, help=help, envvar=env, **rest)
        self.group, self.brief, self.variable = group, _brief(brief, help), env or lines


class Argument(ArgumentInfo):
    """A positional argument. The short help shows all of them."""

    def __init__(
        self, metavar: str, *, help: str, group: Group, brief: bool | str = True, **rest: Any
    ) -> None:
        super().__init__(default=..., metavar=metavar, help=help, **rest)
        self.group, self.brief, self.variable = group, _brief(brief, help), None


def _brief(brief: bool | str, help: str) -> str:
    """The text in the short help; "" for an option that is not in it."""
    return brief if isinstance(brief, str) else help * brief


def as_hidden(annotation: Any) -> Any:
    """The annotation of an option, hidden, and without its environment variable."""
    kind, info = get_args(annotation)
    hidden = copy(info)
    hidden.hidden, hidden.envvar, hidden.variable = True, None, None
    return Annotated[kind, hidden]


@dataclass(frozen=True, slots=True)
class Declared:
    """An option or an argument of a command. `parameter` is its name in Python; an argument has no
    names. `brief` is its text in the short help, "" if it is not in it; `default` is what the help
    says of the default."""

    parameter: str
    names: tuple[str, ...]
    help: str
    group: Group
    brief: str = ""
    is_hidden: bool = False
    is_required: bool = False
    takes_value: bool = False
    takes_file: bool = False
    metavar: str = ""
    choices: tuple[str, ...] = ()
    variable: str | None = None
    default: str = ""

    @property
    def spelling(self) -> str:
        """How it is typed: `-m, --model MODEL`."""
        return " ".join(filter(None, (", ".join(self.names), self.metavar)))


def declared(command: Callable[..., object]) -> list[Declared]:
    """The arguments and the options of a command's function, in their order."""
    parameters = inspect.signature(command, eval_str=True).parameters.values()
    return [one for parameter in parameters if (one := _declared(parameter)) is not None]


def variables_of(command: Any) -> Iterator[str]:
    """Yield the environment variables that a command of the parser and those within it read."""
    yield from (one.variable for one in declared(command.callback) if one.variable)
    for inner in getattr(command, "commands", {}).values():
        yield from variables_of(inner)


def _declared(parameter: inspect.Parameter) -> Declared | None:
    kind, info, *_ = *get_args(parameter.annotation), None, None
    if not isinstance(info, Option | Argument):
        return None
    names = tuple(name for names in info.param_decls or () for name in names.split("/"))
    types = _types_of(kind)
    choices = tuple(c for t in types if get_origin(t) is Literal for c in get_args(t))
    takes_value = bool not in types
    return Declared(
        parameter=parameter.name,
        names=names,
        help=info.help or "",
        group=info.group,
        brief=info.brief,
        is_hidden=info.hidden,
        is_required=parameter.default is inspect.Parameter.empty,
        takes_value=takes_value,
        takes_file=Path in types or info.metavar in FILE_METAVARS,
        metavar=(info.metavar or "|".join(choices)) if takes_value else "",
        choices=choices,
        variable=info.variable,
        default=_default(parameter.default, info, names),
    )


def _types_of(kind: Any) -> list[Any]:
    """The types of a value, without None: the members of a union, and of a list."""
    if get_origin(kind) in (Union, UnionType, list):
        return [t for part in get_args(kind) if part is not NoneType for t in _types_of(part)]
    return [kind]


def _default(value: object, info: Option | Argument, names: tuple[str, ...]) -> str:
    """Return what the help says of the default; "" for nothing."""
    if isinstance(info.show_default, str):
        return info.show_default
    if not info.show_default or value is None or value is inspect.Parameter.empty:
        return ""
    if isinstance(value, bool):
        return names[0 if value else -1] if len(names) > 1 and names[-1].startswith("--no-") else ""
    if isinstance(value, float):
        return f"{value:g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
