"""Read the text tower of a checkpoint, strictly, and how its model compares images with texts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitcli.checkpoints.file_names import Spelling, missing
from vitcli.checkpoints.keymap import NOT_WHOLE, Names, Renamed, to_ours
from vitcli.checkpoints.layouts.layout import TEXT, Layout, MissingTensor
from vitcli.checkpoints.resolve import Checkpoint
from vitcli.checkpoints.scoring import ScoreFunction
from vitcli.checkpoints.weights.tensors import read_weights, without
from vitcli.errors import CheckpointError
from vitcli.models.fields import FieldError
from vitcli.models.shapes import fits
from vitcli.models.text_config import TextConfig

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

    from vitcli.models.text import TextTransformer

MAX_LOGIT_SCALE = 20.0  # e to the power of it is half a billion; trained models have up to 5


@dataclass(frozen=True, slots=True)
class Similarity:
    """How a model compares an image with a text: `scale` * cosine + `bias`. A model with a bias is
    trained with the sigmoid of each pair (SigLIP, arXiv 2303.15343), one without by softmax."""

    scale: float
    bias: float | None = None

    @property
    def function(self) -> ScoreFunction:
        """The function that turns the result into a score."""
        return "softmax" if self.bias is None else "sigmoid"


@dataclass(frozen=True, slots=True)
class TextSource:
    """Where the text tower of a model is: in `checkpoint`, under the names of a layout. `shapes`
    are its tensors without their numbers, `scale` and `bias` are `logit_scale` and `logit_bias`."""

    checkpoint: Checkpoint
    layout: Layout
    shapes: Mapping[str, Tensor]
    scale: Tensor | None
    bias: Tensor | None
    drop: tuple[str, ...] = ()

    @property
    def similarity(self) -> Similarity:
        """How the model compares images with texts. Raises CheckpointError for a missing or an
        impossible `logit_scale`, which is a logarithm."""
        if self.scale is None:
            raise CheckpointError("logit_scale is missing", NOT_WHOLE)
        for name, tensor in (("logit_scale", self.scale), ("logit_bias", self.bias)):
            if tensor is not None and tensor.numel() != 1:
                raise CheckpointError(f"{name} has shape {list(tensor.shape)}: expected one number")
        scale = self.scale.item()
        if abs(scale) > MAX_LOGIT_SCALE:
            raise CheckpointError(f"logit_scale is {scale:g}: expected a logarithm, such as 4.6")
        return Similarity(math.exp(scale), None if self.bias is None else self.bias.item())

    @property
    def config(self) -> TextConfig:
        """The config of the text tower. Raises CheckpointError for tensors of unknown names."""
        return self._interpreted(self.shapes)[0]

    @property
    def fits(self) -> bool:
        """Whether the text tower can be built of its tensors, by names and shapes."""
        config, tensors, _ = self._interpreted(self.shapes)
        return fits(tensors, config)

    def read(self) -> TextTransformer:
        """Read the text tower in fp32, in eval mode, on the CPU. Raises CheckpointError with the
        name of each tensor that is unknown, missing or misshapen."""
        from vitcli.checkpoints.build import build_text

        weights = without(read_weights(self.checkpoint.weights), self.drop)
        stripped = self.layout.strip(weights.tensors)
        return build_text(*self._interpreted({name: stripped[name] for name in self.shapes}))

    def _interpreted(
        self, tensors: Mapping[str, Tensor]
    ) -> tuple[TextConfig, Mapping[str, Tensor], Spelling]:
        """The config, the tensors in vitcli's names, and their names in the file."""
        texts, config = self.layout.texts, self.checkpoint.config
        assert texts is not None
        rules = texts.rules(tensors, config)
        renamed = to_ours(tensors, rules)
        spelling = Spelling(rules, tensors)
        try:
            return texts.read_config(renamed.tensors, config), renamed.tensors, spelling
        except MissingTensor as error:
            raise missing(error, spelling) from None
        except FieldError as error:
            field = texts.fields.get(error.field)
            source = f"config.json: {field}" if field else f"the text tower's {error.field}"
            raise CheckpointError(f"{source} {error.what}") from None


def text_source(
    checkpoint: Checkpoint,
    layout: Layout,
    tensors: Mapping[str, Tensor],
    read: Renamed,
    drop: Names,
) -> TextSource | None:
    """The source of a model's text tower; None for a model without one. `tensors` are all tensors
    of the file in the layout's names, `read` is the part of them that is the network of images."""
    names = [name for name, why in read.dropped.items() if why == TEXT]
    if layout.texts is None or not names:
        return None
    shapes = {name: tensors[name].to("meta") for name in names}
    scale, bias = tensors.get("logit_scale"), tensors.get("logit_bias")
    return TextSource(checkpoint, layout, shapes, scale, bias, drop)
