"""Commands that take options from a config file."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from vitcli.cli.config.current import Current, running
from vitcli.cli.config.file import NAME, VARIABLE, find_file
from vitcli.cli.config.settings import PARSER_ERROR, Settings, read_settings, sources
from vitcli.cli.config.show import config_of_run, shown
from vitcli.cli.config.values import key_of
from vitcli.cli.screen import report
from vitcli.errors import VitError, listed
from vitcli.processes import rank_of

MAX_TOLD = 12  # names in the note

ConfigOpt = Annotated[
    str | None,
    typer.Option(
        "--config",
        help=f"Read options from FILE, not from {NAME} in the working folder; '' reads neither.",
        envvar=VARIABLE,
        metavar="FILE",
    ),
]
ShowConfig = Annotated[
    bool,
    typer.Option(
        "--show-config",
        help="Print the options as a config file, with where each comes from, and exit.",
    ),
]


def configurable(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add --config and --show-config to a command, whose class reads them."""

    @functools.wraps(command)
    def configured(**values: Any) -> Any:
        del values["config"], values["show_config"]
        return command(**values)

    own = inspect.signature(command, eval_str=True).parameters.values()
    more = (("config", ConfigOpt, None), ("show_config", ShowConfig, False))
    parameters = [
        *(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own),
        *(
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind
            )
            for name, kind, default in more
        ),
    ]
    configured.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    configured.__annotations__ = {p.name: p.annotation for p in parameters}
    del configured.__wrapped__  # inspect.signature would prefer it
    return configured


class _Configured:
    """Reads the config file, and gives its values to the parser as defaults. The context keeps the
    settings."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        command: Any = self
        given, _, order = command.make_parser(ctx).parse_args(args=list(args))
        ctx.obj = Settings()
        if any(option.is_eager for option in order):  # --help, whatever the file says
            return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]
        file = find_file(given.get("config")) if _is_configurable(command) else None
        if file is not None:
            ctx.obj = read_settings(file, command, ctx, given)
            ctx.default_map = ctx.obj.values
        if given.get("show_config"):
            _parse_leniently(command, ctx, given)
            print(shown(ctx.obj, command, ctx), end="")
            raise typer.Exit
        return super().parse_args(ctx, args)  # type: ignore[misc, no-any-return]

    def invoke(self, ctx: Any) -> Any:
        settings = ctx.obj
        _tell(settings, ctx)
        by_name = {p.name: source for p, _, source in sources(settings, self, ctx)}
        standing = frozenset(
            n for n, s in by_name.items() if s not in ("option", "argument", "default")
        )
        with running(Current(config_of_run(settings, self, ctx), standing)):
            try:
                return super().invoke(ctx)  # type: ignore[misc]
            except VitError as error:
                settings.explain(error)
                raise


class ConfiguredCommand(_Configured, TyperCommand):
    """A command with --config and --show-config."""


class ConfiguredGroup(_Configured, TyperGroup):
    """A group of commands that is a command itself, with --config and --show-config."""


def _is_configurable(command: Any) -> bool:
    return any(parameter.name == "config" for parameter in command.params)


def _parse_leniently(command: Any, ctx: Any, given: Any) -> None:
    """Set the parameters of a command as its parser does, but let arguments be missing."""
    for parameter in command.get_params(ctx):
        value, source = parameter.consume_value(ctx, given)
        ctx.set_parameter_source(parameter.name, source)
        if parameter.required and parameter.value_is_missing(value):
            ctx.params[parameter.name] = None
        elif parameter.expose_value:
            try:
                ctx.params[parameter.name] = parameter.process_value(ctx, value)
            except PARSER_ERROR as error:
                error.ctx, error.param = ctx, parameter  # for the message
                raise


def _tell(settings: Settings, ctx: Any) -> None:
    """Print a note of the options that a file gives which this command line does not name, unless
    -q is given. Values that are the defaults change nothing and are not named."""
    file = settings.file
    if file is None or file.named_by == "option" or ctx.params.get("quiet"):
        return
    if not rank_of(os.environ).is_first:
        return
    names = [
        key_of(setting.parameter)
        for name, setting in settings.settings.items()
        if ctx.params.get(name) != setting.parameter.default
    ]
    if not names:
        return
    by = f" ({VARIABLE})" if file.named_by == "variable" else ""
    text = f"options from {file.shown}{by}: {listed(names, MAX_TOLD)}"
    if ctx.params.get("log_json"):
        report.log("note", {"message": text})
    else:
        print(f"vit: {text}", file=sys.stderr, flush=True)
