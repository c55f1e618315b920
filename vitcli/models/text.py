"""The text transformer of CLIP, SigLIP and their kin: token ids into the joint space of images and
texts.

One class for the text towers of CLIP (arXiv 2103.00020), open_clip, MetaCLIP (2309.16671,
2507.22062), SigLIP (2303.15343), SigLIP 2 (2502.14786) and Perception Encoder (2504.13181): a
table of tokens, a table of positions, and the blocks of a Vision Transformer. The differences are
options of `TextConfig`. L is the number of tokens of a text.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from vitcli.errors import CheckpointError
from vitcli.models.block_config import BlockConfig
from vitcli.models.fields import LIMITS, check_count
from vitcli.models.layers import Block, norm_of
from vitcli.models.positions import NOWHERE, Position

TextPool = Literal["first", "last", "argmax", "eos"]
POOLS: dict[TextPool, str] = {
    "first": "the first token",
    "last": "the last position, which may be padding",
    "argmax": "the token with the highest id",
    "eos": "the first end-of-text token",
}
MAX_TOKENS, MAX_VOCABULARY = 4096, 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class TextConfig(BlockConfig):
    """Everything that shapes a `TextTransformer`.

    `causal` tokens attend to those before them alone. `pool` says which token stands for the text;
    for *eos*, it is the first with the id `eos_id`.
    """

    vocab_size: int
    context_length: int
    projection: int = 0  # the width of the joint space; 0: no projection
    projection_bias: bool = False
    causal: bool = True
    pool: TextPool = "argmax"
    eos_id: int = 0

    def __post_init__(self) -> None:
        self.check_block()
        check_count("vocab_size", self.vocab_size, 1, MAX_VOCABULARY)
        check_count("context_length", self.context_length, 1, MAX_TOKENS)
        check_count("projection", self.projection, 0, LIMITS["embed_dim"])
        check_count("eos_id", self.eos_id, 0, self.vocab_size - 1)
        if self.projection_bias and not self.projection:
            raise CheckpointError("a bias of the projection needs a projection")

    @property
    def joint_dim(self) -> int:
        """The width of the joint space."""
        return self.projection or self.embed_dim

    def sizes(self) -> dict[str, object]:
        """Every field, for JSON."""
        return asdict(self)

    def describe(self) -> dict[str, str]:
        """The sizes and options in words, one entry for each subject."""
        mask = "each token attends to those before it" if self.causal else "all tokens attend"
        return {
            "context": f"{self.context_length} tokens of {self.vocab_size:,}; {mask}",
            "width": f"{self.embed_dim}",
            "depth": f"{self.depth} blocks",
            "heads": f"{self.num_heads} of {self.embed_dim // self.num_heads}",
            "feed-forward": f"{self.hidden_dim}, {self.act}",
            "pooling": f"{POOLS[self.pool]}, final norm before it",
            "norm": f"LayerNorm, eps {self.norm_eps:g}".replace("e-0", "e-"),
            "joint space": f"{self.joint_dim}"
            + ", with a bias" * self.projection_bias
            + ", without a projection" * (not self.projection),
        }


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
        places = self.pooled_places(ids)
        if self.config.causal:
            ids = ids[:, : int(places.max()) + 1]
        x = self.token_embed(ids) + self.pos_embed[:, : ids.shape[1]]
        position = self._mask(ids.shape[1], x) if self.config.causal else NOWHERE
        for block in self.blocks:
            x = block(x, position)
        texts = torch.arange(len(ids), device=ids.device)
        out: Tensor = self.proj(self.norm(x[texts, places]))
        return out

    def pooled_places(self, ids: Tensor) -> Tensor:
        """The place of the token that stands for each text.  (B, L) -> (B,)"""
        match self.config.pool:
            case "first":
                return ids.new_zeros(len(ids))
            case "last":
                return ids.new_full((len(ids),), ids.shape[1] - 1)
            case "argmax":
                return ids.argmax(dim=1)
            case "eos":
                return (ids == self.config.eos_id).int().argmax(dim=1)

    @staticmethod
    def _mask(length: int, like: Tensor) -> Position:
        """The bias that hides the tokens after each token.  -> (1, L, L)"""
        hidden = like.new_full((length, length), -torch.inf).triu(1)
        return Position(bias=hidden[None])
