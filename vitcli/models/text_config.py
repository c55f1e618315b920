"""The sizes and options of a text transformer, validated."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from vitcli.errors import CheckpointError
from vitcli.models.block_config import BlockConfig
from vitcli.models.fields import LIMITS, check_count

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
