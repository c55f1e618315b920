"""The decoders of masked pre-training: MAE's, in the names of transformers and of its own
repository, and that of transformers' `ViTForMaskedImageModeling`.

A model with its decoder can reconstruct the hidden part of an image. vitcli's names of the
decoder's tensors begin with `decoder.`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from vitcli.checkpoints.keymap import Rule, rename, to_theirs
from vitcli.checkpoints.layouts.layout import (
    Decoder,
    Decoders,
    Expressed,
    Json,
    Parts,
    Reconstruction,
    Tensors,
    count_blocks,
    not_square,
    number,
    shape,
)
from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig
from vitcli.models.fields import FieldError

if TYPE_CHECKING:  # names and shapes are read without torch
    from torch import Tensor

D = "decoder."
LAYERS, LAYERS_ON_DISK = "decoder.decoder_layers.{i}.", "decoder.decoder_encoder.layer.{i}."
HF_MIM = (
    rename("embeddings.mask_token", D + "mask_token"),
    rename("decoder.0.{p}", D + "pred.{p}"),
)
# The names and defaults of the decoder's sizes in `ViTMAEConfig`.
HF_SIZES = {
    "embed_dim": ("decoder_hidden_size", 512),
    "depth": ("decoder_num_hidden_layers", 8),
    "num_heads": ("decoder_num_attention_heads", 16),
    "hidden_dim": ("decoder_intermediate_size", 2048),
}
MAE_HEAD_WIDTH = 32  # in every published decoder


def hf_decoders(blocks: Sequence[Rule], old: str, new: str) -> Decoders:
    """The decoders in files of transformers. `blocks` are the rules for the encoder's blocks, `old`
    and `new` the prefixes of a block's names in versions 4 and 5."""
    mae = (
        rename("decoder.decoder_embed.{p}", D + "embed.{p}"),
        rename("decoder.mask_token", D + "mask_token"),
        rename("decoder.decoder_pos_embed", D + "pos_embed"),
        *(_of_decoder(rule, old, new) for rule in blocks),
        rename("decoder.decoder_norm.{p}", D + "norm.{p}"),
        rename("decoder.decoder_pred.{p}", D + "pred.{p}"),
    )

    def find(names: Collection[str]) -> Decoder | None:
        if any(name.startswith("decoder.decoder_") for name in names):
            return Decoder(mae, _hf_mae)
        if any(name.startswith("decoder.0.") for name in names):
            return Decoder(HF_MIM, _mim)
        return None

    def express(model: Reconstruction, encoder: Expressed) -> Expressed:
        """Express the model for one of transformers' classes. Raises CheckpointError if none
        fits."""
        from vitcli.models.mim import MaskedImageModel

        config = encoder.config
        assert isinstance(config, ViTConfig)
        obstacles = not_square(config)
        if config.dist_token or config.num_classes:
            obstacles.append("a decoder next to a classifier or a distillation token")
        refuse_decoder(obstacles)
        rules = HF_MIM if isinstance(model, MaskedImageModel) else mae
        ours = {D + name: tensor for name, tensor in model.decoder.state_dict().items()}
        theirs = encoder.tensors | to_theirs(ours, rules)
        named = {name if name.startswith(D) else "vit." + name: t for name, t in theirs.items()}
        # These classes have no pooler, so the encoder's note about it does not apply.
        return Expressed(config, named, encoder.json | _hf_values(model))

    return Decoders(find, express)


def refuse_decoder(obstacles: Collection[str]) -> None:
    """Raise CheckpointError if there are obstacles to writing a model with its decoder."""
    if obstacles:
        raise CheckpointError(f"transformers' masked models cannot express {', '.join(obstacles)}")


def meta_decoders(blocks: Sequence[Rule]) -> Decoders:
    """The decoder in files of MAE's repository. `blocks` are the rules for the encoder's blocks;
    the decoder's have vitcli's names after `decoder_`."""
    mae = (
        rename("mask_token", D + "mask_token"),
        *(rename(f"decoder_{x}.{{p}}", f"{D}{x}.{{p}}") for x in ("embed", "norm", "pred")),
        rename("decoder_pos_embed", D + "pos_embed"),
        *(rename(f"decoder_{rule.ours}", f"{D}{rule.ours}") for rule in blocks),
    )

    def find(names: Collection[str]) -> Decoder | None:
        has_decoder = any(name.startswith("decoder_") for name in names)
        return Decoder(mae, _meta_mae) if has_decoder else None

    return Decoders(find)


def without_decoder(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Split the tensors into the encoder's, and the decoder's without `decoder.`."""
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(D)}
    decoder = {n.removeprefix(D): t for n, t in tensors.items() if n.startswith(D)}
    return encoder, decoder


def _of_decoder(rule: Rule, old: str, new: str) -> Rule:
    """Turn a rule for the encoder's blocks into one for the decoder's: in the names of 4.x and the
    hub, in those that 5.x saves, and in those of a 5.x model in memory."""
    first, *others = rule.spellings
    spelled = [
        *(tuple(name.replace(old, at) for name in first) for at in (LAYERS, LAYERS_ON_DISK)),
        *(tuple(name.replace(new, LAYERS) for name in names) for names in others),
    ]
    theirs, *also = dict.fromkeys(spelled)
    return replace(rule, theirs=theirs, also=tuple(also), ours=f"{D}{rule.ours}")


def _hf_mae(encoder: ViTConfig, tensors: Tensors, config: Json) -> Parts:
    sizes = {ours: config.get(theirs, size) for ours, (theirs, size) in HF_SIZES.items()}
    try:
        decoder = _like(encoder, **sizes)
    except FieldError as error:
        raise CheckpointError(f"config.json: {HF_SIZES[error.field][0]} {error.what}") from None
    ratio = number(config.get("mask_ratio", 0.75), "mask_ratio")
    return _mae(encoder, decoder, ratio, bool(config.get("norm_pix_loss", False)))


def _meta_mae(encoder: ViTConfig, tensors: Tensors, config: Json) -> Parts:
    width = shape(tensors, "pos_embed", 3)[2]
    decoder = _like(
        encoder,
        embed_dim=width,
        depth=count_blocks(tensors),
        num_heads=max(1, width // MAE_HEAD_WIDTH),
        hidden_dim=shape(tensors, "blocks.0.mlp.fc1.weight", 2)[0],
    )
    return _mae(encoder, decoder, 0.75, norm_pix=False)


def _like(encoder: ViTConfig, **sizes: Any) -> ViTConfig:
    return replace(encoder, num_classes=0, **sizes)


def _mae(encoder: ViTConfig, decoder: ViTConfig, ratio: float, norm_pix: bool) -> Parts:
    from vitcli.models.mae import MAEDecoder, MaskedAutoencoder

    if not 0 <= ratio < 1:
        raise CheckpointError(f"mask_ratio is {ratio:g}: expected a share from 0 to below 1")
    return (
        MAEDecoder(encoder, decoder),
        lambda network, filled: MaskedAutoencoder(
            network, filled, mask_ratio=ratio, norm_pix=norm_pix
        ),
    )


def _mim(encoder: ViTConfig, tensors: Tensors, config: Json) -> Parts:
    from vitcli.models.mim import MaskedImageModel, MIMDecoder

    stride = config.get("encoder_stride", 16)
    if encoder.patch_size != (stride, stride):
        raise CheckpointError(
            f"encoder_stride is {stride!r}, patches are {list(encoder.patch_size)}: "
            "they must be the same for every patch to be reconstructed"
        )
    return MIMDecoder(encoder), MaskedImageModel


def _hf_values(model: Reconstruction) -> dict[str, Any]:
    """The decoder's part of transformers' config."""
    from vitcli.models.mim import MaskedImageModel

    if isinstance(model, MaskedImageModel):
        return {
            "architectures": ["ViTForMaskedImageModeling"],
            "encoder_stride": model.decoder.stride,
        }
    decoder = model.decoder.config
    return {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **{theirs: getattr(decoder, ours) for ours, (theirs, _) in HF_SIZES.items()},
        "mask_ratio": model.mask_ratio,
        "norm_pix_loss": model.norm_pix,
    }
