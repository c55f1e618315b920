"""The joint space of images and texts: which models have one, and how wide it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import ViTConfig

if TYPE_CHECKING:  # imports torch, which a run with nothing to do does not need
    from vitcli.checkpoints.load import Model

OTHERS = "name a model of images and words with -m (vit models --for words)"


def image_width(model: Model) -> int:
    """The width of the vectors that compare images with texts, which the network returns without a
    classifier.

    They are the projected embedding, as in CLIP; or what a model with a text tower pools, as in
    SigLIP. Raises UsageError for a model with a classifier,
    CheckpointError for another that has neither.
    """
    config = model.config
    if config.num_classes:
        raise UsageError(
            f"{model.spec} has a classifier, and no joint space of images and texts",
            OTHERS,
        )
    # transformers pools nothing in a SigLIP without its head; open_clip compares what it returns.
    is_pooled = config.pool == "map" or model.layout != "hf-siglip"
    is_compared = isinstance(config, ViTConfig) and (
        bool(config.projection) or (is_pooled and model.text_source is not None)
    )
    if not is_compared:
        raise CheckpointError(f"{model.spec} has no joint space of images and texts", OTHERS)
    assert isinstance(config, ViTConfig)
    return config.joint_dim


def joint_width(model: Model) -> int:
    """The width of the space in which a model compares images with texts. Raises CheckpointError
    for a model without a text tower, and what `image_width` raises."""
    width, texts = image_width(model), model.text_config.joint_dim
    if width != texts:
        raise CheckpointError(
            f"{model.spec}: texts are embedded in {texts} numbers, images in {width}",
            "the image tower has no projection into the joint space",
        )
    return width
