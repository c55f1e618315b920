"""Load a model for the other functions, or for a caller's own loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor

from vitcli.api.images import Images, inputs_of
from vitcli.api.options import PathLike, pair_of, path_of
from vitcli.checkpoints import load as checkpoints
from vitcli.errors import ImageFailed, UsageError
from vitcli.images.job import DecodeJob
from vitcli.images.loader import iter_batches, iter_parts
from vitcli.jobs.listing import list_inputs
from vitcli.models.prepare import Prepared

BATCH_SIZE = 16


@dataclass(frozen=True, repr=False)
class Model(checkpoints.Model):
    """A network with everything that belongs to it; called, it computes the outputs of images.

    network: a torch.nn.Module, normalised pixels (B, 3, H, W) -> logits (B, K), or an embedding
    (B, D) without a classifier. preprocess: the steps from an image to the pixels. labels: K texts,
    or none. config, spec, layout, files, revision, sha256, notes: sizes and origin.
    """

    def __call__(self, images: Images | Tensor) -> Tensor:
        """Return the logits of images (B, K), or their embeddings (B, D) without a classifier.

        images: as in `classify`, uint8 tensors included. They are decoded in this process, and
        preprocessed as `preprocess` says; the result has no gradient. A float tensor (B, 3, H, W)
        is normalised pixels, which go to the network as they are: with a gradient, if torch records
        one. The network runs where it is: `model.network.to("cuda")` moves it.
        Raises ImageFailed for an image that fails, which has no place in a tensor.
        """
        if isinstance(images, Tensor) and images.is_floating_point():
            if images.ndim != 4 or images.shape[1] != 3:
                raise UsageError(
                    f"a float tensor of {tuple(images.shape)} is not a batch of normalised pixels",
                    "give (B, 3, H, W), or an image as uint8 (3, H, W)",
                )
            first = next(self.network.parameters())
            logits: Tensor = self.network(images.to(first.device, first.dtype))
            return logits
        return self._of_images(images)

    @torch.no_grad()  # not inference_mode: the result may be the input of a training
    def _of_images(self, images: Images) -> Tensor:
        """Compute the outputs of images in input order, those of one size together.  -> (B, K)"""
        first = next(self.network.parameters())
        prepared = Prepared(self.network, self.preprocess, first.device, first.dtype)
        refs = list_inputs(inputs_of(images), lambda note: None).refs()
        found: dict[int, Tensor] = {}
        for batch in iter_batches(refs, DecodeJob((self.preprocess,)), lambda: BATCH_SIZE, 0):
            for failure in batch.failures:
                raise ImageFailed(failure.path, failure.type.value, failure.message)
            for part in iter_parts(batch):
                outputs = self.network(prepared.pixels(part.pixels_for()))
                found |= zip([ref.index for ref in part.refs], outputs, strict=True)
        if not found:
            raise UsageError("a batch of no images", "give one or more")
        return torch.stack([found[place] for place in sorted(found)])


def load(
    spec: str,
    *,
    labels: PathLike | None = None,
    image_size: int | tuple[int, int] | None = None,
    patch_size: int | tuple[int, int] | None = None,
    max_patches: int | None = None,
    preprocess: Literal["hf", "hf-fast", "timm"] | None = None,
    layout: str | None = None,
    num_heads: int | None = None,
    exif: bool = True,
    decode: Literal["exact", "fast"] = "exact",
    offline: bool = False,
    drop: Sequence[str] = (),
) -> Model:
    """Load a model: a hub id (`org/name`, `org/name@revision`), a directory, a file, or "demo".

    decode="fast" reads large images at a fraction of their size: close pixels, not equal ones.
    image_size is one number or (height, width); position embeddings are resampled for it. So is
    patch_size, for which the patch embedding is resampled as well. max_patches is how many patches
    an image may have in a model for images of any shape (SigLIP 2's NaFlex). The network
    (`.network`) is in eval mode, fp32, on the CPU: normalised pixels (B, 3, H, W) -> logits (B, K).
    `model(images)` preprocesses, too. drop ignores tensors that do not belong to the model, by
    pattern: "criterion.*". The first call of a hub id downloads it.
    Raises VitError: ModelNotFound, CheckpointError with the tensor's name, or UsageError.
    """
    found = checkpoints.load(
        spec,
        labels=path_of(labels),
        image_size=pair_of(image_size),
        patch_size=pair_of(patch_size),
        max_patches=max_patches,
        preprocess=preprocess,
        layout=layout,
        num_heads=num_heads,
        exif=exif,
        decode=decode,
        offline=offline,
        drop=(drop,) if isinstance(drop, str) else drop,
    )
    return Model(**{field.name: getattr(found, field.name) for field in fields(found)})
