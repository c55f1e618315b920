"""`vit models` and `vit models pull`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vitcli.cli.config.command import ConfiguredCommand, ConfiguredGroup, configurable
from vitcli.cli.options import options as o
from vitcli.cli.screen.exit import is_terminal, show
from vitcli.errors import printable

if TYPE_CHECKING:
    from vitcli.checkpoints.catalogue import CatalogueEntry

app = typer.Typer(cls=ConfiguredGroup, invoke_without_command=True)


ForOpt = Annotated[
    Literal["speed", "accuracy", "memory", "resolution", "features", "words"] | None,
    typer.Option("--for", help="Show only models that are good at this, the best first."),
]
HubId = Annotated[str, typer.Argument(metavar="ID", help="Hub id: org/name, or org/name@revision.")]
COLUMNS = (
    "id",
    "family",
    "parameters",
    "gflops",
    "image",
    "accuracy",
    "measure",
    "advice",
    "licence",
    "source",
    "gated",
    "twin",
)


@app.callback()
@configurable
def models(context: typer.Context, purpose: ForOpt = None, as_json: o.Json = False) -> None:
    """List well-known models, with cost and accuracy.

    Prints a table on a terminal, tab-separated lines in a pipe. Accuracy is published, in percent
    on ImageNet-1k. The files of a gated model need an account that has accepted its terms.

    Example:  vit models --for speed
    """
    if context.invoked_subcommand is not None:
        return
    from vitcli.tasks.models import choose_models

    choice = choose_models(purpose)
    if choice.why:
        print(f"vit: {choice.why}", file=sys.stderr, flush=True)
    if as_json:
        show(json.dumps([_record(entry) for entry in choice.entries], ensure_ascii=False))
    elif is_terminal():
        from vitcli.cli.screen.table import print_models

        print_models(choice.entries)
    else:
        show(_tsv(choice.entries))


@app.command(cls=ConfiguredCommand)
@configurable
def pull(hub_id: HubId, offline: o.Offline = False) -> None:
    """Download a model into the cache and print its folder.

    Example:  vit models pull facebook/dinov2-base
    """
    from vitcli.tasks.models import download

    pulled = download(hub_id, offline=offline)
    for note in pulled.notes:
        print(f"vit: {printable(hub_id)}: {printable(note)}", file=sys.stderr, flush=True)
    show(str(pulled.folder))


def _record(entry: CatalogueEntry) -> dict[str, object]:
    values = {**asdict(entry), "gflops": round(entry.gflops, 2), "gated": entry.is_gated}
    return {name: values[name] for name in (*COLUMNS, "layout", "patch", "stored")}


def _tsv(entries: Sequence[CatalogueEntry]) -> str:
    rows = ["\t".join(_cell(record[name]) for name in COLUMNS) for record in map(_record, entries)]
    return "\n".join(["\t".join(COLUMNS), *rows])


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else str(value)
