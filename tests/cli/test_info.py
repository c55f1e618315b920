"""`vit info`: what it says of a model is what the model is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.conftest import Vit
from tests.fixtures.tiny import LABELS

Models = Callable[[str], Path]


def told(vit: Vit, *args: str | Path) -> dict[str, Any]:
    ended = vit("info", *args, "--json")
    assert (ended.code, ended.err) == (0, "")
    found: dict[str, Any] = json.loads(ended.out)
    return found


def lines(vit: Vit, *args: str | Path) -> list[str]:
    ended = vit("info", *args)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.decode().splitlines()


def copied(model: Path, to: Path) -> Path:
    shutil.copytree(model, to)
    return to


def edit(path: Path, **values: object) -> None:
    found = json.loads(path.read_text())
    path.write_text(json.dumps({**found, **values}))


def test_json_holds_sizes_cost_and_origins(vit: Vit, tiny_model: Models) -> None:
    found = told(vit, tiny_model("vit"))
    assert found["layout"] == "hf-vit"
    assert found["architecture"] == "ViTForImageClassification"
    sizes = {name: found["sizes"][name] for name in ("embed_dim", "depth", "grid", "num_tokens")}
    assert sizes == {"embed_dim": 32, "depth": 3, "grid": [8, 8], "num_tokens": 65}
    file = tiny_model("vit") / "model.safetensors"
    assert found["files"] == [{"name": file.name, "bytes": file.stat().st_size}]
    assert found["dtypes"] == ["fp32"]
    assert found["parameters"] == sum(t.numel() for t in safetensors.torch.load_file(file).values())
    assert (found["num_labels"], found["labels"]) == (len(LABELS), [*LABELS[:5]])
    assert found["labels_source"] == "config.json: id2label"
    steps = {step["step"]: step["source"] for step in found["preprocess"]}
    assert steps["resize(squash 64x64, bilinear)"] == "preprocessor_config.json"
    assert found["notes"] == []


@pytest.mark.parametrize(
    "family", ["vit", "deit-distilled", "dinov2", "dinov2-reg-classifier", "dinov2-swiglu"]
)
def test_a_person_reads_it_on_80_columns(vit: Vit, tiny_model: Models, family: str) -> None:
    printed = lines(vit, tiny_model(family))
    folder = str(tiny_model(family))
    assert all(len(line) <= 80 for line in printed if folder not in line)
    assert all(line == line.rstrip() for line in printed)
    names = [line[:14].strip() for line in printed]
    for name in ("model", "layout", "width", "heads", "cost", "sha256", "labels", "preprocess"):
        assert names.count(name) == 1


def test_words_follow_the_config(vit: Vit, tiny_model: Models) -> None:
    distilled = "\n".join(lines(vit, tiny_model("deit-distilled")))
    assert "66: class + distillation + 64 patches" in distilled
    assert "head of the distillation token averaged in" in distilled
    registers = "\n".join(lines(vit, tiny_model("dinov2-reg-classifier")))
    assert "69: class + 4 registers + 64 patches" in registers
    assert "the class token and the mean of the patches" in registers
    assert "swiglu" in "\n".join(lines(vit, tiny_model("dinov2-swiglu")))
    assert "none: a backbone without a classifier" in "\n".join(lines(vit, tiny_model("dinov2")))


def test_another_image_size_is_another_cost(vit: Vit, tiny_model: Models) -> None:
    small, large = (told(vit, tiny_model("vit"), "--image-size", size) for size in ("64", "48x96"))
    assert large["sizes"]["grid"] == [6, 12]
    assert large["gflops"] > small["gflops"]
    assert large["notes"] == [
        "position embeddings of 64x64 pixels are resampled for 48x96",
    ]
    [resize] = [s for s in large["preprocess"] if s["step"].startswith("resize")]
    assert resize["source"] == "preprocessor_config.json; size: --image-size"


def test_what_the_file_leaves_out_comes_from_a_default(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "old")
    old = {"do_resize": True, "size": 64, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(old))
    steps = {s["step"].partition("(")[0]: s["source"] for s in told(vit, folder)["preprocess"]}
    assert steps["resize"] == "preprocessor_config.json; resample: ViTImageProcessor's default"
    (folder / "preprocessor_config.json").unlink()
    found = told(vit, folder)
    steps = {s["step"].partition("(")[0]: s["source"] for s in found["preprocess"]}
    assert steps["normalize"] == "ViTImageProcessor's default"
    assert "no preprocessor_config.json" in found["notes"][0]
    steps = {
        s["step"].partition("(")[0]: s["source"]
        for s in told(vit, folder, "--preprocess", "timm", "--no-exif", "--decode", "fast")[
            "preprocess"
        ]
    }
    assert "exif_turn" not in steps
    assert steps["reduced_decode"] == "--decode fast"
    assert steps["normalize"] == "--preprocess timm: vit as published"


def test_precision_on_disk_and_shards(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "half")
    file = folder / "model.safetensors"
    state = safetensors.torch.load_file(file)
    mixed = {n: t if "layernorm" in n else t.to(torch.bfloat16) for n, t in state.items()}
    safetensors.torch.save_file(mixed, file)
    assert told(vit, folder)["dtypes"] == ["bf16", "fp32"]
    names = sorted(mixed)
    shards = {f"model-0000{i}-of-00002.safetensors": names[i - 1 :: 2] for i in (1, 2)}
    for shard, part in shards.items():
        safetensors.torch.save_file({name: mixed[name] for name in part}, folder / shard)
    weight_map = {name: shard for shard, part in shards.items() for name in part}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    file.unlink()
    assert [f["name"] for f in told(vit, folder)["files"]] == [*shards]
    assert any("in 2 files, bf16 and fp32" in line for line in lines(vit, folder))


def test_warnings_are_told(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "deit-odd")
    state = safetensors.torch.load_file(folder / "model.safetensors")
    for name in state:
        if name.startswith("classifier."):
            state[name] = torch.zeros_like(state[name])
    safetensors.torch.save_file(state, folder / "model.safetensors")
    edit(folder / "config.json", id2label={}, label2id={})
    notes = " ".join(told(vit, folder)["notes"])
    assert "DeiT was trained with ImageNet's mean and std" in notes
    assert "the checkpoint has no labels" in notes
    assert "the head is all zero" in notes
    assert "note          the head is all zero" in "\n".join(lines(vit, folder))


def test_labels_of_a_file_are_shown_printable(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("\n".join(["tab\tby", "猫", "\x1b[31mred", *"defg"]), encoding="utf-8")
    printed = "\n".join(lines(vit, tiny_model("vit"), "--labels", labels))
    assert "tab\\tby, 猫, \\x1b[31mred" in printed
    assert told(vit, tiny_model("vit"), "--labels", labels)["labels"][1] == "猫"


def test_the_demo_is_what_its_card_says(vit: Vit) -> None:
    found = told(vit, "demo", "--offline")
    assert (found["parameters"], found["num_labels"]) == (175_050, 10)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("no/such/folder",), 1, "no model at no/such/folder"),
        (("demo", "--image-size", "0"), 2, "--image-size 0"),
        (("demo", "--image-size", "33"), 2, "not a multiple of the patch size"),
        (("demo", "--labels", "none.txt"), 1, "no such file: none.txt"),
        (("demo", "--layout", "nonsense"), 1, "unknown layout"),
    ],
)
def test_a_mistake_is_one_clear_line(vit: Vit, args: tuple[str, ...], code: int, said: str) -> None:
    ended = vit("info", *args)
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err
