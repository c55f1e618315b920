"""A model loaded with a command's options, and its description for the meta file."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from vitcli.checkpoints.resolve import Checkpoint
from vitcli.jobs.job import ModelOptions

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from vitcli.checkpoints.load import Model


def load_model(
    spec: str | Checkpoint,
    options: ModelOptions,
    note: Callable[[str], None] = lambda text: None,
    *,
    keep_grid: bool = False,
    keep_decoder: bool = False,
) -> Model:
    """Load a model with the options of the command line, and pass its notes to `note`."""
    from vitcli.checkpoints.load import load

    model = load(
        spec,
        layout=options.layout,
        labels=options.labels,
        image_size=options.image_size,
        patch_size=options.patch_size,
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
    """Describe a model for the meta file, and its patches if they are not those of the file."""
    stored, patch = model.provenance.stored_patch, model.config.patch_size
    resampled = {"patch_size": patch, "stored_patch_size": stored}
    return {
        "model": model.spec,
        "revision": model.revision,
        "sha256": model.sha256,
        "layout": model.layout,
        "preprocess": model.preprocess.describe(),
        "preprocess_source": model.preprocess.source,
        **(resampled if stored not in (None, patch) else {}),
    }
