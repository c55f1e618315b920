"""The table of commands. It does not import torch: a command imports its task when it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from vitcli.errors import UsageError

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


class Vit(TyperGroup):
    """All commands. Their usage errors look like all other errors."""

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
        *_, order = self.make_parser(ctx).parse_args(args=list(args))
        given = [option for option in order if option.name == "model" and option.nargs == 1]
        if len(given) > 1 and not getattr(given[0], "multiple", False):
            raise UsageError(
                f"-m is given {len(given)} times, and vit {self.name} takes one model",
                "vit classify and vit evaluate average several",
            )
        return super().parse_args(ctx, args)


app = typer.Typer(
    name="vit",
    cls=Vit,
    help="Classify folders of images and extract features from them with Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def _version(asked: bool) -> None:
    if asked:
        print(f"vit {__version__}")
        raise typer.Exit


@app.callback()
def vit(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Classify folders of images and extract features from them with Vision Transformers."""


app.command(cls=Command)(configurable(classify))
app.command(cls=Command)(configurable(embed))
app.command(cls=Command)(configurable(search))
app.command(cls=Command)(configurable(dedupe))
app.command("map", cls=Command)(configurable(map_command))
app.command(cls=Command)(configurable(attention))
app.command(cls=Command)(configurable(merge))
app.command(cls=Command)(configurable(convert))
app.command(cls=Command)(configurable(finetune))
app.command(cls=Command)(configurable(evaluate))
app.command(cls=Command)(configurable(reconstruct))
app.command(cls=Command)(configurable(info))
app.command(cls=Command)(configurable(bench))
app.command(cls=Command)(configurable(cache))
app.add_typer(models, name="models")
