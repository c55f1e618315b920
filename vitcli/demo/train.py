"""Train the model of `-m demo` on scikit-learn's handwritten digits.

    python -m vitcli.demo.train [--out DIR] [--examples DIR]

writes config.json, preprocessor_config.json, model.safetensors and the model card README.md in
Hugging Face's layout. One fifth of the digits is held out, and the card has the accuracy on it.
The same machine with the same PyTorch writes the same bytes.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors.torch import save
from torch import Tensor, nn

from vitcli.checkpoints.keymap import to_theirs
from vitcli.checkpoints.layouts import hf_vit
from vitcli.checkpoints.load import Model, load
from vitcli.checkpoints.preprocess.hf import from_hf
from vitcli.images.preprocess import preprocess
from vitcli.models.config import ViTConfig
from vitcli.models.prepare import prepare
from vitcli.models.vit import VisionTransformer
from vitcli.records import Preprocess

SEED = 0
RENDERED = 64  # the side of an image in pixels, before preprocessing
EPOCHS, WARMUP, BATCH = 120, 5, 64
LEARNING_RATE, WEIGHT_DECAY, SMOOTHING, EMA = 1e-3, 0.05, 0.05, 0.99

CONFIG = ViTConfig(
    image_size=(32, 32),
    patch_size=(4, 4),
    embed_dim=64,
    depth=4,
    num_heads=4,
    hidden_dim=192,
    num_classes=10,
)
PROCESSOR: dict[str, Any] = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 32, "width": 32},
    "resample": 2,  # bilinear
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}

DIGITS = Path(__file__).with_name("digits.npz")  # scikit-learn's load_digits(), in its order
Digits = Sequence[tuple[int, int]]  # (index in DIGITS, label)


@cache
def digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All digits with values 0..16, (1797, 8, 8), and their labels, (1797,)."""
    with np.load(DIGITS) as held:
        return held["images"], held["labels"]


def held_out() -> Digits:
    """The held-out digits: a fifth of each, drawn with SEED."""
    labels = digits()[1]
    draw = np.random.RandomState(SEED)  # its streams are frozen by numpy
    chosen: list[int] = []
    for digit in range(10):
        indices = np.flatnonzero(labels == digit)
        chosen += draw.choice(indices, round(len(indices) / 5), replace=False).tolist()
    return [(index, int(labels[index])) for index in sorted(chosen)]


def training() -> Digits:
    """The digits to train on: all except the held-out digits."""
    excluded = set(held_out())
    return [pair for pair in enumerate(digits()[1].tolist()) if pair not in excluded]


def examples() -> dict[str, Image.Image]:
    """The first held-out image of each digit, by file name."""
    first = {label: index for index, label in reversed(held_out())}
    return {f"digit-{label}-{first[label]:04}.png": render(first[label]) for label in range(10)}


def render(index: int) -> Image.Image:
    """Render a digit as a greyscale image, white on black, RENDERED pixels square."""
    values = np.rint(digits()[0][index] * (255 / 16)).astype(np.uint8)
    return Image.fromarray(values).resize((RENDERED, RENDERED), Image.Resampling.BICUBIC)


def pixels_of(pictures: Sequence[Image.Image], plan: Preprocess) -> NDArray[np.uint8]:
    """Preprocess images like every command.  -> (B, H, W, 3)"""
    return np.stack([preprocess(picture.convert("RGB"), plan) for picture in pictures])


def augment(pixels: Tensor) -> Tensor:
    """Turn, scale, shift, change contrast and invert at random.  (B, C, H, W) -> same"""
    B = len(pixels)
    angle = math.radians(12) * _spread(B)
    size = torch.exp(0.3 * _spread(B) - 0.15)  # digits shrink more often than they grow
    cos, sin = angle.cos() / size, angle.sin() / size
    theta = torch.stack([cos, -sin, 0.2 * _spread(B), sin, cos, 0.2 * _spread(B)], dim=1)
    grid = F.affine_grid(theta.view(B, 2, 3), list(pixels.shape), align_corners=False)
    ink = F.grid_sample((pixels + 1) / 2, grid, align_corners=False)  # background outside the edge
    dark, bright = 0.2 * torch.rand(B, 1, 1, 1), 1 - 0.3 * torch.rand(B, 1, 1, 1)
    ink = dark + (bright - dark) * ink
    is_inverted = torch.rand(B, 1, 1, 1) < 0.4
    return torch.where(is_inverted, 1 - ink, ink) * 2 - 1


def _spread(count: int) -> Tensor:
    """Draw uniformly from -1..1."""
    return torch.rand(count) * 2 - 1


def fit(network: VisionTransformer, pixels: Tensor, labels: Tensor) -> VisionTransformer:
    """Train on normalised pixels (N, C, H, W) and labels (N,), and return a copy of the network
    with averaged weights."""
    _initialise(network)
    average = copy.deepcopy(network).requires_grad_(False)
    optimizer = torch.optim.AdamW(_groups(network), lr=LEARNING_RATE)
    steps = len(labels) // BATCH  # an epoch
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate((step + 1) / steps))
    network.train()
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for batch in torch.randperm(len(labels))[: steps * BATCH].view(steps, BATCH):
            logits = network(augment(pixels[batch]))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=SMOOTHING)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            for mean, new in zip(average.parameters(), network.parameters(), strict=True):
                mean.lerp_(new.detach(), 1 - EMA)
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:3}  loss {total / steps:.4f}")
    return average


def _initialise(network: VisionTransformer) -> None:
    """Initialise like the ViT paper's code: small tokens, Glorot matrices, a head of zeros."""
    for name, parameter in network.named_parameters():
        if name in ("cls_token", "pos_embed"):
            nn.init.normal_(parameter, std=0.02)
        elif name.startswith("head.") or name.endswith("bias"):
            nn.init.zeros_(parameter)
        elif parameter.ndim == 2:
            nn.init.xavier_uniform_(parameter)


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Group parameters by weight decay, which only matrices have."""
    groups: dict[float, list[nn.Parameter]] = {WEIGHT_DECAY: [], 0.0: []}
    for name, parameter in network.named_parameters():
        is_matrix = name.endswith("weight") and parameter.ndim > 1
        groups[WEIGHT_DECAY if is_matrix else 0.0].append(parameter)
    return [{"params": group, "weight_decay": decay} for decay, group in groups.items()]


def _rate(epoch: float) -> float:
    """The factor of the learning rate: linear warm-up, then half a cosine."""
    if epoch < WARMUP:
        return epoch / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (epoch - WARMUP) / (EPOCHS - WARMUP)))


def write(out: Path, network: VisionTransformer) -> None:
    """Write the three files of a model directory in Hugging Face's layout."""
    tensors = to_theirs(network.state_dict(), hf_vit.RULES)
    named = {n if n.startswith("classifier.") else f"vit.{n}": t for n, t in tensors.items()}
    out.mkdir(parents=True, exist_ok=True)
    weights = save(
        named, metadata={"format": "pt"}
    )  # save_file makes it readable by its owner only
    (out / "model.safetensors").write_bytes(weights)
    for name, value in (("config", _config_json()), ("preprocessor_config", PROCESSOR)):
        (out / f"{name}.json").write_text(json.dumps(value, indent=2) + "\n", "utf-8")


def _config_json() -> dict[str, Any]:
    names = [str(digit) for digit in range(10)]
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": CONFIG.image_size[0],
        "patch_size": CONFIG.patch_size[0],
        "num_channels": CONFIG.in_chans,
        "hidden_size": CONFIG.embed_dim,
        "num_hidden_layers": CONFIG.depth,
        "num_attention_heads": CONFIG.num_heads,
        "intermediate_size": CONFIG.hidden_dim,
        "hidden_act": CONFIG.act,
        "layer_norm_eps": CONFIG.norm_eps,
        "qkv_bias": CONFIG.qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def mistakes(model: Model, *, inverted: bool = False) -> list[tuple[int, int, int]]:
    """(index, label, answer) of each held-out digit that the model answers wrongly."""
    pairs = held_out()
    pictures = [render(index) for index, _ in pairs]
    if inverted:
        pictures = [ImageOps.invert(picture) for picture in pictures]
    ready = prepare(model.network, model.preprocess, "cpu")
    with torch.inference_mode():
        answers = ready.network(ready.pixels(pixels_of(pictures, model.preprocess))).argmax(dim=1)
    both = zip(pairs, answers.tolist(), strict=True)
    return [(index, label, answer) for (index, label), answer in both if answer != label]


def card(model: Model) -> str:
    """The text of the model card: description, recipe and measurements."""
    c, count, wrong = CONFIG, len(held_out()), mistakes(model)
    right, dark = count - len(wrong), count - len(mistakes(model, inverted=True))
    parameters = sum(p.numel() for p in model.network.parameters())
    megabytes = model.files[0].stat().st_size / 1e6
    missed = [f"{index} (a {label} read as {answer})" for index, label, answer in wrong]
    return f"""\
# The demo model

A Vision Transformer of {parameters:,} parameters ({megabytes:.2f} MB in fp32) that reads one
handwritten digit, 0 to 9. It ships with vitcli so that every command can be tried at once and
offline (`-m demo`), and so that the tests have a model that has learnt something. The directory
has Hugging Face's layout: `ViTForImageClassification.from_pretrained` of transformers opens it too.

| | |
|---|---|
| image, patch, grid (height, width) | {c.image_size}, {c.patch_size}, {c.grid} |
| width, depth, heads, feed-forward | {c.embed_dim}, {c.depth}, {c.num_heads}, {c.hidden_dim} |
| **held-out accuracy** | **{100 * right / count:.2f} %** ({right} of {count}) |
| the same digits as dark ink on white | {100 * dark / count:.2f} % ({dark} of {count}) |

Held-out digits with a wrong answer, by their index in `load_digits`: {", ".join(missed) or "none"}.

## Data

scikit-learn's `load_digits`: 1,797 digits of 8x8 pixels in 17 levels, a copy of the test set of
E. Alpaydin and C. Kaynak, *Optical Recognition of Handwritten Digits*, UCI Machine Learning
Repository, 1998, https://doi.org/10.24432/C50P49, licensed under CC BY 4.0. Each is rendered with
{RENDERED}x{RENDERED} pixels, white ink on black: values * 255/16, enlarged bicubically.
The images in `examples/` are the first held-out image of each digit.

A fifth of each digit, {count} in all, is held out with seed {SEED} (`vitcli.demo.train.held_out`);
the other {len(training())} are trained on.

## Recipe

`python -m vitcli.demo.train` writes this directory, and this card with its numbers. AdamW for
{EPOCHS} epochs in batches of {BATCH}; learning rate {LEARNING_RATE:g} with {WARMUP} epochs of
warm-up, then a cosine; weight decay {WEIGHT_DECAY:g} on matrices; label smoothing {SMOOTHING:g};
weights averaged with decay {EMA:g} a step. The images are turned, scaled, shifted, changed in
contrast, and inverted four times in ten.
The recipe was chosen on a fifth of the training digits, without the held-out digits.

## Limits

A toy. It reads one centred digit in thick strokes on a plain background, and answers with a digit
for any image. It reads digits that fill much less of the image less well. The split is by image,
not by writer: expect a lower accuracy on the digits of other writers.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent, metavar="DIR")
    parser.add_argument("--examples", type=Path, metavar="DIR", help="also write ten digits as PNG")
    args = parser.parse_args()
    torch.set_num_threads(1)  # sums in one order, however many cores there are
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(SEED)
    started = time.monotonic()
    network = VisionTransformer(CONFIG)
    plan = from_hf(PROCESSOR, "vit", CONFIG.image_size, None).plan
    ready = prepare(network, plan, "cpu")
    pictures = [render(index) for index, _ in training()]
    labels = torch.tensor([label for _, label in training()])
    write(args.out, fit(network, ready.pixels(pixels_of(pictures, plan)), labels))
    model = load(str(args.out.resolve()), offline=True)
    (args.out / "README.md").write_text(card(model), "utf-8")
    print(f"{len(mistakes(model))} of {len(held_out())} held-out digits wrong")
    print(f"{args.out} written in {time.monotonic() - started:.0f} s")
    if args.examples:
        args.examples.mkdir(parents=True, exist_ok=True)
        for name, picture in examples().items():
            picture.save(args.examples / name, optimize=True)


if __name__ == "__main__":
    main()
