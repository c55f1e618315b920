"""A config into the network that it describes."""

from __future__ import annotations

from typing import TypeAlias

from vitcli.models.config import Config, ViTConfig
from vitcli.models.swin import SwinTransformer
from vitcli.models.vit import VisionTransformer

Network: TypeAlias = VisionTransformer | SwinTransformer


def network_of(config: Config) -> Network:
    """Parameters as PyTorch starts them, or on the meta device: they are to be loaded."""
    return VisionTransformer(config) if isinstance(config, ViTConfig) else SwinTransformer(config)
