"""Reconstruct images with a masked model that sees only a part of the patches."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitcli.checkpoints.layouts.layout import Reconstruction
from vitcli.checkpoints.load import Model
from vitcli.errors import OutputError, UsageError
from vitcli.files import explained, write_whole
from vitcli.images.kinds import suffixes
from vitcli.jobs.apart import check_apart, read_of_inputs, read_of_models
from vitcli.jobs.finite import are_finite, overflow, with_failures
from vitcli.jobs.job import (
    DEFAULT_MASKED_MODEL,
    SILENT,
    Inputs,
    ModelOptions,
    Reporter,
    Running,
    Summary,
)
from vitcli.jobs.listing import list_inputs
from vitcli.jobs.loading import load_model
from vitcli.jobs.run import Computation, Run
from vitcli.models.mae import MaskedAutoencoder, mask_of
from vitcli.models.normalise import Normalisation
from vitcli.models.prepare import DTYPES, Prepared, choose_device, choose_dtype
from vitcli.records import Batch, Classified, Failure, Row, image_of
from vitcli.render.heat import file_bytes
from vitcli.render.sheet import captioned
from vitcli.sinks.memory import NoSink
from vitcli.sinks.picture_names import PictureNames

CAPTIONS = ("original", "masked", "reconstruction")
HIDDEN_GREY = 128  # of a hidden patch in the masked panel


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconstructJob:
    """One run of `vit reconstruct`. `mask_ratio=None` is the model's own. With `paste`, the panels
    show the visible patches unchanged."""

    inputs: Inputs
    out: Path
    model: str | Model = DEFAULT_MASKED_MODEL
    options: ModelOptions = ModelOptions()
    running: Running = Running()
    mask_ratio: float | None = None
    seed: int = 0
    paste: bool = True
    overwrite: bool = False

    def __post_init__(self) -> None:
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise UsageError(
                f"--mask-ratio {self.mask_ratio:g} is not a share", "give a share between 0 and 1"
            )
        running = self.running
        unused = {
            f"--engine {running.engine}": running.engine != "torch",
            f"--quantize {running.quantize}": running.quantize is not None,
            "--compile": running.compile,
            f"--merge-tokens {running.merge_tokens}": bool(running.merge_tokens),
        }
        for option in (name for name, is_given in unused.items() if is_given):
            raise UsageError(
                f"images are reconstructed by PyTorch in fp32, without {option}", "leave it out"
            )


class PanelSink(NoSink):
    """Writes a PNG for each image to its path below the folder. A failure has no file."""

    def __init__(self, folder: Path, *, overwrite: bool) -> None:
        self._folder = folder
        self._overwrite = overwrite
        self.pictures: dict[int, bytes] = {}
        self._taken: set[Path] = set()
        self._names = PictureNames(lambda name: name.lower().endswith(tuple(suffixes("common"))))

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            picture = self.pictures.pop(row.ref.index, None)
            if picture is not None:
                file = self._named(image_of(row).path)
                with explained(file.parent):
                    file.parent.mkdir(parents=True, exist_ok=True)
                write_whole(file, picture)

    def _named(self, path: str) -> Path:
        """The file for an image, such as `DIR/photos/cat.png`: below DIR, and unique."""
        parts = [part for part in Path(os.path.normpath(path)).parts if part not in ("/", "..")]
        file = self._folder.joinpath(*parts)
        file = file.with_name(self._names.of(path, file.parent))
        name, number = file.with_name(f"{file.name}.png"), 1
        while name in self._taken:
            number += 1
            name = file.with_name(f"{file.name}-{number}.png")
        if name.exists() and not self._overwrite:
            raise OutputError(f"{name} exists", "--overwrite replaces it")
        self._taken.add(name)
        return name


def reconstruct(job: ReconstructJob, reporter: Reporter = SILENT) -> Summary:
    """Run the job: draw original, masked image and reconstruction of every image that decodes.

    Raises CheckpointError for a model without a decoder, OutputError for a folder with files that
    the run reads, if it may overwrite them.
    """
    run = Run(job.inputs, job.running, reporter, list_inputs(job.inputs, reporter.note))
    if job.overwrite and job.out.is_dir():
        read = chain(read_of_inputs(job.inputs), read_of_models([job.model], job.options))
        check_apart([], read, folder=job.out)
    model = load_model(job.model, job.options, reporter.note, keep_decoder=True)
    sink = PanelSink(job.out, overwrite=job.overwrite)
    forward = _forward(job, model, model.with_decoder(), sink)
    return run.into(sink, Computation(plans=(model.preprocess,), forward=forward))


def draw_mask(seed: int, place: int, patches: int, ratio: float) -> Tensor:
    """Draw the hidden patches of an image from the seed and its place.  -> (1, h*w)"""
    noise = np.random.default_rng((seed, place)).random(patches)
    return mask_of(torch.from_numpy(noise)[None], ratio)


def _forward(
    job: ReconstructJob, model: Model, reconstruction: Reconstruction, sink: PanelSink
) -> Callable[[Batch], list[Classified | Failure]]:
    device = choose_device(job.running.device)
    dtype = choose_dtype(job.running.dtype, device)
    if dtype != DTYPES["fp32"]:
        raise UsageError("images are reconstructed in fp32", "leave out --dtype")
    reconstruction = reconstruction.to(device)
    own = reconstruction.mask_ratio if isinstance(reconstruction, MaskedAutoencoder) else 0.6
    ratio = own if job.mask_ratio is None else job.mask_ratio
    normalisation = Normalisation(model.preprocess, device)
    prepared = Prepared(reconstruction.encoder, model.preprocess, device, dtype)

    @torch.inference_mode()
    def forward(batch: Batch) -> list[Classified | Failure]:
        pixels = prepared.pixels(batch.pixels_for())
        grid = reconstruction.encoder.grid_of(pixels)
        masks = [draw_mask(job.seed, ref.index, grid[0] * grid[1], ratio) for ref in batch.refs]
        mask = torch.cat(masks).to(device)
        picture = reconstruction.picture(pixels, reconstruction(pixels, mask))
        hidden = _spread(mask, grid, reconstruction.encoder.config.patch_size)
        good = are_finite(picture.cpu().numpy())
        made = normalisation.inverse(picture).permute(0, 2, 3, 1).cpu().numpy()
        originals = normalisation.inverse(pixels).permute(0, 2, 3, 1).cpu().numpy()
        images = zip(batch.refs, originals, made, hidden, strict=True)
        for ref, original, new, is_hidden in compress(images, good):
            height, width = new.shape[:2]
            original = original[:height, :width]
            masked = np.where(is_hidden, np.uint8(HIDDEN_GREY), original)
            shown = np.where(is_hidden, new, original) if job.paste else new
            panels = captioned((original, masked, shown), CAPTIONS)
            sink.pictures[ref.index] = file_bytes(panels, "PNG")
        rows = [Classified(ref, ()) for ref in batch.refs]
        return with_failures(rows, good, overflow(job.running))

    return forward


def _spread(mask: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> NDArray[np.bool_]:
    """Expand a mask of patches to pixels.  (B, h*w) -> (B, H, W, 1)"""
    hidden = mask.cpu().numpy().reshape(len(mask), *grid)
    spread: NDArray[np.bool_] = hidden.repeat(patch[0], 1).repeat(patch[1], 2)[..., None]
    return spread
