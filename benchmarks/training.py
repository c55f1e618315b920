"""Measure seconds and memory of a training step: vit's networks against transformers'.

    python benchmarks/training.py --material /tmp/material --model b --batch-size 8
    python benchmarks/training.py --material /tmp/material --memory

All networks train in vit's loop (`vitcli.training.loop.Trainer`) with the same batch of pixels, the
same loss, the same clipping, and AdamW with the same groups. They take turns for `--rounds` rounds.
The script prints the median, the fastest, and the median ratio to the first contender in the same
round. `--memory` runs each in its own process and prints its peak memory.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from vitcli.checkpoints.load import load
from vitcli.records import Preprocess
from vitcli.tasks.bench.memory import peak_memory
from vitcli.training.feed import Order, Step
from vitcli.training.loop import Trainer, TrainingPlan
from vitcli.training.objective import Classify, Normalise
from vitcli.training.optim import Optimisation
from vitcli.training.recipe import Recipe, Trained

CPU = torch.device("cpu")
CONTENDERS = ("transformers fp32", "transformers bf16", "vit fp32", "vit bf16")
PLAN = Preprocess((224, 224), (224, 224))


@dataclass(slots=True)
class SameBatch:
    """A feed that repeats one batch of noise."""

    order: Order

    def steps(self, epoch: int, step: int, epochs: int) -> Iterator[Step]:
        count = self.order.batch
        draw = torch.Generator().manual_seed(0)
        pixels = torch.randint(0, 256, (count, 224, 224, 3), generator=draw, dtype=torch.uint8)
        labels = torch.randint(0, 1000, (count,), generator=draw)
        for number in range(epochs):
            yield Step(number, 0, pixels, labels, torch.arange(count), 0)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        return iter(())


class TheirLogits(nn.Module):
    """A module that returns the logits of transformers' model."""

    def __init__(self, folder: Path, checkpointing: bool) -> None:
        super().__init__()
        from transformers import ViTForImageClassification

        self.model = ViTForImageClassification.from_pretrained(folder)
        if checkpointing:
            self.model.gradient_checkpointing_enable()

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, K)"""
        logits: Tensor = self.model(pixel_values=pixels).logits
        return logits


def steps_of(name: str, folder: Path, batch: int, checkpointing: bool = False) -> Iterator[object]:
    """Train without end; yield after every step."""
    whose, dtype = name.split()
    autocast = None
    if whose == "vit":
        low = {"fp32": torch.float32, "bf16": torch.bfloat16}[dtype]
        network = load(str(folder)).network
        trained = Trained(network, Recipe("full"), dtype=low, checkpointing=checkpointing)
    else:
        network = TheirLogits(folder, checkpointing)
        trained = Trained(network, Recipe("full"), on_cpu=False)
        autocast = torch.bfloat16 if dtype == "bf16" else None
    many = 1_000_000
    plan = TrainingPlan(
        epochs=many,
        seed=0,
        optimisation=Optimisation(lr=1e-5, steps=many),
        device=CPU,
        autocast=autocast,
    )
    trainer = Trainer(
        trained,
        SameBatch(Order(batch, batch, 0)),
        Classify(Normalise(PLAN, CPU), 1000),
        plan,
        save=lambda state: None,
        best=lambda: None,
    )
    events = trainer.run()
    while True:
        yield next(events)  # the step
        next(events)  # the end of its epoch, without held-out images


def measure(folder: Path, batch: int, rounds: int) -> None:
    running = {name: steps_of(name, folder, batch) for name in CONTENDERS}
    seconds: dict[str, list[float]] = {name: [] for name in CONTENDERS}
    for number in range(rounds + 1):
        for name, steps in running.items():
            started = time.perf_counter()
            next(steps)
            took = time.perf_counter() - started
            print(f"round {number}, {name}: {took:.2f} s", file=sys.stderr, flush=True)
            if number:  # the first round allocates buffers and states
                seconds[name].append(took)
    first = seconds[CONTENDERS[0]]
    print("| | median, s | fastest, s | of the first |\n|---|---|---|---|")
    for name, times in seconds.items():
        shares = [mine / theirs for mine, theirs in zip(times, first, strict=True)]
        middle = statistics.median(times)
        print(f"| {name} | {middle:.2f} | {min(times):.2f} | {statistics.median(shares):.3f} |")


def measure_memory(arguments: list[str]) -> None:
    print("| | peak, MB | with checkpointing, MB |\n|---|---|---|")
    for name in CONTENDERS:
        peaks = [
            subprocess.run(
                [sys.executable, __file__, *arguments, "--alone", name, *more],
                check=True,
                capture_output=True,
                text=True,
            ).stdout.strip()
            for more in ([], ["--checkpointing"])
        ]
        print(f"| {name} | {' | '.join(peaks)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--material", type=Path, required=True)
    parser.add_argument("--model", choices=["ti", "s", "b"], default="b")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument(
        "--alone", choices=CONTENDERS, help="run two steps and print the peak in MB"
    )
    parser.add_argument("--checkpointing", action="store_true", help="for --alone")
    args = parser.parse_args()
    folder = args.material / f"vit-{args.model}16"
    if args.alone:
        steps = steps_of(args.alone, folder, args.batch_size, args.checkpointing)
        next(steps), next(steps)
        print(f"{peak_memory() / 1e6:,.0f}")
    elif args.memory:
        measure_memory([word for word in sys.argv[1:] if word != "--memory"])
    else:
        measure(folder, args.batch_size, args.rounds)


if __name__ == "__main__":
    main()
