"""Measure classes in words, from files to rows: `vit classify --classes-file` beside transformers'
zero-shot pipeline and a plain loop over a `CLIPModel`, each in a process of its own.

    python benchmarks/words.py photos/ --classes 100 --rounds 3

The model is a CLIP ViT-B/32 with random weights; its tokenizer spells the texts in letters. `vit`
runs twice in each round: without vectors in the cache, and with them.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PIPELINE = """
import json, sys
from PIL import Image
from transformers import pipeline
folder, names, files = sys.argv[1], json.loads(open(sys.argv[2]).read()), sys.argv[3:]
asked = pipeline("zero-shot-image-classification", model=folder, device="cpu")
for file in files:
    found = asked(Image.open(file), candidate_labels=names, hypothesis_template="a photo of a {}.")
    print(json.dumps({"path": file, "predictions": found[:5]}))
"""
LOOP = """
import json, sys
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPImageProcessorPil, CLIPModel
folder, names, files = sys.argv[1], json.loads(open(sys.argv[2]).read()), sys.argv[3:]
model = CLIPModel.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
processor = CLIPImageProcessorPil.from_pretrained(folder)
with torch.inference_mode():
    texts = tokenizer([f"a photo of a {n}." for n in names], padding=True, return_tensors="pt")
    texts = torch.nn.functional.normalize(model.get_text_features(**texts).pooler_output, dim=-1)
    for start in range(0, len(files), 16):
        some = files[start : start + 16]
        images = [Image.open(file).convert("RGB") for file in some]
        pixels = processor(images, return_tensors="pt")
        found = model.get_image_features(**pixels).pooler_output
        found = torch.nn.functional.normalize(found, dim=-1)
        scores = (model.logit_scale.exp() * found @ texts.T).softmax(dim=-1)
        best, places = scores.topk(min(5, len(names)))
        for file, values, labels in zip(some, best.tolist(), places.tolist()):
            rows = [[names[i], value] for i, value in zip(labels, values)]
            print(json.dumps({"path": file, "predictions": rows}))
"""


def model_in(folder: Path) -> None:
    """Save a CLIP ViT-B/32 with random weights and a small tokenizer."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import transformers

    from tests.fixtures.words import write_clip_words

    vocabulary = write_clip_words(folder)
    ends = {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1}
    config = transformers.CLIPConfig(text_config={"vocab_size": 49_408, **ends})
    transformers.CLIPModel(config).save_pretrained(folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)


def seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    files = sorted(str(p) for p in options.photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as name:
        box = Path(name)
        model_in(box / "clip")
        names = [f"thing number {index}" for index in range(options.classes)]
        (box / "names.json").write_text(json.dumps(names))
        vit = [sys.executable, "-m", "vitcli", "classify", *files, "-m", str(box / "clip"), "-q"]
        vit += ["--classes-file", str(box / "names.json"), "-o", str(box / "rows.jsonl")]
        peer = [str(box / "clip"), str(box / "names.json"), *files]
        contenders = {
            "vit, first run": [*vit, "--overwrite"],
            "vit, vectors in the cache": [*vit, "--overwrite"],
            "a loop over CLIPModel, 16 images at once": [sys.executable, "-c", LOOP, *peer],
            "transformers' zero-shot pipeline": [sys.executable, "-c", PIPELINE, *peer],
        }
        environment = {**os.environ, "VIT_CACHE": str(box / "cache"), "HF_HUB_OFFLINE": "1"}
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for _ in range(options.rounds):
            shutil.rmtree(box / "cache", ignore_errors=True)
            for name, command in contenders.items():
                taken[name].append(seconds(command, environment))
    slowest = statistics.median(taken["transformers' zero-shot pipeline"])
    print(f"{len(files)} images, {options.classes} classes, {options.rounds} rounds, medians")
    for name, times in taken.items():
        median = statistics.median(times)
        rate, ratio = len(files) / median, slowest / median
        print(f"{name:<42} {median:7.2f} s {rate:7.1f} images/s {ratio:6.1f} x")


if __name__ == "__main__":
    main()
