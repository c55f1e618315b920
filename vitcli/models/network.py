"""Build the network of a config."""

from __future__ import annotations

from typing import Protocol, TypeAlias, runtime_checkable

from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin import SwinTransformer
from vitcli.models.vit import VisionTransformer

Network: TypeAlias = VisionTransformer | SwinTransformer


@runtime_checkable
class Layered(Protocol):
    """A network that knows the layer of each parameter or module by its name, as timm's
    `group_matcher` and `no_weight_decay` do."""

    @property
    def num_blocks(self) -> int: ...

    def block_of(self, name: str) -> int | None:
        """The block of a parameter or module, counted from 1; None outside the blocks."""

    def layer_of(self, name: str) -> int:
        """The layer of a parameter or module: 0 before the blocks, i in block i, `num_blocks` + 1
        after the blocks."""

    def is_undecayed(self, name: str) -> bool:
        """Whether weight decay skips a parameter that is not a vector: a token or a position."""


def network_of(config: Config) -> Network:
    """Build a network with PyTorch's initial parameters, or on the meta device."""
    return VisionTransformer(config) if isinstance(config, ViTConfig) else SwinTransformer(config)
