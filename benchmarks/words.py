"""Measure classes in words, from files to rows: `vit classify --classes-file` beside transformers'
zero-shot pipeline, a plain script with open_clip, and a trained head of as many classes.

    python benchmarks/words.py photos/ --peers /envs/peers/bin/python --rounds 3

Each contender is a process of its own, and they take turns. The model is a CLIP with random
weights: its tower of images is that of ViT-B/32, that of texts is smaller (`--text`). transformers
and vit read one file, open_clip another with the same weights. The tokenizer is CLIP's, from the
package of open_clip; without `--peers` it spells texts in letters, and open_clip is left out. vit
runs twice in each round: without vectors in the cache, and with them. The pipeline has one
template, because it cannot average several; the others have all of `--templates`.
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
OPEN_CLIP = """
import json, sys
import open_clip, torch
from PIL import Image
from safetensors.torch import load_file
folder, listed, templates, *files = sys.argv[1:]
names = json.loads(open(listed).read())
config = json.loads(open(folder + "/open_clip_config.json").read())["model_cfg"]
model = open_clip.CLIP(**config).eval()
model.load_state_dict(load_file(folder + "/open_clip_model.safetensors"))
preprocess = open_clip.image_transform(config["vision_cfg"]["image_size"], is_train=False)
sets = {"openai": open_clip.OPENAI_IMAGENET_TEMPLATES, "none": ["a photo of a {}."]}
with torch.inference_mode():
    texts = open_clip.build_zero_shot_classifier(
        model, open_clip.SimpleTokenizer(), names, sets[templates], num_classes_per_batch=10
    )
    for start in range(0, len(files), 16):
        some = files[start : start + 16]
        pixels = torch.stack([preprocess(Image.open(file).convert("RGB")) for file in some])
        found = model.encode_image(pixels, normalize=True)
        scores = (model.logit_scale.exp() * found @ texts).softmax(dim=-1)
        best, places = scores.topk(min(5, len(names)))
        for file, values, labels in zip(some, best.tolist(), places.tolist()):
            rows = [[names[i], value] for i, value in zip(labels, values)]
            print(json.dumps({"path": file, "predictions": rows}))
"""
BPE = "import open_clip.tokenizer as t; print(t.default_bpe())"
ADJECTIVES = (
    "red blue green old young small large wooden broken wet dry wild tame hairy spotted striped "
    "rusty shiny folded open frozen burning flying sleeping giant"
)
NOUNS = (
    "cat dog car bird boat house tree fish horse bridge clock chair lamp bottle kettle violin drum "
    "tower train tractor mushroom strawberry lizard spider owl bear wolf otter shark whale ladder "
    "umbrella backpack helmet sandal teapot castle lighthouse volcano waterfall"
)


def models_in(box: Path, width: int, depth: int, classes: int, peers: str | None) -> None:
    """Save a CLIP with random weights and a tokenizer for transformers, the same for open_clip, and
    a classifier with the same tower."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import torch
    import transformers

    from tests.fixtures.clip import openai_names, save_open_clip
    from tests.fixtures.words import write_clip_words
    from vitcli.checkpoints.text.clip_bpe import read_openai

    folder = box / "clip"
    vocabulary = write_clip_words(folder)
    if peers is not None:
        found = subprocess.run([peers, "-c", BPE], check=True, capture_output=True, text=True)
        read = read_openai(Path(found.stdout.strip()))
        (folder / "tokenizer.json").unlink()
        (folder / "vocab.json").write_text(json.dumps(read.ids), "utf-8")
        lines = ["#version: 0.2", *map(" ".join, read.merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
        vocabulary = len(read.ids)
    torch.manual_seed(0)
    text = {"vocab_size": 49_408, "hidden_size": width, "num_hidden_layers": depth}
    text |= {"intermediate_size": 4 * width, "num_attention_heads": width // 64}
    text |= {"bos_token_id": vocabulary - 2, "eos_token_id": vocabulary - 1, "hidden_act": "gelu"}
    vision = {"hidden_act": "gelu"}
    config = transformers.CLIPConfig(text_config=text, vision_config=vision)
    model = transformers.CLIPModel(config).eval()
    model.save_pretrained(folder)
    transformers.CLIPImageProcessorPil().save_pretrained(folder)
    head = transformers.CLIPConfig(text_config=text, vision_config=vision, num_labels=classes)
    transformers.CLIPForImageClassification(head).save_pretrained(box / "head")
    transformers.CLIPImageProcessorPil().save_pretrained(box / "head")
    sizes = {"context_length": 77, "vocab_size": 49_408, "width": width, "heads": width // 64}
    described = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {**sizes, "layers": depth},
    }
    state = {name: tensor.contiguous() for name, tensor in openai_names(model).items()}
    save_open_clip(box / "open_clip", state, model_cfg=described)


def seconds(command: list[str], environment: dict[str, str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--templates", choices=["openai", "none"], default="openai")
    parser.add_argument("--text", type=int, nargs=2, default=(192, 4), help="width and depth")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", help="the Python that has open_clip")
    options = parser.parse_args()
    files = sorted(str(p) for p in options.photos.rglob("*.jpg"))
    with tempfile.TemporaryDirectory() as name:
        box = Path(name)
        models_in(box, *options.text, options.classes, options.peers)
        pairs = [f"{a} {n}" for n in NOUNS.split() for a in ADJECTIVES.split()]
        names = (pairs + [f"thing number {i}" for i in range(options.classes)])[: options.classes]
        (box / "names.json").write_text(json.dumps(names))
        listed = str(box / "names.json")
        vit = [sys.executable, "-m", "vitcli", "classify", *files, "-q", "--overwrite"]
        vit += ["-o", str(box / "rows.jsonl"), "-m"]
        words = [*vit, str(box / "clip"), "--classes-file", listed]
        words += ["--templates", options.templates] if options.templates != "none" else []
        contenders = {
            "vit, first run": words,
            "vit, vectors in the cache": words,
            "vit, a trained head": [*vit, str(box / "head")],
            "transformers' zero-shot pipeline": [
                *(sys.executable, "-c", PIPELINE, str(box / "clip"), listed),
                *files,
            ],
        }
        if options.peers:
            contenders["a script with open_clip"] = [
                *(options.peers, "-c", OPEN_CLIP, str(box / "open_clip"), listed),
                *(options.templates, *files),
            ]
        environment = {**os.environ, "VIT_CACHE": str(box / "cache"), "HF_HUB_OFFLINE": "1"}
        taken: dict[str, list[float]] = {name: [] for name in contenders}
        for number in range(options.rounds):
            shutil.rmtree(box / "cache", ignore_errors=True)
            for name, command in contenders.items():
                taken[name].append(seconds(command, environment))
                print(f"round {number + 1}: {name} {taken[name][-1]:.1f} s", file=sys.stderr)
    print(f"{len(files)} images, {options.classes} classes, {options.rounds} rounds, medians")
    slowest = taken["transformers' zero-shot pipeline"]
    for name, times in taken.items():
        ratio = statistics.median(a / b for a, b in zip(slowest, times, strict=True))
        median = statistics.median(times)
        print(f"{name:<34} {median:7.2f} s {len(files) / median:7.1f} images/s {ratio:6.1f} x")


if __name__ == "__main__":
    main()
