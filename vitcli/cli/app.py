"""The table of commands. It does not import torch: a command imports its task when it runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from vitcli import __version__
from vitcli.cli.commands.attention import attention
from vitcli.cli.commands.bench import bench
from vitcli.cli.commands.cache import cache
from vitcli.cli.commands.classify import classify
from vitcli.cli.commands.convert import convert
from vitcli.cli.commands.dedupe import dedupe
from vitcli.cli.commands.embed import embed
from vitcli.cli.commands.evaluate import evaluate
from vitcli.cli.commands.finetune import finetune
from vitcli.cli.commands.info import info
from vitcli.cli.commands.map import map as map_command
from vitcli.cli.commands.merge import merge
from vitcli.cli.commands.models import app as models
from vitcli.cli.commands.reconstruct import reconstruct
from vitcli.cli.commands.search import search
from vitcli.cli.config.command import ConfiguredCommand, configurable
from vitcli.cli.misplaced import placed
from vitcli.cli.mistakes import explained, misused
from vitcli.cli.options.declare import Group, Option
from vitcli.cli.options.help import ALL_NAMES, HELP_NAMES, HelpedGroup, first_line
from vitcli.errors import UsageError, shortened

COMMANDS: Mapping[str, Callable[..., None]] = {
    "classify": classify,
    "embed": embed,
    "search": search,
    "dedupe": dedupe,
    "map": map_command,
    "attention": attention,
    "merge": merge,
    "convert": convert,
    "finetune": finetune,
    "evaluate": evaluate,
    "reconstruct": reconstruct,
    "info": info,
    "bench": bench,
    "cache": cache,
}
WORDS = "vitcli.words"  # the key of the command line in a context
_UsageError: Any = typer.BadParameter.__base__  # the base of all errors in a command line


@contextmanager
def _explained(words: Sequence[str], group: TyperGroup) -> Iterator[None]:
    """Raise the parser's usage errors as errors of vit, which name the way out."""
    try:
        yield
    except _UsageError as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            raise
        if error.ctx is None:
            raise misused(error, group) from None
        raise explained(error, words) from None


class Built(Mapping[str, Any]):
    """The commands by name. Each is built from its function when it is first asked for: a run
    needs one, and the list of commands none."""

    def __init__(self, groups: Mapping[str, Any]) -> None:
        self._built = dict(groups)
        self._names = (*COMMANDS, *groups)

    def __getitem__(self, name: str) -> Any:
        if name not in self._built:
            self._built[name] = _build(name, COMMANDS[name])
        return self._built[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _build(name: str, function: Callable[..., None]) -> Any:
    """Build a command from the signature of its function."""
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command)(configurable(function))
    return typer.main.get_command(alone)


class Vit(HelpedGroup):
    """All commands. Their usage errors look like all other errors."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands: Any = Built(self.commands)

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.commands)

    def summary_of(self, name: str) -> str:
        function = COMMANDS.get(name)
        return first_line(inspect.getdoc(function)) if function else super().summary_of(name)

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        words = list(args)
        with _explained(words, self):
            context = super().make_context(info_name, args, parent, **extra)
        context.meta[WORDS] = words
        return context

    def invoke(self, ctx: Any) -> Any:
        with _explained(ctx.meta[WORDS], self):
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[Any, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, command, placed(command, ctx, rest)


class Command(ConfiguredCommand):
    """Refuses a second model for a command that takes one: the parser would take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        values, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = [option for option in order if option.name == "model" and option.nargs == 1]
        if len(given) > 1 and not getattr(given[0], "multiple", False):
            raise UsageError(
                f"-m is given {len(given)} times, and vit {self.name} takes one model",
                "vit classify and vit evaluate average several",
            )
        if given and isinstance(values.get("positional"), str):
            raise UsageError(
                f"two models are given: {shortened(values['positional'])}, and one with -m",
                "leave out one of them",
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="vit",
    cls=Vit,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": [*HELP_NAMES, *ALL_NAMES]},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"vit {__version__}")
        raise typer.Exit


@app.callback()
def vit(
    version: Annotated[
        bool,
        Option(
            "-V",
            "--version",
            help="Print the version.",
            group=Group.TALK,
            callback=_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Classify folders of images and extract features from them with Vision Transformers.

    The option --help of a command lists the usual options, --help-all every one.

    Examples:
    vit classify ./photos
    vit embed ./photos -o feats.npy
    vit finetune flowers/ -o run/
    """


app.add_typer(models, name="models")
