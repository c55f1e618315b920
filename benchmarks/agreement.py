"""Measure the agreement of `--dtype bf16` and `--quantize int8` with fp32, on each engine.

With `--merge-tokens`, that of merged patches with the exact run, in fp32.

    apt-get download tuxpaint-stamps-default mate-backgrounds
    for package in *.deb; do dpkg -x $package photos; done
    python benchmarks/agreement.py --photos photos --folder /tmp/agreement

prints a Markdown table for each of

- the demo model, on the held-out digits;
- a ViT of 2.8 million parameters on held-out images. It is trained here (minutes on two idle
  processors) to classify photographed things. An image shows one of CLASSES cut-out photographs
  (animals, fruit, tools, cars), turned, scaled and lit at random, in front of a part of another
  photograph; the held-out images use other parts;
- that ViT after `vit finetune` on as many other things (`--only finetuned`);
- a ViT-B/16 with random weights, as transformers draws them, and the same with larger queries and
  keys, so that attention has peaks, as in trained networks.

Every number comes from image files through `vitcli.classify` and `vitcli.embed`. The images and
models stay in `--folder` for the next run.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageEnhance
from torch import Tensor, nn

import vitcli
from vitcli.checkpoints.load import Model
from vitcli.checkpoints.write import write_hf
from vitcli.demo import train as demo
from vitcli.images.preprocess import preprocess
from vitcli.models import onednn
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Classified, Preprocess

EXACT: dict[str, Any] = {"engine": "torch", "dtype": "fp32"}
WAYS: tuple[dict[str, Any], ...] = (
    {"engine": "torch", "dtype": "bf16"},
    {"engine": "torch", "dtype": "fp32", "quantize": "int8"},
    {"engine": "openvino", "dtype": "fp32"},
    {"engine": "openvino", "dtype": "bf16"},
    {"engine": "openvino", "dtype": "fp32", "quantize": "int8"},
    {"engine": "openvino", "dtype": "bf16", "quantize": "int8"},
    {"engine": "onnx", "dtype": "fp32"},
    {"engine": "onnx", "dtype": "fp32", "quantize": "int8"},
)
MERGED: tuple[dict[str, Any], ...] = tuple(
    {"engine": "torch", "dtype": "fp32", "merge_tokens": count} for count in ("auto", 1, 2, 3, 4)
)

CLASSES, TRAINED_ON, TUNED_ON, HELD_OUT = 16, 3008, 1504, 1024
DRAWN = {"cartoon", "symbols", "seasonal", "clothes", "town", "space", "people", "hobbies", "toys"}
SIDE = 128  # pixels of an image's file
EPOCHS, WARMUP, BATCH = 12, 1.0, 64
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING = 1e-3, 0.05, 0.1
CONFIG = ViTConfig(
    image_size=(96, 96),
    patch_size=(16, 16),
    embed_dim=192,
    depth=6,
    num_heads=3,
    hidden_dim=768,
    num_classes=CLASSES,
)
PLAN = Preprocess(size=CONFIG.image_size, resize=CONFIG.image_size)
PEAKS = 4.0  # factor of queries and keys; attention scores become 16 times as large


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--photos", type=Path, required=True, help="folder of the unpacked packages"
    )
    parser.add_argument("--folder", type=Path, required=True, help="folder for images and models")
    parser.add_argument("--only", choices=("demo", "things", "finetuned", "random"), nargs="*")
    parser.add_argument("--merge-tokens", action="store_true", help="merge patches, in fp32")
    asked = parser.parse_args()
    os.environ["VIT_CACHE"] = str(asked.folder / "cache")
    packages = ("torch", "openvino", "nncf", "onnxruntime")
    print(", ".join(f"{name} {version(name)}" for name in packages), end="; ")
    print(f"{torch.backends.cpu.get_cpu_capability()}, {os.cpu_count()} processors, ", end="")
    print(platform.platform(terse=True))
    parts = {"demo": digits, "things": things, "finetuned": finetuned, "random": random_weights}
    ways = MERGED if asked.merge_tokens else WAYS
    for name in asked.only or parts:
        for title, model, images in parts[name](asked.photos, asked.folder):
            print(f"\n{title}\n")
            compare(model, images, ways, classes=name != "random")


def compare(
    model: Path | str, folder: Path, ways: Sequence[dict[str, Any]], *, classes: bool
) -> None:
    """Print a row for each of the ways. The folder of an image has the name of its class."""
    loaded, paths = vitcli.load(str(model)), [str(path) for path in sorted(folder.rglob("*.*"))]
    truth = [Path(path).parent.name for path in paths]
    exact = Answers.of(loaded, paths, EXACT, classes)
    unlike = cosines(exact.embeddings, np.roll(exact.embeddings, 1, axis=0)).mean()
    print(f"{len(paths)} images; the mean cosine of one with the next is {unlike:.3f}\n")
    if classes:
        print("| | same label as fp32 | accuracy | lost | cosine, mean | least |")
        print("|---|---|---|---|---|---|")
        print(f"| {title_of(EXACT)} | | {exact.share(truth):.2%} | | | |")
    else:
        print("| | cosine, mean | least |\n|---|---|---|")
    for way in ways:
        answers = Answers.of(loaded, paths, way, classes)
        cells = [title_of(way)]
        if classes:
            lost = 100 * (exact.share(truth) - answers.share(truth))
            same, right = answers.share(exact.labels), answers.share(truth)
            cells += [f"{same:.2%}", f"{right:.2%}", f"{lost + 0.0:.2f}"]
        alike = cosines(answers.embeddings, exact.embeddings)
        print("|", " | ".join([*cells, f"{alike.mean():.5f}", f"{alike.min():.5f}"]), "|")


@dataclass(frozen=True, slots=True)
class Answers:
    """The labels and embeddings of the images."""

    labels: list[str]
    embeddings: NDArray[np.float32]

    @staticmethod
    def of(model: Model, paths: Sequence[str], way: dict[str, Any], classes: bool) -> Answers:
        labels = []
        for row in vitcli.classify(paths, model=model, top_k=1, **way) if classes else ():
            assert isinstance(row, Classified), row
            labels.append(row.predictions[0].label)
        features = vitcli.embed(paths, model=model, **way)
        assert not features.failures, features.failures
        return Answers(labels, features.embeddings)

    def share(self, labels: Sequence[str]) -> float:
        """The share of images whose label equals the one in `labels`."""
        return float(np.mean([a == b for a, b in zip(self.labels, labels, strict=True)]))


def title_of(way: dict[str, Any]) -> str:
    return " ".join(map(str, way.values()))


def cosines(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = a.astype(np.float64), b.astype(np.float64)
    similarity: NDArray[np.float64] = (a * b).sum(axis=1) / (
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    )
    return similarity


Parts = Iterator[tuple[str, Path | str, Path]]  # a title, a model, a folder of images


def digits(photos: Path, folder: Path) -> Parts:
    for index, label in demo.held_out():
        save(demo.render(index), folder / "digits" / str(label) / f"{index:04}.png")
    yield "The demo model", "demo", folder / "digits"


def things(photos: Path, folder: Path) -> Parts:
    """Make the held-out images, and train the model on similar images."""
    model, held_out = folder / "things", folder / "held-out"
    if not (model / "config.json").exists():
        names, pixels, labels = [path.stem for path in cut_outs(photos, 0)], [], []
        for picture, label in pictures(photos, TRAINED_ON, is_held_out=False):
            pixels.append(preprocess(picture, PLAN))
            labels.append(label)
        for number, (picture, label) in enumerate(pictures(photos, HELD_OUT, is_held_out=True)):
            save(picture, held_out / names[label] / f"{number:04}.jpg")
        torch.manual_seed(0)
        network = VisionTransformer(CONFIG)
        ready = prepare(network, PLAN, "cpu")
        started = time.monotonic()
        fit(network, ready.pixels(np.stack(pixels)), torch.tensor(labels))
        print(f"\ntrained in {time.monotonic() - started:.0f} s")
        model.mkdir()
        trained = Model("things", network.eval(), PLAN, tuple(names), "timm", (), None, ())
        write_hf(trained, model, "fp32")
    yield f"{CLASSES} photographed things", model, held_out


def finetuned(photos: Path, folder: Path) -> Parts:
    """Make images of other things, and fine-tune the trained model on them."""
    _, things_model, _ = next(things(photos, folder))
    model, names = folder / "finetuned", [path.stem for path in cut_outs(photos, 1)]
    data, held_out = folder / "others", folder / "others-held-out"
    if not (model / "config.json").exists():
        for kept, count, is_held_out in ((data, TUNED_ON, False), (held_out, HELD_OUT, True)):
            drawn = pictures(photos, count, kind=1, is_held_out=is_held_out)
            for number, (picture, label) in enumerate(drawn):
                save(picture, kept / names[label] / f"{number:04}.jpg")
        vitcli.finetune(data, model, model=str(things_model), epochs=6)
    yield f"{CLASSES} other things, after vit finetune", model, held_out


def cut_outs(photos: Path, kind: int) -> list[Path]:
    """CLASSES photographs without background, no drawings; of kind 0, or of kind 1, which are
    other ones."""
    stamps = (photos / "usr/share/tuxpaint/stamps").rglob("*.png")
    good = sorted(path for path in stamps if DRAWN.isdisjoint(path.parts))
    return [good[i * len(good) // CLASSES + kind] for i in range(CLASSES)]


def pictures(
    photos: Path, count: int, *, is_held_out: bool, kind: int = 0
) -> Iterator[tuple[Image.Image, int]]:
    """Yield images of things in front of scenes, with class numbers, the same in every run.

    The held-out images use the right third of a scene, the others the rest.
    """
    rng = np.random.default_rng([kind, is_held_out])
    stamps = [Image.open(path).convert("RGBA") for path in cut_outs(photos, kind)]
    stamps = [stamp.crop(stamp.getbbox()) for stamp in stamps]
    scenes = []
    for path in sorted((photos / "usr/share/backgrounds/mate/nature").glob("*.jpg")):
        scene = Image.open(path).convert("RGB").resize((960, 600))
        scenes.append(scene.crop((640, 0, 960, 600) if is_held_out else (0, 0, 640, 600)))
    for number in range(count):
        scene, label = scenes[rng.integers(len(scenes))], number % len(stamps)
        side = int(rng.integers(SIDE, 320))
        left, top = (int(rng.integers(0, length - side + 1)) for length in scene.size)
        picture = scene.crop((left, top, left + side, top + side)).resize((SIDE, SIDE))
        thing = stamps[label].copy()
        longest = SIDE * rng.uniform(0.5, 1.0)
        thing = thing.resize([max(8, round(s * longest / max(thing.size))) for s in thing.size])
        thing = thing.rotate(rng.uniform(-20, 20), Image.Resampling.BICUBIC, expand=True)
        spare = [SIDE - length for length in thing.size]
        place = tuple(int(rng.integers(min(0, s), max(0, s) + 1)) for s in spare)
        picture.paste(thing, place, thing)
        for kind in (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color):
            picture = kind(picture).enhance(rng.uniform(0.7, 1.3))
        yield picture, label


def fit(network: VisionTransformer, pixels: Tensor, labels: Tensor) -> None:
    """Train on normalised pixels (N, C, H, W) and labels (N,), flipped at random."""
    for name, parameter in network.named_parameters():
        if parameter.ndim > 1:  # as timm does
            nn.init.trunc_normal_(parameter, std=0.02)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
    matrices = [p for p in network.parameters() if p.ndim == 2]
    others = [p for p in network.parameters() if p.ndim != 2]
    groups = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, total_steps=steps, pct_start=WARMUP / EPOCHS
    )
    network.train()
    for epoch in range(1, EPOCHS + 1):
        losses, right = [], 0
        for batch in torch.randperm(len(labels)).split(BATCH)[: len(labels) // BATCH]:
            x = pixels[batch]
            x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
            with torch.autocast("cpu", torch.bfloat16, enabled=onednn.supports(torch.bfloat16)):
                logits = network(x).float()
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            right += int((logits.argmax(dim=1) == labels[batch]).sum())
        mean, share = np.mean(losses), right / (len(losses) * BATCH)
        print(f"epoch {epoch:2}  loss {mean:.3f}  right {share:.1%}", flush=True)


def random_weights(photos: Path, folder: Path) -> Parts:
    """Make 64 images, and a ViT-B/16 with random weights in two forms."""
    from transformers import ViTConfig as HFConfig
    from transformers import ViTImageProcessorPil, ViTModel

    for number, (picture, _) in enumerate(pictures(photos, 64, is_held_out=True)):
        save(picture.resize((256, 256)), folder / "some" / f"{number:04}.jpg")
    for name, factor in (("as transformers draws them", 1.0), ("with peaks of attention", PEAKS)):
        torch.manual_seed(0)
        network = ViTModel(HFConfig(), add_pooling_layer=False)
        model = folder / f"b16-{factor:g}"
        for key, parameter in network.named_parameters():
            if key.endswith(("query.weight", "key.weight", "q_proj.weight", "k_proj.weight")):
                parameter.data *= factor
        network.save_pretrained(model)
        ViTImageProcessorPil().save_pretrained(model)
        yield f"ViT-B/16, random weights {name}", model, folder / "some"


def save(picture: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, quality=90)


if __name__ == "__main__":
    main()
