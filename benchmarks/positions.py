"""Measure the cost of positions that act inside attention, for a ViT-B/16 at 224x224 on the CPU:
rotations (DINOv3, Perception Encoder) and BEiT's biases, against the same network without them.

    OMP_NUM_THREADS=1 python benchmarks/positions.py --rounds 15

Each round runs all networks once, in an order that rotates, on one batch. Times are those of the
processor, which other work on the machine changes little; the ratio is the median over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from vitcli.models.block_config import Rope
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import Prepared, prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

PLAIN = ViTConfig(
    image_size=(224, 224),
    patch_size=(16, 16),
    embed_dim=768,
    depth=12,
    num_heads=12,
    hidden_dim=3072,
)
PAIRS = Rope(theta=10_000.0, coordinates="index", offset=1, columns_first=True, halves=False)
CONFIGS = {
    "plain": PLAIN,
    "rotations, halves (DINOv3)": replace(PLAIN, pos_embed=False, pos_prefix=0, rope=Rope()),
    "rotations, pairs (PE, EVA-02)": replace(PLAIN, rope=PAIRS),
    "biases (BEiT)": replace(PLAIN, pos_embed=False, pos_prefix=0, rel_bias="block"),
}
PLAN = Preprocess(
    size=(224, 224), resize=(224, 224), rescale=1 / 255, mean=(0.5,) * 3, std=(0.5,) * 3, source=""
)


def runs(dtype: str, batch: int) -> dict[str, Callable[[], object]]:
    """A function that computes the embeddings of one batch, for each network."""
    pixels = torch.randint(0, 256, (batch, 224, 224, 3), dtype=torch.uint8).numpy()

    def run(prepared: Prepared) -> Callable[[], object]:
        return lambda: prepared.run(lambda network, x: network(x), pixels)

    networks = {name: VisionTransformer(config).eval() for name, config in CONFIGS.items()}
    return {name: run(prepare(net, PLAN, "cpu", dtype)) for name, net in networks.items()}  # type: ignore[arg-type]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=8)
    options = parser.parse_args()
    for dtype in ("fp32", "bf16"):
        timed = runs(dtype, options.batch)
        for run in timed.values():
            run()
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        names = list(timed)
        for turn in range(options.rounds):
            for place in range(len(names)):
                name = names[(turn + place) % len(names)]
                started = time.process_time()
                timed[name]()
                seconds[name].append(time.process_time() - started)
        print(f"\n| {dtype} | ms an image | against plain | single rounds |\n|---|---|---|---|")
        for name, times in seconds.items():
            ratios = [t / plain for t, plain in zip(times, seconds["plain"], strict=True)]
            share = statistics.median(ratios)
            each = 1000 * statistics.median(times) / options.batch
            print(f"| {name} | {each:.1f} | {share:.3f} | {min(ratios):.2f} to {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
