"""The numbers of a model's layers, as the options count them."""

from __future__ import annotations

from vitcli.errors import UsageError
from vitcli.models.config import Config


def layer_number(layer: int, config: Config, *, first: int) -> int:
    """The number of a layer from `first` on; -1 is the last. Raises UsageError if the model does
    not have it."""
    depth, name = config.depth, config.layer_name
    number = layer + depth + 1 if layer < 0 else layer
    if not first <= number <= depth:
        embedding = "" if first else "0 is the embedding output, "
        raise UsageError(
            f"--layer {layer}: the model has {depth} {name}s",
            f"{embedding}1 is the first {name}, {depth} or -1 the last",
        )
    return number
