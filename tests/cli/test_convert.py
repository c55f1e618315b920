"""`vit convert`: what it writes opens in the other library, with the same numbers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from tests.checkpoints.files import copied
from tests.conftest import Vit
from tests.fixtures import weights
from tests.fixtures.extras import Lazy, needs
from vitcli.checkpoints.load import load

Models = Callable[[str], Path]
onnx, onnxruntime = Lazy("onnx", "onnx"), Lazy("onnxruntime", "onnx")

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
    assert "class token and the mean" in ended.err
    timm_folder("reg4_gap", tmp_path / "src")
    ended = vit("convert", tmp_path / "src", tmp_path / "o", "--to", "hf")
    assert ended.code == 1
    for obstacle in ("the closest, hf-vit", "num_registers=4", "final_norm=pooled"):
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
@needs("onnx")
@pytest.mark.parametrize("family", ["vit", "dinov2-reg", "dinov3"])
def test_onnx_runtime_runs_any_batch(
    vit: Vit, shallow_model: Models, tmp_path: Path, family: str
) -> None:
    out = tmp_path / "model.onnx"
    ended = vit("convert", shallow_model(family), out, "--to", "onnx", "--verify")
    assert ended.code == 0, ended.err
    session = onnxruntime.InferenceSession(str(out))
    network = load(str(shallow_model(family))).network
    for batch in (1, 5):
        pixels = weights.pixels(batch, 64, 64)
        [found] = session.run(None, {"pixel_values": pixels})
        with torch.inference_mode():
            expected = network(torch.from_numpy(pixels)).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-5)
    assert not (tmp_path / "README.md").exists()
    metadata = {prop.key: prop.value for prop in onnx.load(out).metadata_props}
    assert json.loads(metadata["preprocess"])["image_mean"]
    assert json.loads(metadata["labels"]) == list(load(str(shallow_model(family))).labels)


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


@pytest.mark.parametrize(
    ("target", "said"),
    [("file/out", "Not a directory"), ("/proc/out", "No such file"), ("file", "Not a directory")],
)
def test_a_target_that_cannot_be_written_is_said_before_the_model_is_loaded(
    vit: Vit, tmp_path: Path, target: str, said: str
) -> None:
    (tmp_path / "file").write_text("mine")
    ended = vit("convert", "no-such-model", target, "--to", "hf", "--overwrite")
    assert ended.code == 1
    if target == "file":  # seen only when it is to be replaced
        assert "no model at no-such-model" in ended.err
        ended = vit("convert", "demo", target, "--to", "hf", "--overwrite")
    assert f"cannot write to {target}: {said}" in ended.err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "mine"


def test_a_failure_leaves_no_folder_that_it_has_made(vit: Vit, tmp_path: Path) -> None:
    assert vit("convert", "no-such-model", "a/b/out", "--to", "hf").code == 1
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_model_is_never_replaced(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    ended = vit("convert", "demo", "home", "--to", "hf", "--overwrite")
    assert ended.code == 1
    assert "home is not a model, it holds letter.txt" in ended.err
    assert (tmp_path / "home" / "letter.txt").read_text() == "dear"
    (tmp_path / "home" / "letter.txt").unlink()
    assert vit("convert", "demo", "home", "--to", "hf", "--overwrite").code == 0


def test_a_link_stays_and_its_folder_is_replaced(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    assert vit("convert", "demo", "link", "--to", "hf", "--overwrite").code == 0
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "model.safetensors").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_what_became_of_every_tensor_is_told(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    """36 + 8 tensors renamed, q, k and v fused, the pooler dropped, and nothing in silence."""
    args = (tiny_model("vit-backbone"), tmp_path / "o", "--to", "timm", "--verify")
    lines = vit("convert", *args).out.decode().splitlines()
    assert lines[0] == f"{tiny_model('vit-backbone')} is hf-vit (ViTModel)"
    assert re.fullmatch(rf"written as timm, fp32, \d+ kB, to {tmp_path}/o", lines[1])
    assert lines[2:5] == [
        "  renamed   36: embeddings.cls_token → cls_token, ...",
        "  fused     18 into 6: encoder.layer.0.attention.attention.{query,key,value}.bias → "
        "blocks.0.attn.qkv.bias, ...",
        "  dropped   2: pooler.dense.bias, pooler.dense.weight (trained in few files, and not part "
        "of a plain ViT)",
    ]
    back = vit("convert", tmp_path / "o", tmp_path / "back", "--to", "hf").out.decode()
    assert "  split     6 into 18: blocks.0.attn.qkv.bias → encoder.layer.0.attention." in back
    assert "  note      transformers' ViTModel has a pooler, which this model lacks" in back
    same = vit("convert", tiny_model("vit"), tmp_path / "same", "--to", "hf").out.decode()
    assert "  kept      56\n" in same


def test_a_terminal_gets_lines_of_its_width(
    vit: Vit, tiny_model: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that goes on in the next line would be read as two."""
    folder = tiny_model("vit-backbone")
    piped = vit("convert", folder, "out", "--to", "timm").out.decode()
    monkeypatch.setattr("vitcli.cli.commands.convert.is_terminal", lambda: True)
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((80, 24)))
    shown = vit("convert", folder, "out", "--to", "timm", "--overwrite").out.decode()
    assert any(len(line) > 80 for line in piped.splitlines()[1:])
    fitted = shown.splitlines()[1:]
    assert all(len(line) <= 80 for line in fitted if str(folder) not in line)
    assert all(line.startswith(" " * 12) or re.match(r"  \w|written", line) for line in fitted)
    assert shown.split() == piped.split()


def test_another_embedding_of_timms_is_told(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    """The tokens are the same; timm averages two of them, we and transformers take the first."""
    lines = vit("convert", tiny_model("deit-backbone"), "out", "--to", "timm").out.decode()
    said = "timm's embedding is the mean of the class and the distillation token"
    assert f"  note      {said}" in lines.splitlines()
    lines = vit("convert", tiny_model("deit-distilled"), "two", "--to", "timm").out.decode()
    assert said not in lines


def test_another_epsilon_is_measured_apart(vit: Vit, tiny_model: Models, tmp_path: Path) -> None:
    """Small activations, as real weights have them: 1e-12 beside timm's 1e-6 shows in the fifth
    decimal, and is no mistake of the conversion."""
    folder = tmp_path / "src"
    shutil.copytree(tiny_model("vit"), folder)
    state = tensors_of(folder)
    small = {n: t * 0.2 if "embeddings" in n else t for n, t in state.items()}
    save_file(small, folder / "model.safetensors")
    ended = vit("convert", folder, tmp_path / "out", "--to", "timm", "--verify")
    assert ended.code == 0, ended.err
    lines = ended.out.decode().splitlines()
    assert "  note      timm's LayerNorm has epsilon 1e-06, this model 1e-12" in lines
    found = {
        what: float(delta)
        for what, delta in re.findall(r"verified  (.*): max \|Δ\| (\S+),", "\n".join(lines))
    }
    assert found["hidden states"] == found["logits"] == 0
    assert 1e-5 < found["hidden states, by the epsilon alone"] < 1e-3


def test_labels_that_are_there_twice_reach_transformers(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    """As two cranes and two maillots are in ImageNet's 1000."""
    names = tmp_path / "names.txt"
    names.write_text("crane\ncrane\nteapot\na\nb\nc\nd\n")
    args = ("convert", tiny_model("vit"), tmp_path / "out", "--to", "hf", "--labels", names)
    assert vit(*args).code == 0
    config = transformers.AutoConfig.from_pretrained(tmp_path / "out")
    assert list(config.id2label.values()) == ["crane", "crane", "teapot", "a", "b", "c", "d"]
    assert config.num_labels == 7
    assert load(str(tmp_path / "out")).labels[:2] == ("crane", "crane")


@pytest.mark.parametrize(("family", "is_told"), [("dinov2", True), ("vit", False)])
def test_a_preprocessing_that_the_target_cuts_otherwise_is_told(
    vit: Vit, tiny_model: Models, family: str, is_told: bool
) -> None:
    """Of odd differences timm and transformers begin the crop on different sides."""
    ended = vit("convert", tiny_model(family), "out", "--to", "timm", "--verify")
    assert ended.code == 0, ended.err
    shown = ended.out.decode()
    assert is_told == ("timm's preprocessing is not quite this model's" in shown)
    assert is_told == ("pixels alone: max" in shown)


def test_a_resize_that_timm_does_otherwise_is_told(
    vit: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    folder = copied(tiny_model("vit"), tmp_path / "floats")
    processor = {"image_processor_type": "DINOv3ViTImageProcessor", "size": 64}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    ended = vit("convert", folder, "out", "--to", "timm", "--verify")
    assert ended.code == 0, ended.err
    assert (
        b"timm's preprocessing resizes bytes with Pillow, this model's floats with torch"
        in ended.out
    )
    assert b"pixels alone: max" in ended.out
    back = load(str(tmp_path / "out")).preprocess
    assert (back.resizer, back.resample, back.fit) == ("pillow", "bilinear", "squash")


@pytest.mark.slow
@needs("onnx")
def test_onnx_keeps_a_preprocessing_that_transformers_lacks(vit: Vit, tmp_path: Path) -> None:
    timm_folder("vit", tmp_path / "src")  # pictures of 64x48
    ended = vit("convert", "src", "out.onnx", "--to", "onnx", "--dtype", "fp16", "--verify")
    assert ended.code == 0
    [note] = ended.err.splitlines()  # and nothing of ONNX Runtime's own
    assert "the checkpoint has no labels" in note
    metadata = {prop.key: prop.value for prop in onnx.load(tmp_path / "out.onnx").metadata_props}
    assert json.loads(metadata["preprocess"])["crop_pct"] == 0.9
    assert "center_crop(64x48)" in metadata["steps"]


@pytest.mark.slow
@needs("onnx")
def test_weights_beyond_what_a_file_holds_stand_beside_it(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitcli.checkpoints.onnx.MAX_FILE", 1000)
    ended = vit("convert", "demo", "out.onnx", "--to", "onnx", "--verify")
    assert ended.code == 0, ended.err
    assert b"the weights are next to it, in out.onnx.data" in ended.out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    session = onnxruntime.InferenceSession(str(tmp_path / "out.onnx"))
    pixels = weights.pixels(1, 32, 32)
    with torch.inference_mode():
        expected = load("demo").network(torch.from_numpy(pixels)).numpy()
    [found] = session.run(None, {"pixel_values": pixels})
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_conversions_that_people_ask_for_are_in_the_help_and_on_the_page(vit: Vit) -> None:
    shown = vit("convert", "--help").out.decode()
    shown = re.sub(r" \\\n +", " ", shown)
    examples = [line.strip() for line in shown.splitlines() if "vit convert" in line]
    examples = [line for line in examples if "Usage" not in line]
    assert len(examples) == 6
    page = (Path(__file__).parents[2] / "docs" / "convert.md").read_text("utf-8")
    for example in examples:
        assert example in page
    assert {word for line in examples for word in line.split() if word in ("hf", "timm", "onnx")}
