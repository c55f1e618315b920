"""Make models and images for the other benchmarks; the same photographs give the same material.

    python benchmarks/material.py --photos ~/Pictures --folder /tmp/material

The models are ViT-Ti/16, S/16 and B/16 with random weights and a thousand labels, in the layouts of
transformers and timm. The images are crops of `--photos`, some mirrored, scaled to
500x375 (`small`, typical of ImageNet) and 4000x3000 (`large`, typical of a phone), as JPEG of
quality 90.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

from vitcli.tasks.convert import ConvertJob, convert

SIZES = {"ti": (192, 3), "s": (384, 6), "b": (768, 12)}  # width, heads
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
SMALL, LARGE = (500, 375), (4000, 3000)


def make_models(folder: Path) -> None:
    for name, (width, heads) in SIZES.items():
        torch.manual_seed(0)
        config = ViTConfig(
            hidden_size=width,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            num_labels=1000,
            layer_norm_eps=1e-6,
        )
        target = folder / f"vit-{name}16"
        ViTForImageClassification(config).save_pretrained(target)
        ViTImageProcessorPil().save_pretrained(target)
        timm = folder / f"vit-{name}16-timm"
        convert(ConvertJob(source=str(target), target=timm, to="timm", overwrite=True))


def make_photographs(sources: list[Path], folder: Path, size: tuple[int, int], count: int) -> None:
    """Make `count` images of `size`, each a random crop of the next source."""
    draw = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        with Image.open(sources[number % len(sources)]) as opened:
            image = opened.convert("RGB")
        if number // len(sources) % 2:
            image = ImageOps.mirror(image)
        share = draw.uniform(0.6, 1.0)
        width, height = (max(1, round(side * share)) for side in image.size)
        left = int(draw.integers(0, image.width - width + 1))
        top = int(draw.integers(0, image.height - height + 1))
        part = image.crop((left, top, left + width, top + height))
        part = ImageOps.fit(part, size, Image.Resampling.BICUBIC)
        part.save(folder / f"{number:04d}.jpg", quality=90)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--photos", type=Path, required=True, help="a folder of photographs")
    parser.add_argument("--folder", type=Path, required=True, help="folder for models and images")
    parser.add_argument("--small", type=int, default=400)
    parser.add_argument("--large", type=int, default=64)
    args = parser.parse_args()
    photographs = sorted(p for p in args.photos.rglob("*") if p.suffix.lower() in SUFFIXES)
    make_models(args.folder)
    make_photographs(photographs, args.folder / "small", SMALL, args.small)
    make_photographs(photographs, args.folder / "large", LARGE, args.large)


if __name__ == "__main__":
    main()
