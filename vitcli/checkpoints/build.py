"""Build a network that holds exactly the given tensors. Errors use the file's names and shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vitcli.checkpoints.file_names import Shapes, Spelling, missing
from vitcli.checkpoints.keymap import NOT_WHOLE
from vitcli.checkpoints.layouts.layout import Decoder, Json, MissingTensor, Reconstruction
from vitcli.errors import CheckpointError, listed
from vitcli.models.config import Config
from vitcli.models.network import Network, network_of
from vitcli.models.text import TextTransformer
from vitcli.models.text_config import TextConfig
from vitcli.models.vit import VisionTransformer

Module = TypeVar("Module", bound=nn.Module)
MAX_LISTED = 5


class _Uninitialised(TorchFunctionMode):
    """Skips the random initialisation of layers: every parameter is filled from the file."""

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func in (nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.trunc_normal_):
            return (kwargs or {}).get("tensor", args[0] if args else None)
        return func(*args, **(kwargs or {}))


def build(
    config: Config, tensors: Mapping[str, Tensor], spelling: Spelling = Spelling()
) -> Network:
    """Build the network. Nothing is allocated before the shapes agree, so a config with false sizes
    costs nothing. Raises CheckpointError for missing, misshapen or surplus tensors."""
    return _filled(lambda: network_of(config), tensors, spelling)


def build_text(
    config: TextConfig, tensors: Mapping[str, Tensor], spelling: Spelling
) -> TextTransformer:
    """Build a text transformer as strictly."""
    return _filled(lambda: TextTransformer(config), tensors, spelling)


def with_decoder(
    network: Network,
    decoder: Decoder,
    tensors: Mapping[str, Tensor],
    json: Json,
    spelling: Spelling,
) -> Reconstruction:
    """Build the decoder, fill it as strictly, and join it to the network."""
    assert isinstance(network, VisionTransformer)  # no other layout has a decoder
    try:
        with torch.device("meta"), _Uninitialised():
            empty, join = decoder.parts(network.config, tensors, json)
    except MissingTensor as error:
        raise missing(error, spelling) from None
    return join(network, _filled(lambda: empty, tensors, spelling)).eval()


def _filled(
    make: Callable[[], Module], tensors: Mapping[str, Tensor], spelling: Spelling
) -> Module:
    """Make a module without memory, and fill it with exactly these tensors."""
    with torch.device("meta"), _Uninitialised():
        network = make()
    expected = {name: tuple(p.shape) for name, p in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    absent = {name: shape for name, shape in expected.items() if name not in found}
    if absent:
        shown, count = _listed(absent, spelling)
        raise CheckpointError(f"{shown} {'is' if count == 1 else 'are'} missing", NOT_WHOLE)
    surplus = {name: shape for name, shape in found.items() if name not in expected}
    if surplus:
        shown, count = _listed(surplus, spelling)
        raise CheckpointError(
            f"{shown} {'has' if count == 1 else 'have'} no place in the model",
            "an unknown tensor may change the numbers, so it is not ignored",
        )
    wrong = [text for name in expected for text in _misfit(name, expected, found, spelling)]
    if wrong:
        raise CheckpointError(
            f"tensors of the wrong shape: {listed(wrong, MAX_LISTED)}",
            "the config and the weights belong to different models",
        )
    integers = {n: shape for n, shape in expected.items() if not tensors[n].is_floating_point()}
    if integers:
        shown, count = _listed(integers, spelling)
        raise CheckpointError(f"{shown} holds whole numbers, not weights")
    network.load_state_dict(dict(tensors), assign=True)
    return network.requires_grad_(False).eval()


def _misfit(name: str, expected: Shapes, found: Shapes, spelling: Spelling) -> list[str]:
    """List the file's tensors that give a tensor of the network the wrong shape."""
    if expected[name] == found[name]:
        return []
    theirs = spelling.parts(name, expected[name])
    real = {part: spelling.shape(part) for part in theirs}
    return [
        f"{part}: expected {list(shape)}, found {list(real[part] or found[name])}"
        for part, shape in theirs.items()
        if shape != real[part]
    ]


def _listed(shapes: Shapes, spelling: Spelling) -> tuple[str, int]:
    """The first names and shapes, as in the file, and the total number."""
    parts: dict[str, tuple[int, ...]] = {}
    for name, shape in shapes.items():
        parts |= spelling.parts(name, shape)
    texts = [f"{name} {list(shape)}" for name, shape in parts.items()]
    total = f" ({len(texts)} tensors)" * (len(texts) > MAX_LISTED)
    return listed(texts, MAX_LISTED) + total, len(texts)
