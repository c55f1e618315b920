"""The options that a config file gives to a command, checked, and without those that an option or
a variable replaces."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import typer

from vitcli.cli.config.file import IGNORE, ConfigFile
from vitcli.cli.config.values import (
    Unfit,
    arguments_of,
    is_repeatable,
    key_of,
    keys_of,
    parser_value,
)
from vitcli.cli.options.texts import TEXT
from vitcli.cli.options.words import CLASSES, TEMPLATE
from vitcli.errors import UsageError, VitError, printable, shortened

PARSER_ERROR: Any = typer.BadParameter.__base__  # the base of all errors in a command line

LINES = {"classes": CLASSES, "template": TEMPLATE, "text": TEXT}
"""Options whose variables have a value on each line; the commands read them, not the parser."""

_SOURCES = (
    ("text", "texts", "inputs", "files-from"),
    ("classes", "classes-file"),
    ("template", "templates"),
    ("layer", "layers"),
    ("device", "devices", "ray"),
    ("max-errors", "on-error"),
    ("paths-only", "format"),
    ("paths-only", "html"),
    ("overwrite", "resume"),
)
"""Options that say the same thing, or exclude each other: one of them that is given as an option or
a variable replaces the others in the file."""

NAMED_ONLY = ("overwrite", "clear", "allow-outside", "ray")
"""Options that a file in the working folder cannot set: it may have come with a download. They
replace or remove files, read files elsewhere, or run what a cluster sends."""
OUTPUTS = ("out", "html", "summary")


@dataclass(frozen=True, slots=True)
class Setting:
    """An option from the file: its key as it is written there, its parameter, the value that the
    parser gets, and the line."""

    key: str
    parameter: Any
    value: Any
    line: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """The options that the file gives to a command, by the names of their parameters."""

    file: ConfigFile | None = None
    table: str = ""
    settings: Mapping[str, Setting] = field(default_factory=dict)

    @property
    def values(self) -> dict[str, Any]:
        return {name: setting.value for name, setting in self.settings.items()}

    def place(self, name: str) -> str:
        """Where the value of a parameter is written: `vit.toml:3`."""
        assert self.file is not None
        line = self.settings[name].line
        return self.file.shown + (f":{line}" if line else "")

    def error(self, name: str, message: str, hint: str | None = None) -> UsageError:
        """The error for the value of a parameter, which names the file, the table and the key."""
        key = self.settings[name].key
        return UsageError(f"{self.place(name)}: {key} in [{self.table}]: {message}", hint)

    def explain(self, error: VitError) -> None:
        """Add to an error which key of the file it speaks of, if it names one: by its option, or
        by its value."""
        told = f"{error.message} {error.hint or ''}"
        for name, setting in self.settings.items():
            option = rf"--{re.escape(key_of(setting.parameter))}(?![\w-])"
            value = setting.value if isinstance(setting.value, str) else ""
            is_named = len(value) > 2 and re.search(rf"(?<!\w){re.escape(value)}(?!\w)", told)
            if re.search(option, told) or is_named:
                where = f"{setting.key} is set in {self.place(name)}"
                error.hint = shortened(f"{error.hint}; {where}" if error.hint else where)
                break


def read_settings(
    file: ConfigFile, command: Any, context: Any, given: Mapping[str, Any]
) -> Settings:
    """The settings of a command. `given` has the options of the command line, by parameter. Raises
    UsageError for a table or a key that is not known, and for a value that its option refuses."""
    path = _path_of(context)
    table = _table_of(file, context, path)
    lines = file.lines_of(path) if table else {}
    keys, nested = keys_of(command), getattr(command, "commands", {})
    settings: dict[str, Setting] = {}
    made = Settings(file, ".".join(path), settings)
    for written, value in table.items():
        if written in nested and isinstance(value, dict):
            continue  # the table of a command below this one: [models.pull]
        key = written.replace("_", "-")
        if key not in keys:
            raise _unknown(file, written, lines.get(written), path, keys, command)
        parameter, negated = keys[key]
        name = parameter.name
        if name in settings:
            other = settings[name].key
            raise UsageError(f"{file.shown}: [{made.table}] has {other} and {written}", "use one")
        settings[name] = Setting(written, parameter, None, lines.get(written))
        try:
            read = parser_value(parameter, value, negated=negated)
        except Unfit as unfit:
            raise made.error(name, f"it takes {unfit}, not {_shown(value)}") from None
        settings[name] = Setting(written, parameter, read, lines.get(written))
        _check(made, name, context)
    replaced = _replaced(command, context, given)
    kept = {name: s for name, s in settings.items() if name not in replaced}
    return Settings(file, made.table, {**kept})


def _path_of(context: Any) -> tuple[str, ...]:
    """The names of a command, without `vit`: ("models", "pull")."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return tuple(names)


def _table_of(file: ConfigFile, context: Any, path: Sequence[str]) -> Mapping[str, Any]:
    """The table of a command. Raises UsageError for a table that no command has, and for a key
    outside of all tables."""
    root = context.find_root()
    commands = root.command.list_commands(root)
    for name, value in file.tables.items():
        if not isinstance(value, dict):
            place = _line(file, file.lines_of(()).get(name))
            raise UsageError(
                f"{place}: {printable(name)} is outside of a table",
                f"write it below the name of its command, such as [{path[0]}]" + _or_ignore(file),
            )
        if name not in commands:
            near = _nearest(name, commands)
            place = _line(file, file.lines_of(()).get(name))
            raise UsageError(
                f"{place}: [{printable(name)}] is not a command of vit",
                (f"did you mean [{near}]?" if near else f"tables are {', '.join(commands)}")
                + _or_ignore(file),
            )
    table: Any = file.tables
    for name in path:
        table = table.get(name, {}) if isinstance(table, dict) else {}
    return table if isinstance(table, dict) else {}


def _unknown(
    file: ConfigFile,
    written: str,
    line: int | None,
    path: Sequence[str],
    keys: Mapping[str, Any],
    command: Any,
) -> UsageError:
    """The error for a key that the command has not."""
    name = " ".join(path)
    message = f"{_line(file, line)}: vit {name} has no option {printable(written)}"
    short = {
        option.lstrip("-"): key_of(p)
        for p in command.params
        for option in p.opts
        if len(option) == 2
    }
    if written in short:
        return UsageError(message, f"write its long name: {short[written]}")
    if written in arguments_of(command) or written in ("config", "show-config", "help", "version"):
        return UsageError(message.replace("option", "key"), "give it on the command line")
    near = _nearest(written.replace("_", "-"), [*keys])
    return UsageError(message, f"did you mean {near}?" if near else f"vit {name} --help lists them")


def _nearest(name: str, known: Sequence[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), known, 1, 0.5)), None)


def _line(file: ConfigFile, line: int | None) -> str:
    return file.shown + (f":{line}" if line else "")


def _or_ignore(file: ConfigFile) -> str:
    return f"; {IGNORE}" if file.named_by == "nobody" else ""


def _check(settings: Settings, name: str, context: Any) -> None:
    """Raise UsageError for a value that the parser would refuse, or that only a file with a name
    may have."""
    setting = settings.settings[name]
    try:
        setting.parameter.process_value(context, setting.value)
    except PARSER_ERROR as error:
        raise settings.error(name, str(error.message).removeprefix("Value error, ")) from None
    assert settings.file is not None
    key, value = key_of(setting.parameter), setting.value
    is_remote = key in OUTPUTS and "://" in str(value)
    if settings.file.named_by == "nobody" and value and (key in NAMED_ONLY or is_remote):
        what = f"{key} to a URL" if is_remote else key
        raise settings.error(
            name,
            f"{what} is read only from a file that you name",
            f"--config {settings.file.shown} names it, or give --{key}; {IGNORE}",
        )


def _replaced(command: Any, context: Any, given: Mapping[str, Any]) -> set[str]:
    """The parameters whose values in the file do not count: an option or a variable gives them, or
    an option that replaces them."""
    present = {p.name: key_of(p) for p in command.params if _is_given(p, context, given)}
    names = {key_of(p): p.name for p in command.params}
    replaced = set(present)
    for group in _SOURCES:
        if not {*group}.isdisjoint(present.values()):
            replaced |= {names[key] for key in group if key in names}
    if "out" in present.values() and "format" in names:
        replaced.add(names["format"])  # the suffix of a new name says the format
    return replaced


def _is_given(parameter: Any, context: Any, given: Mapping[str, Any]) -> bool:
    """Whether an option of the command line, or a variable, gives the value of a parameter."""
    value = given.get(parameter.name)
    if value is not None and not (is_repeatable(parameter) and not value):
        return True
    has_lines = bool(os.environ.get(LINES.get(parameter.name, ""), "").strip())
    return has_lines or parameter.value_from_envvar(context) is not None


def _shown(value: object) -> str:
    """A value of TOML, for a message."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{printable(shortened(value, 40))}"'
        case list():
            return "a list"
        case dict():
            return "a table"
    return printable(str(value))


def sources(settings: Settings, command: Any, context: Any) -> Iterator[tuple[Any, Any, str]]:
    """Each parameter of a command that has been parsed, its value, and where that comes from."""
    for parameter in command.params:
        name = parameter.name
        if parameter.is_eager or name not in context.params or name in ("config", "show_config"):
            continue
        value, source = context.params[name], context.get_parameter_source(name).name
        variable = LINES.get(name)
        if source == "DEFAULT" and variable and os.environ.get(variable, "").strip():
            texts = os.environ[variable].splitlines()
            yield parameter, [t for t in texts if t.strip()], f"variable {variable}"
        elif source == "ENVIRONMENT":
            yield parameter, value, f"variable {parameter.envvar}"
        elif source == "DEFAULT_MAP" and name in settings.settings:
            yield parameter, value, settings.place(name)
        else:
            told = source == "COMMANDLINE"
            yield parameter, value, parameter.param_type_name if told else "default"
