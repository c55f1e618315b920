"""What stands beside a ViT in the files of masked pre-training: the decoder of a masked
autoencoder (`ViTMAEForPreTraining`, Meta's MAE), or mask token and decoder of
`ViTForMaskedImageModeling`. In our names it is all under `decoder.`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from vitcli.checkpoints.keymap import Rule, rename, to_theirs
from vitcli.checkpoints.layouts import hf_vit
from vitcli.checkpoints.layouts.hf_vit import L4, L5, B
from vitcli.checkpoints.layouts.layout import (
    Expressed,
    Json,
    Tensors,
    count_blocks,
    not_square,
    number,
    shape,
)
from vitcli.errors import CheckpointError
from vitcli.models.config import FieldError, ViTConfig
from vitcli.models.mae import MAEDecoder, MaskedAutoencoder
from vitcli.models.mim import MaskedImageModel, MIMDecoder
from vitcli.models.vit import VisionTransformer

Reconstruction = MaskedAutoencoder | MaskedImageModel
# An empty decoder, and the model of an encoder and it once it is filled.
Parts = tuple[nn.Module, Callable[[VisionTransformer, Any], Reconstruction]]
D = "decoder."
LAYERS, LAYERS_ON_DISK = "decoder.decoder_layers.{i}.", "decoder.decoder_encoder.layer.{i}."


def _of_decoder(rule: Rule) -> Rule:
    """A block's rule for the decoder's: as 4.x and the hub have it, as 5.x saves it, and as a 5.x
    model holds it in memory."""
    old, *new = rule.spellings
    spelled = [
        *(tuple(name.replace(L4, at) for name in old) for at in (LAYERS, LAYERS_ON_DISK)),
        *(tuple(name.replace(L5, LAYERS) for name in names) for names in new),
    ]
    theirs, *also = dict.fromkeys(spelled)
    return replace(rule, theirs=theirs, also=tuple(also), ours=f"{D}{rule.ours}")


_BLOCK = [rule for rule in hf_vit.RULES if rule.ours and rule.ours.startswith(B)]
HF_MAE = (
    rename("decoder.decoder_embed.{p}", D + "embed.{p}"),
    rename("decoder.mask_token", D + "mask_token"),
    rename("decoder.decoder_pos_embed", D + "pos_embed"),
    *map(_of_decoder, _BLOCK),
    rename("decoder.decoder_norm.{p}", D + "norm.{p}"),
    rename("decoder.decoder_pred.{p}", D + "pred.{p}"),
)
HF_MIM = (
    rename("embeddings.mask_token", D + "mask_token"),
    rename("decoder.0.{p}", D + "pred.{p}"),
)
META_MAE = (
    rename("mask_token", D + "mask_token"),
    *(rename(f"decoder_{part}.{{p}}", f"{D}{part}.{{p}}") for part in ("embed", "norm", "pred")),
    rename("decoder_pos_embed", D + "pos_embed"),
    *(rename(f"decoder_{rule.ours}", f"{D}{rule.ours}") for rule in _BLOCK),
)
# What `ViTMAEConfig` calls the decoder's sizes, and what it takes where they are left out.
HF_SIZES = {
    "embed_dim": ("decoder_hidden_size", 512),
    "depth": ("decoder_num_hidden_layers", 8),
    "num_heads": ("decoder_num_attention_heads", 16),
    "hidden_dim": ("decoder_intermediate_size", 2048),
}
MAE_HEAD_WIDTH = 32  # of every published decoder


@dataclass(frozen=True, slots=True)
class Decoder:
    """A kind of decoder: its rules, what takes the place of the rules that leave it out, and the
    parts that its tensors (in our names, without `decoder.`) and the JSON ask for."""

    rules: tuple[Rule, ...]
    parts: Callable[[ViTConfig, Tensors, Json], Parts]

    def among(self, rules: Collection[Rule]) -> tuple[Rule, ...]:
        """The rules of the encoder's layout, with nothing of the decoder left out."""
        starts = ("decoder", "mask_token", "embeddings.mask_token")
        kept = (rule for rule in rules if rule.ours or not rule.theirs[0].startswith(starts))
        return (*kept, *self.rules)


def decoder_of(layout: str, names: Collection[str]) -> Decoder | None:
    """The decoder in a file of this layout; None where there is none."""
    if layout == "hf-vit" and any(name.startswith("decoder.decoder_") for name in names):
        return Decoder(HF_MAE, _hf_mae)
    if layout == "hf-vit" and any(name.startswith("decoder.0.") for name in names):
        return Decoder(HF_MIM, _mim)
    if layout == "mae" and any(name.startswith("decoder_") for name in names):
        return Decoder(META_MAE, _meta_mae)
    return None


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
    if not 0 <= ratio < 1:
        raise CheckpointError(f"mask_ratio is {ratio:g}: expected a share from 0 to below 1")
    return (
        MAEDecoder(encoder, decoder),
        lambda network, filled: MaskedAutoencoder(
            network, filled, mask_ratio=ratio, norm_pix=norm_pix
        ),
    )


def _mim(encoder: ViTConfig, tensors: Tensors, config: Json) -> Parts:
    stride = config.get("encoder_stride", 16)
    if encoder.patch_size != (stride, stride):
        raise CheckpointError(
            f"encoder_stride is {stride!r}, patches are {list(encoder.patch_size)}: "
            "only where they are the same is every patch reconstructed"
        )
    return MIMDecoder(encoder), MaskedImageModel


def express(model: Reconstruction, layout: str, encoder: Expressed) -> Expressed:
    """The encoder, as a layout of transformers has it, with its decoder: the class that has both.
    Raises CheckpointError where transformers has none."""
    config = encoder.config
    assert isinstance(config, ViTConfig)
    obstacles = not_square(config)
    if layout != "hf-vit" or config.dist_token or config.num_classes:
        obstacles.append(f"a decoder behind {layout}")
    if obstacles:
        raise CheckpointError(f"transformers' masked models cannot express {', '.join(obstacles)}")
    rules, values = _words(model)
    ours = {D + name: tensor for name, tensor in model.decoder.state_dict().items()}
    theirs = encoder.tensors | to_theirs(ours, rules)
    named = {name if name.startswith(D) else "vit." + name: t for name, t in theirs.items()}
    return Expressed(config, named, encoder.json | values)  # no pooler, and no note of it


def _words(model: Reconstruction) -> tuple[tuple[Rule, ...], dict[str, Any]]:
    """The rules of a decoder in transformers' names, and what is said of it in the config."""
    if isinstance(model, MaskedImageModel):
        return HF_MIM, {
            "architectures": ["ViTForMaskedImageModeling"],
            "encoder_stride": model.decoder.stride,
        }
    decoder = model.decoder.config
    return HF_MAE, {
        "architectures": ["ViTMAEForPreTraining"],
        "model_type": "vit_mae",
        **{theirs: getattr(decoder, ours) for ours, (theirs, _) in HF_SIZES.items()},
        "mask_ratio": model.mask_ratio,
        "norm_pix_loss": model.norm_pix,
    }


def without_decoder(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The encoder's tensors, and the decoder's without `decoder.`."""
    encoder = {name: tensor for name, tensor in tensors.items() if not name.startswith(D)}
    decoder = {n.removeprefix(D): t for n, t in tensors.items() if n.startswith(D)}
    return encoder, decoder
