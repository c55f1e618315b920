"""A config into the network that it describes."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin import SwinTransformer
from vitcli.models.vit import VisionTransformer

Network: TypeAlias = VisionTransformer | SwinTransformer


@runtime_checkable
class Layered(Protocol):
    """A network that says where each parameter or module lies, by its name: timm's `group_matcher`
    and `no_weight_decay`."""

    @property
    def num_blocks(self) -> int: ...

    def block_of(self, name: str) -> int | None:
        """The number of the block that holds it, from 1; None outside of the blocks."""

    def layer_of(self, name: str) -> int:
        """0 for what makes the tokens, i for block i, `num_blocks` + 1 for what follows them."""

    def is_undecayed(self, name: str) -> bool:
        """Whether weight decay spares it, though it is no vector: a token or a position."""


def network_of(config: Config) -> Network:
    """Parameters as PyTorch starts them, or on the meta device: they are to be loaded."""
    return VisionTransformer(config) if isinstance(config, ViTConfig) else SwinTransformer(config)
