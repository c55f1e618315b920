"""Turn a plain encoder into a model that learns to reconstruct the hidden patches of images."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from vitcli.checkpoints.layouts.layout import Reconstruction
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.write import check_hf
from vitcli.errors import CheckpointError
from vitcli.models.mae import MaskedAutoencoder
from vitcli.models.mim import MaskedImageModel, MIMDecoder
from vitcli.models.vit import VisionTransformer
from vitcli.training.recipe import filled


def reconstruction_of(model: Model, seed: int) -> Model:
    """Return the model with a decoder: its own, else SimMIM's with weights drawn with the seed.

    Raises CheckpointError for a model that transformers' masked models cannot express.
    """
    if model.reconstruction is not None:
        return model
    if not isinstance(model.network, VisionTransformer):
        raise CheckpointError(
            f"{model.spec} is a Swin: masked pre-training is for plain Vision Transformers"
        )
    config = replace(
        model.network.config, num_classes=0, projection=0, projection_bias=False, dist_head=False
    )
    encoder = VisionTransformer(config)
    tensors = model.network.state_dict()
    encoder.load_state_dict({name: tensors[name].clone() for name in encoder.state_dict()})
    decoder = MIMDecoder(config)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        decoder.pred.weight.normal_(0, 0.02, generator=draw)
        nn.init.zeros_(decoder.pred.bias)  # type: ignore[arg-type]
    reconstructing = replace(
        model,
        source=encoder.eval(),
        labels=(),
        reconstruction=MaskedImageModel(encoder, decoder).eval(),
    )
    check_hf(reconstructing)
    return reconstructing


def fixed_of(model: Reconstruction) -> frozenset[str]:
    """The names of the fixed parameters: the sine positions of a masked autoencoder."""
    if isinstance(model, MaskedAutoencoder):
        return frozenset({"encoder.pos_embed", "decoder.pos_embed"})
    return frozenset()


def copied(model: Reconstruction) -> Reconstruction:
    """A copy of the model on the CPU."""
    encoder = filled(model.encoder, model.encoder.state_dict())
    assert isinstance(encoder, VisionTransformer)
    with torch.device("meta"):
        if isinstance(model, MaskedAutoencoder):
            decoder: nn.Module = type(model.decoder)(encoder.config, model.decoder.config)
        else:
            decoder = MIMDecoder(encoder.config)
    tensors = {n: t.detach().cpu() for n, t in model.decoder.state_dict().items()}
    decoder.load_state_dict(tensors, assign=True)
    if isinstance(model, MaskedAutoencoder):
        return MaskedAutoencoder(
            encoder,
            decoder,  # type: ignore[arg-type]
            mask_ratio=model.mask_ratio,
            norm_pix=model.norm_pix,
        ).eval()
    return MaskedImageModel(encoder, decoder).eval()  # type: ignore[arg-type]
