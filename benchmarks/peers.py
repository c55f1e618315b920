"""Run the peers of vit, each used as its documentation shows: a folder in, JSON lines out.

    python benchmarks/peers.py transformers MODEL FOLDER [--fast] [--dtype bf16] [--batch-size N]
    python benchmarks/peers.py timm MODEL FOLDER [--dtype bf16] [--batch-size N]
    python benchmarks/peers.py openvino MODEL FOLDER [--dtype bf16] [--batch-size N]

`transformers` runs its pipeline, which preprocesses with Pillow, or with torchvision for `--fast`.
`timm` runs its dataset, loader and model like its `inference.py`.
`openvino` reads no files: it runs transformers' network repeatedly on one ready batch.
Each line is flushed immediately, so that the reader can measure the time.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def run_transformers(args: argparse.Namespace) -> Iterable[dict[str, object]]:
    from transformers import AutoImageProcessor, pipeline

    backend = "torchvision" if args.fast else "pil"
    classify = pipeline(
        "image-classification",
        model=str(args.model),
        image_processor=AutoImageProcessor.from_pretrained(args.model, backend=backend),
        dtype=DTYPES[args.dtype],
        device=args.device,
        num_workers=0 if args.device == "cpu" else args.workers,
    )
    paths = sorted(str(path) for path in args.folder.iterdir())
    results = classify((path for path in paths), top_k=5, batch_size=args.batch_size)
    for path, predictions in zip(paths, results, strict=True):
        yield {"path": path, "predictions": predictions}


@torch.inference_mode()
def run_timm(args: argparse.Namespace) -> Iterable[dict[str, object]]:
    import timm
    from timm.data import create_dataset, create_loader, resolve_data_config

    model = timm.create_model(f"local-dir:{args.model}", pretrained=True).eval()
    model = model.to(args.device, DTYPES[args.dtype])
    dataset = create_dataset("", root=str(args.folder), class_map="")
    config = resolve_data_config({}, model=model)
    loader = create_loader(
        dataset,
        batch_size=args.batch_size,
        use_prefetcher=False,
        num_workers=args.workers,
        device=torch.device("cpu"),
        pin_memory=args.device != "cpu",
        **{key: config[key] for key in ("input_size", "interpolation", "mean", "std", "crop_pct")},
    )
    done = 0
    for pixels, _ in loader:
        probs, indices = (
            model(pixels.to(args.device, DTYPES[args.dtype])).float().softmax(-1).topk(5)
        )
        for values, places in zip(probs.tolist(), indices.tolist(), strict=True):
            path = dataset.filename(done, absolute=True)
            done += 1
            yield {"path": path, "predictions": list(zip(places, values, strict=True))}


def run_openvino(args: argparse.Namespace) -> Iterable[dict[str, object]]:
    import openvino
    from transformers import ViTForImageClassification

    model = ViTForImageClassification.from_pretrained(args.model).eval()
    pixels = torch.rand(args.batch_size, 3, 224, 224, generator=torch.manual_seed(0)) * 2 - 1
    converted = openvino.convert_model(model, example_input={"pixel_values": pixels})
    hint = {"INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[args.dtype]}
    compiled = openvino.Core().compile_model(converted, "CPU", hint)
    paths = sorted(str(path) for path in args.folder.iterdir())
    for start in range(0, len(paths), args.batch_size):
        compiled(pixels.numpy())
        for path in paths[start : start + args.batch_size]:
            yield {"path": path}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("peer", choices=["transformers", "timm", "openvino"])
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fast", action="store_true", help="transformers with torchvision")
    parser.add_argument("--dtype", choices=DTYPES, default="fp32")
    parser.add_argument("--batch-size", type=int, default=1, help="1 is the pipeline's default")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=2, help="processes of the loaders")
    args = parser.parse_args()
    run = {"transformers": run_transformers, "timm": run_timm, "openvino": run_openvino}[args.peer]
    for row in run(args):
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
