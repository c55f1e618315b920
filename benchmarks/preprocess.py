"""Measure images a CPU second, from JPEG files to the input of a network, for vit and its peers.

    python benchmarks/preprocess.py FOLDER --peers /envs/peers/bin/python

Each contender reads the files of FOLDER in order, on one thread and without workers, into
normalised fp32 batches of 16 for a ViT of 224x224. They run by turns, each in its own process, for
`--rounds` rounds. The time is the CPU's, after a first pass over 16 images, so other work on the
machine matters little. Ratios compare runs of the same round, and their median is printed.
`--peers` is the Python with torchvision, timm and transformers.

`timm` is its dataset and loader; `transformers` is `load_image` and the image processor, as in its
pipeline.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

BATCH = 16
CONTENDERS = {  # whose Python, backend, filter
    "transformers, Pillow": ("transformers", "pil"),
    "transformers, torchvision": ("transformers", "torchvision"),
    "timm": ("timm", ""),
    "vit": ("vit", "pillow"),
    "vit --preprocess hf-fast": ("vit", "torch"),
    "vit --decode fast": ("vit", "fast"),
}
FILTERS = ("bilinear", "bicubic")
ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
Paths = list[str]


def by_transformers(backend: str, resample: str) -> Callable[[Paths], Any]:
    from transformers import ViTImageProcessor, ViTImageProcessorPil
    from transformers.image_utils import load_image

    made = (ViTImageProcessorPil if backend == "pil" else ViTImageProcessor)(
        resample={"bilinear": 2, "bicubic": 3}[resample]
    )

    def run(paths: Paths) -> None:
        for path in paths:  # as the pipeline does, whatever its batches
            made(load_image(path), return_tensors="pt")

    return run


def by_timm(_: str, resample: str) -> Callable[[Paths], Any]:
    import torch
    from timm.data import ImageDataset, create_transform

    transform = create_transform((3, 224, 224), interpolation=resample, crop_pct=1.0)

    def run(paths: Paths) -> None:
        dataset = ImageDataset(str(Path(paths[0]).parent), transform=transform)
        loader = torch.utils.data.DataLoader(dataset, BATCH, num_workers=0)
        done = 0
        for _pixels, _targets in loader:
            done += BATCH
            if done >= len(paths):
                return

    return run


def by_vit(how: str, resample: str) -> Callable[[Paths], Any]:
    import torch

    from vitcli.images.job import DecodeJob
    from vitcli.images.loader import iter_batches
    from vitcli.models.normalise import Normalisation
    from vitcli.records import ImageRef, Preprocess

    plan = Preprocess(
        *((224, 224), (224, 224)),
        resample=resample,  # type: ignore[arg-type]
        resizer="torch" if how == "torch" else "pillow",
        decode="fast" if how == "fast" else "exact",
    )
    normalise = Normalisation(plan)
    os.environ.setdefault("PILLOW_BLOCK_SIZE", "512m")

    def run(paths: Paths) -> None:
        refs = (ImageRef(number, path) for number, path in enumerate(paths))
        for batch in iter_batches(refs, DecodeJob((plan,)), lambda: BATCH, 0):
            normalise(torch.as_tensor(batch.pixels_for()).permute(0, 3, 1, 2))

    return run


def measure(name: str, resample: str, folder: Path, images: int) -> float:
    """Images per CPU second of one contender, in this process."""
    import torch

    torch.set_num_threads(1)
    library, how = CONTENDERS[name]
    run = {"transformers": by_transformers, "timm": by_timm, "vit": by_vit}[library](how, resample)
    paths = sorted(str(path) for path in folder.iterdir())[:images]
    run(paths[:BATCH])
    started = time.process_time()
    run(paths)
    return len(paths) / (time.process_time() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--peers", default=sys.executable)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", nargs=2, metavar=("CONTENDER", "FILTER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(measure(*args.one, args.folder, args.images))
        return
    environment = {**os.environ, **ONE_THREAD, "PILLOW_BLOCK_SIZE": "512m"}
    for resample in FILTERS:
        rates: dict[str, list[float]] = {name: [] for name in CONTENDERS}
        for _ in range(args.rounds):
            for name, (library, _how) in CONTENDERS.items():
                python = sys.executable if library == "vit" else args.peers
                words = [python, __file__, str(args.folder), "--images", str(args.images)]
                done = subprocess.run(
                    [*words, "--one", name, resample],
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                if done.returncode:
                    raise SystemExit(f"{name}\n{done.stderr}")
                rates[name].append(float(done.stdout))
        print(f"\n{resample}, {args.images} images, {args.rounds} rounds, medians\n")
        print("| | images/s | against transformers, Pillow | against timm |\n|---|---|---|---|")
        for name, found in rates.items():
            ratios = [
                statistics.median(a / b for a, b in zip(found, rates[peer], strict=True))
                for peer in ("transformers, Pillow", "timm")
            ]
            shown = " | ".join(f"{ratio:.2f}x" for ratio in ratios)
            print(f"| {name} | {statistics.median(found):.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
