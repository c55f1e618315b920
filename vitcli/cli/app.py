"""The table of commands. It imports no torch: a command's work is imported when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from vitcli import __version__
from vitcli.cli.attention import attention
from vitcli.cli.bench import bench
from vitcli.cli.classify import classify
from vitcli.cli.convert import convert
from vitcli.cli.embed import embed
from vitcli.cli.evaluate import evaluate
from vitcli.cli.finetune import finetune
from vitcli.cli.info import info
from vitcli.cli.merge import merge
from vitcli.cli.models import app as models
from vitcli.cli.reconstruct import reconstruct

app = typer.Typer(
    name="vit",
    help="Classify folders of images and extract features from them with Vision Transformers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
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


app.command()(classify)
app.command()(embed)
app.command()(attention)
app.command()(merge)
app.command()(convert)
app.command()(finetune)
app.command()(evaluate)
app.command()(reconstruct)
app.command()(info)
app.command()(bench)
app.add_typer(models, name="models")
