"""The text transformer of CLIP, SigLIP and their kin: token ids into the joint space of images and
texts.

One class for the text towers of CLIP (arXiv 2103.00020), open_clip, MetaCLIP (2309.16671,
2507.22062), SigLIP (2303.15343), SigLIP 2 (2502.14786) and Perception Encoder (2504.13181): a
table of tokens, a table of positions, and the blocks of a Vision Transformer. The differences are
options of `TextConfig`. L is the number of tokens of a text.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vitcli.models.layers import Block, norm_of
from vitcli.models.positions import NOWHERE, Position
from vitcli.models.text_config import TextConfig


class TextTransformer(nn.Module):
    """Token ids to a vector of the joint space, equal to `get_text_features` of transformers and
    `encode_text` of open_clip (`open_clip/transformer.py`, `TextTransformer`)."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        dim, width = config.embed_dim, config.projection
        self.token_embed = nn.Embedding(config.vocab_size, dim)
        self.pos_embed = nn.Parameter(torch.zeros(1, config.context_length, dim))
        self.blocks = nn.ModuleList(Block(config, 0.0) for _ in range(config.depth))
        self.norm = norm_of(config, dim)
        self.proj = nn.Linear(dim, width, config.projection_bias) if width else nn.Identity()

    def forward(self, ids: Tensor) -> Tensor:
        """int64 (B, L) -> (B, E), not scaled to unit length

        With a causal mask, tokens after the pooled one change nothing, and are left out.
        """
        places = self.places(self.config, ids)
        if self.config.causal:
            ids = ids[:, : int(places.max()) + 1]
        x = self.token_embed(ids) + self.pos_embed[:, : ids.shape[1]]
        position = self._mask(ids.shape[1], x) if self.config.causal else NOWHERE
        for block in self.blocks:
            x = block(x, position)
        texts = torch.arange(len(ids), device=ids.device)
        out: Tensor = self.proj(self.norm(x[texts, places]))
        return out

    @staticmethod
    def places(config: TextConfig, ids: Tensor) -> Tensor:
        """The place of the token that stands for each text.  (B, L) -> (B,)"""
        match config.pool:
            case "first":
                return ids.new_zeros(len(ids))
            case "last":
                return ids.new_full((len(ids),), ids.shape[1] - 1)
            case "argmax":
                return ids.argmax(dim=1)
            case "eos":
                return (ids == config.eos_id).int().argmax(dim=1)

    @staticmethod
    def _mask(length: int, like: Tensor) -> Position:
        """The bias that hides the tokens after each token.  -> (1, L, L)"""
        hidden = like.new_full((length, length), -torch.inf).triu(1)
        return Position(bias=hidden[None])
