"""A model as the options of a command ask for it, and what is told of it beside its rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vitcli.checkpoints.resolve import Checkpoint
from vitcli.jobs.job import ModelOptions

if TYPE_CHECKING:  # it imports torch, for which a run with nothing to do does not wait
    from vitcli.checkpoints.load import Model


def load_model(
    spec: str | Checkpoint,
    options: ModelOptions,
    note: Callable[[str], None] = lambda text: None,
    *,
    keep_grid: bool = False,
    keep_decoder: bool = False,
) -> Model:
    """Load with the options of the command line; `note` hears what a user should know."""
    from vitcli.checkpoints.load import load

    model = load(
        spec,
        layout=options.layout,
        labels=options.labels,
        image_size=options.image_size,
        preprocess=options.preprocess,
        num_heads=options.num_heads,
        head=options.head,
        sha256=options.sha256,
        drop=options.drop,
        exif=options.exif,
        decode=options.decode,
        offline=options.offline,
        keep_grid=keep_grid,
        keep_decoder=keep_decoder,
    )
    for text in model.notes:
        note(f"{model.spec}: {text}")
    return model


def describe_model(model: Model) -> dict[str, object]:
    """What the meta file says of the model."""
    return {
        "model": model.spec,
        "revision": model.revision,
        "sha256": model.sha256,
        "layout": model.layout,
        "preprocess": model.preprocess.describe(),
        "preprocess_source": model.preprocess.source,
    }
