"""Masked image modelling (SimMIM, arXiv 2111.09886): a ViT sees a mask token for every hidden
patch, and one linear map turns each of its tokens into pixels. The results are those of
`ViTForMaskedImageModeling` of transformers, for images of any shape. A mask is (B, h*w), True for
hidden patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitcli.models.config import ViTConfig
from vitcli.models.vit import EncoderDecoder, VisionTransformer


class MIMDecoder(nn.Module):
    """Turns each patch's token into pixels: a 1x1 convolution, then a pixel shuffle."""

    def __init__(self, encoder: ViTConfig) -> None:
        super().__init__()
        self.stride = encoder.patch_size[0]
        self.mask_token = nn.Parameter(torch.zeros(1, 1, encoder.embed_dim))
        self.pred = nn.Conv2d(encoder.embed_dim, self.stride**2 * encoder.in_chans, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, D, h, w) -> (B, C, H, W)"""
        return F.pixel_shuffle(self.pred(tokens), self.stride)


class MaskedImageModel(EncoderDecoder):
    """An encoder that sees which patches are hidden, and a decoder."""

    def __init__(self, encoder: VisionTransformer, decoder: MIMDecoder) -> None:
        super().__init__(encoder)
        self.decoder = decoder

    def forward(self, pixels: Tensor, mask: Tensor) -> Tensor:
        """The predicted image.  (B, C, H, W), (B, h*w) -> (B, C, H, W)"""
        encoder, grid = self.encoder, self.encoder.grid_of(pixels)
        patches = encoder.patch_embed(pixels)
        patches = torch.where(mask[..., None], self.decoder.mask_token, patches)
        x = encoder.place(patches, grid)
        *_, x = encoder.through(x, grid)
        x = encoder.norm(x)[:, encoder.config.num_prefix :]
        out: Tensor = self.decoder(x.transpose(1, 2).reshape(len(x), -1, *grid))
        return out

    def loss(self, pixels: Tensor, prediction: Tensor, mask: Tensor) -> Tensor:
        """The mean absolute error of the hidden pixels.  -> ()"""
        hidden = mask.reshape(len(mask), *self.encoder.grid_of(pixels))
        for dim, side in enumerate(self.encoder.config.patch_size, start=1):
            hidden = hidden.repeat_interleave(side, dim)
        error = (pixels - prediction).abs() * hidden[:, None]
        return error.sum() / (hidden.sum() + 1e-5) / pixels.shape[1]

    def picture(self, pixels: Tensor, prediction: Tensor) -> Tensor:
        """The prediction, which already is pixels.  -> (B, C, H, W)"""
        return prediction
