"""Measure how much faster `--merge-tokens` makes the network alone, on images as ready bytes.

    python benchmarks/merging.py --models b l --merge-tokens auto 16 --rounds 5

The weights are random: the time does not depend on them. The exact run and the merged ones take
turns; the ratio is the median over the rounds. `benchmarks/agreement.py --merge-tokens` measures
what merging changes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from vitcli.engines import MergeTokens
from vitcli.models.config import ViTConfig
from vitcli.models.cost import multiply_adds
from vitcli.models.engine import Logits
from vitcli.models.merging import merged_pairs
from vitcli.models.prepare import TorchEngine, prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16)}  # width, blocks, heads


def config_of(name: str) -> ViTConfig:
    """A ViT with patches of 16 pixels at 224 pixels."""
    width, depth, heads = SIZES[name]
    return ViTConfig(
        image_size=(224, 224),
        patch_size=(16, 16),
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        hidden_dim=4 * width,
        num_classes=1000,
    )


def engine_of(config: ViTConfig, pairs: int, args: argparse.Namespace) -> Callable[..., object]:
    """The network that merges `pairs` in each block, as a run makes it."""
    torch.manual_seed(0)
    network = VisionTransformer(replace(config, merge_tokens=pairs)).eval()
    plan = Preprocess(size=config.image_size, resize=config.image_size)
    ready = prepare(network, plan, "cpu", args.dtype, quantize=args.quantize, compile=args.compile)
    return TorchEngine(ready, Logits())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=list(SIZES), default=["b"])
    parser.add_argument("--merge-tokens", nargs="+", default=["auto"], help="N or auto")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--quantize", choices=("int8",))
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    draw = np.random.default_rng(0)
    batch = draw.integers(0, 256, (args.batch_size, 224, 224, 3), dtype=np.uint8)
    print(
        "| | pairs in each block | multiply-adds left | images/s | faster |\n|---|---|---|---|---|"
    )
    for name in args.models:
        config = config_of(name)
        asked: list[MergeTokens] = [n if n == "auto" else int(n) for n in args.merge_tokens]
        counts = [0, *(merged_pairs(config, one) for one in asked)]
        engines = [engine_of(config, pairs, args) for pairs in counts]
        rounds = []
        for _ in range(args.rounds):
            rounds.append([seconds(engine, batch) for engine in engines])
        for n, pairs in enumerate(counts):
            left = multiply_adds(replace(config, merge_tokens=pairs)) / multiply_adds(config)
            rate = args.batch_size / statistics.median(taken[n] for taken in rounds)
            ratio = statistics.median(taken[0] / taken[n] for taken in rounds)
            print(f"| {name.upper()}/16 | {pairs} | {left:.0%} | {rate:.1f} | {ratio:.2f}x |")


def seconds(engine: Callable[..., object], batch: np.ndarray) -> float:
    """The time of a batch, after one that is not counted."""
    engine(batch)
    started = time.perf_counter()
    engine(batch)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
