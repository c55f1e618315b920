"""Choose which parameters of a network train: head, last N blocks, LoRA, or all."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn

from vitcli.checkpoints.layouts.layout import Library
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.preprocess.choose import as_written
from vitcli.checkpoints.write import library_for
from vitcli.errors import CheckpointError, UsageError
from vitcli.models.config import Config, ViTConfig
from vitcli.models.layers import DropPath
from vitcli.models.network import Layered, Network, network_of
from vitcli.models.training import twin_of, with_checkpoints, with_products

RecipeKind = Literal["head", "last", "lora", "full"]
LORA_PARTS = ("lora_a", "lora_b")


@dataclass(frozen=True, slots=True)
class Recipe:
    """The choice of parameters to train. `last` trains the last `blocks` blocks; `lora` adds a
    product of two matrices of rank `rank`, times alpha / rank, to every linear map of the blocks
    (arXiv 2106.09685). Both train the head, too."""

    kind: RecipeKind
    blocks: int = 0
    rank: int = 8
    alpha: float = 16.0

    def __str__(self) -> str:
        return f"last-{self.blocks}" if self.kind == "last" else self.kind


def parse_recipe(text: str, rank: int, alpha: float) -> Recipe:
    """Parse `head`, `full`, `lora` or `last-2`. Raises UsageError."""
    if match := re.fullmatch(r"last-(\d+)", text):
        if int(match[1]) < 1:
            raise UsageError("--train last-0 trains no block", "--train head trains the head alone")
        return Recipe("last", int(match[1]))
    if text not in ("head", "full", "lora"):
        raise UsageError(f"--train {text} is not known", "known are head, full, lora, and last-N")
    return Recipe(text, rank=rank, alpha=alpha)  # type: ignore[arg-type]


def with_head(model: Model, classes: Sequence[str]) -> Model:
    """Return the model unchanged if it has a softmax head for these classes, else with a new head
    of zeros, and the preprocessing that is written with it. Raises CheckpointError if neither
    transformers nor timm can express the new model."""
    is_same = set(classes) == set(model.labels) and len(set(classes)) == len(model.labels)
    if is_same and model.score_function == "softmax":
        return model
    forms = _forms(model.config, len(classes))
    library, config = _writable(forms)
    plan = model.preprocess
    if library == "timm":
        if plan.crop == "hf-fast":
            raise CheckpointError(
                "the new model is written for timm, which does not preprocess as --preprocess "
                "hf-fast",
                "leave it out, or give --preprocess timm",
            )
        kept = {name: getattr(plan, name) for name in ("exif", "decode", "grey16", "source")}
        plan = replace(as_written(plan, "timm"), **kept)
    return replace(
        model,
        source=_headed(model.network, config),
        preprocess=plan,
        labels=tuple(classes),
        problem_type=None,
        reconstruction=None,
        provenance=replace(model.provenance, labels="data"),
    )


def _writable(forms: Sequence[Config]) -> tuple[Library, Config]:
    """The first form that transformers can express, else the first that timm can, and the library.
    Raises CheckpointError, with the first form's obstacles, if there is none."""
    errors: list[CheckpointError] = []
    found: dict[Library, Config] = {}
    for config in forms:
        try:
            found.setdefault(library_for(config), config)
        except CheckpointError as error:
            errors.append(error)
    for library in ("transformers", "timm"):
        if library in found:
            return library, found[library]
    raise errors[0]


def _forms(config: Config, classes: int) -> Sequence[Config]:
    """Configs of the backbone with a new classifier, in the order to try them: no library can
    express all of them. Rotary periods are those of theta, as the libraries compute them."""
    if not isinstance(config, ViTConfig):
        return [replace(config, num_classes=classes)]
    plain = replace(
        config,
        num_classes=classes,
        projection=0,
        projection_bias=False,
        dist_head=False,
        head_blocks=1,
        rope=replace(config.rope, periods=()) if config.rope else None,
    )
    forms = [plain]
    if config.pool != "mean":
        forms.append(replace(plain, pool="mean"))
    forms += [replace(form, head_norm=False) for form in forms]
    if config.class_token:
        forms.append(replace(plain, pool="cls+mean"))
    return forms


def _headed(network: Network, config: Config) -> Network:
    """A copy of the network with another config and a head of zeros."""
    new = network_of(config)
    old = network.state_dict()
    tensors = {}
    for name, empty in new.state_dict().items():
        is_head = name.split(".")[0] == "head"
        tensors[name] = torch.zeros_like(empty) if is_head else old[name].clone()
    new.load_state_dict(tensors)
    return new.eval()


class LoraLinear(nn.Module):
    """A frozen linear map plus a trained low-rank product: x W' + (x A') B' * scale."""

    def __init__(self, linear: nn.Linear, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self.linear = linear
        self.scale = recipe.alpha / recipe.rank
        draw = torch.Generator().manual_seed(seed)
        a = torch.randn(recipe.rank, linear.in_features, generator=draw)
        self.lora_a = nn.Parameter(a / linear.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(linear.out_features, recipe.rank))

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., F)"""
        out: Tensor = self.linear(x)
        added = nn.functional.linear(nn.functional.linear(x.float(), self.lora_a), self.lora_b)
        return out + self.scale * added.to(out.dtype)

    @torch.no_grad()
    def merged(self, weight: Tensor) -> Tensor:
        """Add the trained product to a weight.  (F, D) -> (F, D)"""
        return weight + self.scale * (self.lora_b @ self.lora_a).to(weight.device)


class Trained:
    """A network, and the `module` that trains in its place and shares its parameters.

    `parameters` maps names to the parameters that train.
    """

    def __init__(
        self,
        network: nn.Module,
        recipe: Recipe,
        *,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
        on_cpu: bool = True,
        checkpointing: bool = False,
        drop_path: float = 0.0,
        fixed: Collection[str] = (),
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        """`fixed` has the names of parameters that never train; `wrap` wraps the whole module."""
        self.network = network
        for name, parameter in network.named_parameters():
            trains = name not in fixed and _trains(name, recipe, network)
            parameter.requires_grad_(trains)
        module = network
        self._added: dict[str, LoraLinear] = {}
        if recipe.kind == "lora":
            module = self._with_lora(module, recipe, seed)
        if recipe.kind != "head" and on_cpu:
            module = with_products(module, dtype)
        if drop_path:
            module = _with_drop_path(module, drop_path)
        if checkpointing:
            module = with_checkpoints(module)
        self.module = wrap(module)
        names = {id(parameter): name for name, parameter in network.named_parameters()}
        for name, lora in self._added.items():
            names |= {id(getattr(lora, part)): f"{name}.{part}" for part in LORA_PARTS}
        self.parameters = {names[id(p)]: p for p in self.module.parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """The network's current tensors, with LoRA's products merged into the weights."""
        tensors = dict(self.network.state_dict())
        for name, lora in self._added.items():
            tensors[f"{name}.weight"] = lora.merged(tensors[f"{name}.weight"])
        return tensors

    def _with_lora(self, module: nn.Module, recipe: Recipe, seed: int) -> nn.Module:
        assert isinstance(module, Layered)
        block_of = module.block_of

        def swap(linear: nn.Module, name: str) -> nn.Module | None:
            if not isinstance(linear, nn.Linear) or block_of(name) is None:
                return None
            added = LoraLinear(linear, recipe, seed + len(self._added))
            self._added[name] = added.to(linear.weight.device)
            return self._added[name]

        return twin_of(module, swap)


def _trains(name: str, recipe: Recipe, network: nn.Module) -> bool:
    if recipe.kind in ("full", "head"):  # for "head", the network is the head
        return True
    assert isinstance(network, Layered)
    if recipe.kind == "lora":
        return name.split(".")[0] == "head"
    return network.layer_of(name) > network.num_blocks - recipe.blocks


def _with_drop_path(network: nn.Module, rate: float) -> nn.Module:
    """Add stochastic depth, whose rate grows linearly with the depth."""
    places = [name for name, inner in network.named_modules() if isinstance(inner, DropPath)]
    rates = dict(zip(places, torch.linspace(0, rate, max(1, len(places))).tolist(), strict=False))

    def swap(module: nn.Module, name: str) -> nn.Module | None:
        return DropPath(rates[name]) if isinstance(module, DropPath) else None

    return twin_of(network, swap)


def headless(network: Network) -> Network:
    """The network without its head; its output is the features that the head reads.
    (B, C, H, W) -> (B, D)"""
    twin = copy.copy(network)
    twin._modules = {**network._modules, "head": nn.Identity()}
    return twin


def filled(network: Network, tensors: Mapping[str, Tensor]) -> Network:
    """A copy of the network with these tensors, on the CPU."""
    config = network.config
    with torch.device("meta"):
        twin = network_of(config)
    cpu = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    twin.load_state_dict(cpu, assign=True)
    return twin.requires_grad_(False).eval()
