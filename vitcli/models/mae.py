"""Masked autoencoder (arXiv 2111.06377): predicts the pixels of hidden patches from the visible
ones.

The encoder is a plain ViT that sees only the visible patches; a small decoder sees the encoder's
tokens in their places, and a mask token in the place of each hidden patch. The results are those of
`models_mae.py` of facebookresearch/mae and `ViTMAEForPreTraining` of transformers, for images of
any shape. A mask is (B, h*w), True for hidden patches, and hides the same number in every image.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitcli.errors import CheckpointError
from vitcli.models.config import ViTConfig
from vitcli.models.layers import Block
from vitcli.models.pos_embed import resize_pos_embed
from vitcli.models.vit import EncoderDecoder, VisionTransformer
from vitcli.records import Size


def mask_of(noise: Tensor, ratio: float) -> Tensor:
    """Hide the patches with the highest noise, a share of `ratio`.  (B, h*w) -> (B, h*w)"""
    visible = int(noise.shape[1] * (1 - ratio))
    rank: Tensor = noise.argsort(dim=1).argsort(dim=1)
    return rank >= visible


def patchify(pixels: Tensor, patch: Size) -> Tensor:
    """The pixels of each patch, channels last.  (B, C, H, W) -> (B, h*w, P*P*C)"""
    B, C, H, W = pixels.shape
    h, w = H // patch[0], W // patch[1]
    x = pixels.reshape(B, C, h, patch[0], w, patch[1])
    return x.permute(0, 2, 4, 3, 5, 1).reshape(B, h * w, -1)


def unpatchify(patches: Tensor, grid: Size, patch: Size) -> Tensor:
    """Join the patches' pixels to images.  (B, h*w, P*P*C) -> (B, C, H, W)"""
    x = patches.reshape(len(patches), *grid, *patch, -1)  # (B, h, w, P, P, C)
    x = x.permute(0, 5, 1, 3, 2, 4)  # (B, C, h, P, w, P)
    return x.reshape(*x.shape[:2], grid[0] * patch[0], grid[1] * patch[1])


class MAEDecoder(nn.Module):
    """Turns the encoder's tokens and their places into the pixels of every patch."""

    def __init__(self, encoder: ViTConfig, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        dim, eps = config.embed_dim, config.norm_eps
        self.embed = nn.Linear(encoder.embed_dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        positions = config.pos_prefix + config.grid[0] * config.grid[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, positions, dim), requires_grad=False)
        self.blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.depth))
        self.norm = nn.LayerNorm(dim, eps)
        height, width = config.patch_size
        self.pred = nn.Linear(dim, height * width * config.in_chans)

    def forward(self, tokens: Tensor, mask: Tensor, grid: Size) -> Tensor:
        """(B, 1 + visible, D), (B, h*w) -> (B, h*w, P*P*C)"""
        tokens = self.embed(tokens)
        patches = self.mask_token.repeat(*mask.shape, 1)
        patches[~mask] = tokens[:, 1:].flatten(0, 1)
        x = torch.cat([tokens[:, :1], patches], dim=1)
        x = x + resize_pos_embed(self.pos_embed, self.config.grid, grid, 1, "bicubic")
        for block in self.blocks:
            x = block(x)
        out: Tensor = self.pred(self.norm(x))[:, 1:]
        return out


class MaskedAutoencoder(EncoderDecoder):
    """An encoder and a decoder. `norm_pix`: the target of each patch has mean 0 and variance 1."""

    def __init__(
        self,
        encoder: VisionTransformer,
        decoder: MAEDecoder,
        *,
        mask_ratio: float = 0.75,
        norm_pix: bool = False,
    ) -> None:
        super().__init__(encoder)
        if encoder.config.rope or encoder.config.rel_bias != "none":
            raise CheckpointError("a masked autoencoder needs a table of positions alone")
        self.decoder = decoder
        self.mask_ratio = mask_ratio
        self.norm_pix = norm_pix

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """The prediction for every patch.  (B, C, H, W), (B, h*w) -> (B, h*w, P*P*C)"""
        x = self.encoder.embed(pixels)
        visible = x[:, 1:][~mask].reshape(len(x), -1, x.shape[2])
        x = torch.cat([x[:, :1], visible], dim=1)
        for block in self.encoder.blocks:
            x = block(x)
        out: Tensor = self.decoder(self.encoder.norm(x), mask, self.encoder.grid_of(pixels))
        return out

    def loss(self, pixels: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """The mean squared error of the hidden patches.  -> ()"""
        target = patchify(pixels, self.encoder.config.patch_size)
        if self.norm_pix:
            mean, deviation = _moments(target)
            target = (target - mean) / deviation
        error = (prediction - target).square().mean(dim=-1)
        return (error * mask).sum() / mask.sum()

    def picture(self, pixels: Tensor, prediction: Tensor) -> Tensor:
        """The prediction as pixels. With `norm_pix`, patches get the brightness and contrast of
        `pixels`.  (B, C, H, W), (B, h*w, P*P*C) -> (B, C, H, W)"""
        patch = self.encoder.config.patch_size
        if self.norm_pix:
            mean, deviation = _moments(patchify(pixels, patch))
            prediction = prediction * deviation + mean
        return unpatchify(prediction, self.encoder.grid_of(pixels), patch)


def _moments(patches: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each patch.  (B, h*w, n) -> (B, h*w, 1) twice"""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return mean, (variance + 1e-6).sqrt()
