"""Load a model, open it in its engine, and describe it for the meta file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from vitcli.checkpoints.resolve import Checkpoint
from vitcli.errors import UsageError
from vitcli.jobs.job import ModelOptions, Running
from vitcli.jobs.precision import note_if_slower
from vitcli.records import Batch

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from vitcli.checkpoints.load import Model
    from vitcli.models.engine import Engine, Output, SplittingEngine
    from vitcli.models.prepare import Prepared

Spec: TypeAlias = "str | Checkpoint | Model"


def load_model(
    spec: Spec,
    options: ModelOptions,
    note: Callable[[str], None] = lambda text: None,
    *,
    keep_grid: bool = False,
    keep_decoder: bool = False,
    lazily: bool = False,
) -> Model:
    """Load a model with the options of the command line, and pass its notes to `note`. Return a
    model that is already loaded unchanged. With `lazily`, its network is read when it is needed."""
    if not isinstance(spec, str | Checkpoint):
        return spec
    from vitcli.checkpoints.load import load

    model = load(
        spec,
        layout=options.layout,
        labels=options.labels,
        image_size=options.image_size,
        patch_size=options.patch_size,
        max_patches=options.max_patches,
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
        lazily=lazily,
    )
    for text in model.notes:
        note(f"{model.spec}: {text}")
    return model


def prepare_model(model: Model, running: Running, note: Callable[[str], None]) -> Prepared:
    """Prepare a model for PyTorch on the device of the run."""
    from vitcli.models.prepare import choose_device, prepare

    if choose_device(running.device).type == "cpu":
        note_if_slower(running, note)
    return prepare(
        model.network,
        model.preprocess,
        running.device,
        running.dtype,
        quantize=running.quantize,
        compile=running.compile,
        note=note,
    )


def open_model(
    model: Model, output: Output, running: Running, note: Callable[[str], None]
) -> SplittingEngine:
    """Open a model in the engine of the run."""
    from vitcli.checkpoints.engines import open_engine
    from vitcli.models.engine import SplittingEngine

    count = pairs_to_merge(model, running)
    if running.merge_tokens == "auto":
        note(f"{model.spec}: --merge-tokens auto is {count} pairs of patches in each block")
    if count:
        from vitcli.models.vit import VisionTransformer

        assert isinstance(model.network, VisionTransformer)
        model = replace(model, source=model.network.with_merging(count))
    if running.engine == "torch":
        from vitcli.models.prepare import TorchEngine

        own = TorchEngine(prepare_model(model, running, note), output)
        engine: Engine = own
        launch = own.start if own.starts_ahead else None
    else:
        check_one_size(model, f"--engine {running.engine}")
        note_if_slower(running, note)
        chosen = running.engine, running.dtype, running.quantize
        engine, launch = open_engine(model, output, *chosen, note), None
    shares_ranges = running.quantize is not None
    return SplittingEngine(engine, note, shares_ranges=shares_ranges, launch=launch)


def starter(engine: SplittingEngine) -> Callable[[Batch], None] | None:
    """Return the function that launches a batch, if the engine can start one ahead."""
    return (lambda batch: engine.start(batch.pixels_for())) if engine.starts_ahead else None


def pairs_to_merge(model: Model, running: Running) -> int:
    """The number of pairs of tokens that each block merges in a run. Raises UsageError for a model
    whose tokens cannot be merged."""
    if not running.merge_tokens:
        return 0
    from vitcli.models.config import ViTConfig
    from vitcli.models.merging import merged_pairs, unmergeable

    reason = unmergeable(model.config)
    if reason is not None:
        raise UsageError(
            f"{model.spec} cannot merge tokens: {reason}",
            "leave out --merge-tokens; ViT, DeiT, DINOv2, CLIP and SigLIP can",
        )
    assert isinstance(model.config, ViTConfig)
    return merged_pairs(model.config, running.merge_tokens)


def check_one_size(model: Model, what: str) -> None:
    """Raise UsageError for a model for images of any shape, if `what` needs images of one size."""
    if model.preprocess.varies:
        raise UsageError(
            f"{what} needs images of one size, and {model.spec} keeps the shape of each (NaFlex)",
            "models of one size are google/siglip2-base-patch16-224 and others: vit models",
        )


def described_merging(models: Sequence[Model], running: Running) -> dict[str, object]:
    """The number of pairs of tokens that each block merges, for the meta file, or one for each of
    several models; nothing in a run that merges none."""
    if not running.merge_tokens:
        return {}
    pairs = [pairs_to_merge(model, running) for model in models]
    return {"merge_tokens": pairs if len(pairs) > 1 else pairs[0]}


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
