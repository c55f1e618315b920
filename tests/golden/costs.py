"""Writes what timm's own models of the catalogue cost: `costs.json`, which the tests compare with.

Run by hand, in an environment with timm, after a change of the catalogue:

    python tests/golden/costs.py

The counter of torch counts every product of matrices as `vitcli/models/cost.py` does, at the image
size of each model.
"""

import json
import tomllib
from pathlib import Path

import timm
import torch
from torch.utils.flop_counter import FlopCounterMode

COSTS = Path(__file__).with_name("costs.json")
CATALOGUE = Path(__file__).parents[2] / "vitcli" / "checkpoints" / "catalogue.toml"


def cost(architecture: str) -> dict[str, int]:
    """The image size, parameters and multiply-adds of a model, made without weights."""
    with torch.device("meta"):
        model = timm.create_model(architecture).eval().requires_grad_(False)
        image = torch.empty(1, *model.pretrained_cfg["input_size"])
    with FlopCounterMode(display=False) as counter:
        model(image)
    return {
        "image": image.shape[-1],
        "parameters": sum(p.numel() for p in model.parameters()),
        "multiply_adds": counter.get_total_flops() // 2,
    }


def main() -> None:
    families = tomllib.loads(CATALOGUE.read_text("utf-8"))["models"].values()
    architectures = {name: name.partition("/")[2] for models in families for name in models}
    costs = {n: cost(a) for n, a in architectures.items() if timm.is_model(a.partition(".")[0])}
    lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(c)}" for name, c in costs.items())
    COSTS.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8", newline="\n")
    print(f"{COSTS.name}: {len(costs)} models")


if __name__ == "__main__":
    main()
