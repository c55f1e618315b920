"""`vit convert`: what it writes opens in the other library, with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.conftest import Vit
from tests.fixtures import weights
from vitcli.checkpoints.load import load

Models = Callable[[str], Path]

HF_FAMILIES = (
    "vit",
    "vit-backbone",
    "deit",
    "deit-distilled",
    "deit-backbone",
    "dinov2",
    "dinov2-classifier",
    "dinov2-swiglu",
    "dinov2-reg",
    "dinov2-reg-classifier",
)
GOLDEN = Path(__file__).parents[1] / "golden" / "timm"
TIMM_CASES = sorted(p.stem for p in GOLDEN.glob("*.npz") if p.stem != "pos_embed")


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def timm_folder(case: str, folder: Path) -> dict[str, Any]:
    """A golden case as a directory of timm's; gives its record."""
    with np.load(GOLDEN / f"{case}.npz") as golden:
        record = {name: golden[name] for name in golden.files}
    config = json.loads(record["config"].item())
    folder.mkdir()
    state = weights.fill(config["keys"])
    save_file(
        {name: torch.from_numpy(array) for name, array in state.items()},
        folder / "model.safetensors",
    )
    values = {
        "architecture": config["architecture"],
        "num_classes": config["num_classes"],
        "global_pool": config["global_pool"],
        "model_args": {**config["model_args"], "img_size": config["img_size"]},
        "pretrained_cfg": {
            "input_size": [3, *config["img_size"]],
            "crop_pct": 0.9,
            "interpolation": "bicubic",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (folder / "config.json").write_text(json.dumps(values))
    return {**record, "config": config}


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_transformers_opens_what_is_written_for_it(
    vit: Vit, tiny_model: Models, tmp_path: Path, family: str
) -> None:
    source, out = tiny_model(family), tmp_path / "out"
    ended = vit("convert", source, out, "--to", "hf", "--verify")
    assert ended.code == 0, ended.err
    assert b"hidden states: max |\xce\x94| 0, allowed" in ended.out
    name = json.loads((out / "config.json").read_text())["architectures"][0]
    network, info = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
    missing = {key for key in info.pop("missing_keys") if not key.startswith("pooler.")}
    assert not missing, "only a pooler, which is no part of a ViT, may be missing"
    assert not any(info.values()), info
    original = getattr(transformers, name).from_pretrained(source)
    pixels = torch.from_numpy(weights.pixels(2, 64, 64))
    with torch.inference_mode():
        found, expected = network(pixels), original(pixels)
    key = "logits" if "logits" in expected else "last_hidden_state"
    torch.testing.assert_close(found[key], expected[key], atol=0, rtol=0)
    assert network.config.id2label == original.config.id2label or not load(str(source)).labels


@pytest.mark.parametrize("family", HF_FAMILIES)
def test_every_tensor_comes_back_bit_for_bit(
    vit: Vit, tiny_model: Models, tmp_path: Path, family: str
) -> None:
    assert vit("convert", tiny_model(family), tmp_path / "out", "--to", "hf").code == 0
    before, after = tensors_of(tiny_model(family)), tensors_of(tmp_path / "out")
    dropped = {name for name in before if "pooler" in name or "mask_token" in name}
    assert {*after} - dropped == {*before} - dropped
    for name in {*before} - dropped:
        assert torch.equal(before[name], after[name]), name


@pytest.mark.parametrize("case", TIMM_CASES)
def test_timm_gets_its_own_names_and_numbers_back(vit: Vit, tmp_path: Path, case: str) -> None:
    golden = timm_folder(case, tmp_path / "src")
    assert vit("convert", tmp_path / "src", tmp_path / "out", "--to", "timm", "--verify").code == 0
    before, after = tensors_of(tmp_path / "src"), tensors_of(tmp_path / "out")
    assert {*after} == {*before}
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]), name
    model = load(str(tmp_path / "out"))
    pixels = torch.from_numpy(weights.pixels(**golden["config"]["pixels"]))
    with torch.inference_mode():
        logits = model.network(pixels)
    if model.config.num_classes:
        np.testing.assert_allclose(logits, golden["logits"], atol=1e-5)
    args = json.loads((tmp_path / "out" / "config.json").read_text())["model_args"]
    assert args["img_size"] == golden["config"]["img_size"]
    assert args["num_heads"] == golden["config"]["traits"]["num_heads"]
    assert model.preprocess == load(str(tmp_path / "src")).preprocess


@pytest.mark.parametrize("family", ["vit", "deit-distilled", "dinov2", "dinov2-swiglu"])
def test_transformers_to_timm_and_back(
    vit: Vit, tiny_model: Models, tmp_path: Path, family: str
) -> None:
    timm, back = tmp_path / "timm", tmp_path / "back"
    assert vit("convert", tiny_model(family), timm, "--to", "timm", "--verify").code == 0
    assert vit("convert", timm, back, "--to", "hf", "--verify").code == 0
    before, after = tensors_of(tiny_model(family)), tensors_of(back)
    for name in {*before} - {n for n in before if "mask_token" in n}:
        assert torch.equal(before[name], after[name]), name


def test_registers_lose_the_class_tokens_position_on_the_way_to_timm(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    ended = vit("convert", tiny_model("dinov2-reg"), tmp_path / "o", "--to", "timm", "--verify")
    assert ended.code == 0
    assert b"the class token's position is added to the token itself" in ended.out
    before, after = tensors_of(tiny_model("dinov2-reg")), tensors_of(tmp_path / "o")
    position = before["embeddings.position_embeddings"][:, :1]
    assert torch.equal(after["cls_token"], before["embeddings.cls_token"] + position)


def test_what_a_target_cannot_express_is_refused_by_name(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    ended = vit("convert", tiny_model("dinov2-classifier"), tmp_path / "o", "--to", "timm")
    assert (ended.code, ended.out) == (1, b"")
    assert "class token beside the mean" in ended.err
    timm_folder("reg4_gap", tmp_path / "src")
    ended = vit("convert", tmp_path / "src", tmp_path / "o", "--to", "hf")
    assert ended.code == 1
    for obstacle in ("the closest, hf-dinov2", "class_token=False", "final_norm=pooled"):
        assert obstacle in ended.err
    assert not (tmp_path / "o").exists()
    assert not list(tmp_path.glob("*.partial"))


def test_half_precision_is_written_and_held_to_its_own_tolerance(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    for dtype, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        out = tmp_path / dtype
        args = ("convert", tiny_model("vit"), out, "--to", "hf", "--dtype", dtype, "--verify")
        ended = vit(*args)
        assert ended.code == 0, ended.err
        assert {tensor.dtype for tensor in tensors_of(out).values()} == {kind}


def test_an_existing_target_is_safe(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    out = tmp_path / "out"
    args = ("convert", tiny_model("vit"), out, "--to", "hf")
    assert vit(*args).code == 0
    (out / "mine.txt").write_text("x")
    again = vit(*args)
    assert again.code == 1
    assert "exists" in again.err
    assert (out / "mine.txt").exists()
    assert vit(*args, "--overwrite").code == 0
    assert not (out / "mine.txt").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failed_verification_leaves_nothing(
    vit: Vit, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitcli.tasks.convert.TOLERANCE", {"fp32": -1.0})
    ended = vit("convert", tiny_model("vit"), tmp_path / "out", "--to", "hf", "--verify")
    assert ended.code == 1
    assert "verification failed" in ended.err
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit", "dinov2-reg"])
def test_onnx_runtime_runs_any_batch(
    vit: Vit, tiny_model: Models, tmp_path: Path, family: str
) -> None:
    out = tmp_path / "model.onnx"
    ended = vit("convert", tiny_model(family), out, "--to", "onnx", "--verify")
    assert ended.code == 0, ended.err
    session = onnxruntime.InferenceSession(str(out))
    network = load(str(tiny_model(family))).network
    for batch in (1, 5):
        pixels = weights.pixels(batch, 64, 64)
        [found] = session.run(None, {"pixel_values": pixels})
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    metadata = {prop.key: prop.value for prop in onnx.load(out).metadata_props}
    assert json.loads(metadata["preprocess"])["image_mean"]
    assert json.loads(metadata["labels"]) == list(load(str(tiny_model(family))).labels)


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("out",), 2, "--to"),
        (("out", "--to", "tensorflow"), 2, "tensorflow"),
        (("out", "--to", "onnx"), 2, "ends in .onnx"),
        (("out.onnx", "--to", "onnx", "--dtype", "bf16"), 2, "bf16"),
    ],
)
def test_a_mistake_is_one_clear_line(
    vit: Vit, tiny_model: Models, args: tuple[str, ...], code: int, said: str
) -> None:
    ended = vit("convert", tiny_model("vit"), *args)
    assert ended.code == code
    assert said in ended.err
