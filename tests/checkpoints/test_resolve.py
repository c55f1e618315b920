"""What people type and keep on their disks: odd folders, renamed files, paths and addresses."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.checkpoints.files import copied, edit_json, loaded, refusal
from tests.fixtures.tiny import LABELS
from tests.models.goldens import Golden
from vitcli.checkpoints.resolve import resolve
from vitcli.errors import ModelNotFound


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny ViT of transformers, to be changed."""
    return copied(tiny_model("vit"), tmp_path / "model")


def renamed(folder: Path, name: str = "best.safetensors") -> Path:
    return (folder / "model.safetensors").rename(folder / name)


@pytest.mark.parametrize("leftover", ["training_args.bin", "optimizer.pt", "rng_state_0.pth"])
def test_a_single_file_of_weights_needs_no_usual_name(folder: Path, leftover: str) -> None:
    """What a trainer leaves beside it is no weight file."""
    file = renamed(folder)
    (folder / leftover).write_bytes(b"never read")
    model = loaded(folder)
    assert model.labels == loaded(file).labels == LABELS
    assert model.notes == (f"best.safetensors is used: it is the only weight file in {folder}",)
    assert loaded(file).notes == ("config.json next to best.safetensors is used",)


def test_of_several_files_one_has_to_be_named(folder: Path) -> None:
    (folder / "other.pth").write_bytes(b"never read")
    assert loaded(folder).labels == LABELS  # that of the usual name
    renamed(folder)
    said = refusal(folder)
    assert f"{folder} holds 2 weight files: best.safetensors, other.pth" in said
    assert f"give one of them: {folder}/best.safetensors" in said
    # Whose the config is then, nobody can know.
    assert "has no config.json" in refusal(folder / "best.safetensors")


def test_shards_without_their_index_are_told(folder: Path) -> None:
    renamed(folder, "model-00001-of-00002.safetensors")
    said = refusal(folder)
    assert "holds shards (model-00001-of-00002.safetensors), but not the index" in said
    assert "download model.safetensors.index.json" in said


def test_a_config_that_is_no_models_is_not_taken_for_one(tmp_path: Path) -> None:
    torch.save(Golden.read("bare_head").state, tmp_path / "vit.pth")
    edit_json(tmp_path / "config.json", theme="dark")
    assert not resolve(str(tmp_path / "vit.pth")).config
    edit_json(tmp_path / "config.json", architecture="vit_small_patch16_224")
    assert resolve(str(tmp_path / "vit.pth")).config


def test_a_folder_of_checkpoints_names_them(folder: Path, tmp_path: Path) -> None:
    for step, when in ((1000, 3), (500, 2), (900, 1)):
        copied(folder, tmp_path / "run" / f"checkpoint-{step}")
        os.utime(tmp_path / "run" / f"checkpoint-{step}", (when, when))
    said = refusal(tmp_path / "run")
    assert "in its folders: checkpoint-1000, checkpoint-500, checkpoint-900" in said
    assert f"give one of them: {tmp_path}/run/checkpoint-1000" in said


def test_a_folder_without_weights_says_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "tf_model.h5").write_bytes(b"\x89HDF")
    said = refusal(tmp_path)
    assert f"no weights in {tmp_path}" in said
    assert "looked for model.safetensors" in said
    assert said.endswith("there is tf_model.h5")


def test_a_pickle_under_the_name_of_safetensors_is_told(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    said = refusal(tmp_path)
    assert "model.safetensors is a pickle of PyTorch's, not safetensors" in said
    assert "rename it to model.pth" in said


def test_an_adapter_is_no_model(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    name = "base_model.model.vit.encoder.layer.0.attention.attention.query.lora_A.weight"
    save_file({name: torch.ones(4, 32)}, folder / "adapter_model.safetensors")
    said = refusal(folder)
    assert "this is a LoRA adapter, as PEFT saves it: an addition to a model" in said
    assert name in said
    assert "merge_and_unload" in said


def test_a_home_and_a_slash_are_understood(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shell has turned `~` into a folder in VIT_MODEL or --model=~/vit."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for spec in ("~/model", "~/model/", "model/", "./model", "model/model.safetensors"):
        assert resolve(spec).weights[0].samefile(folder / "model.safetensors"), spec
        assert resolve(spec).spec == spec


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("https://huggingface.co/org/vit", "give the hub id alone: org/vit"),
        ("https://huggingface.co/org/vit/tree/v1/", "give the hub id alone: org/vit@v1"),
        ("hf-hub:timm/vit", "give the hub id alone: timm/vit"),
        ("https://dl.org/a/vit.pth", "download it, and give the file: curl -LO https://dl.org"),
        ("org/vit@", "give a directory, a weight file, a hub id"),
    ],
)
def test_an_address_leads_to_what_can_be_given(spec: str, hint: str) -> None:
    with pytest.raises(ModelNotFound, match="no model at") as caught:
        resolve(spec)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_what_is_neither_here_nor_on_the_hub_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs").mkdir()
    with pytest.raises(ModelNotFound) as caught:
        resolve("runs/flowers", offline=True)
    assert str(caught.value.hint).startswith("here is a folder runs, but no runs/flowers in it; ")
    Path("runs", "last").symlink_to("gone")
    with pytest.raises(ModelNotFound, match="runs/last is a link to gone, which is not there"):
        resolve("runs/last")
    with pytest.raises(ModelNotFound, match="no model at ' '"):
        resolve(" ")


def test_a_path_that_the_system_refuses_is_one_line() -> None:
    with pytest.raises(ModelNotFound, match=r"cannot read a+: File name too long"):
        resolve("a" * 300)


def test_a_folder_that_may_not_be_entered_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As root obeys no modes, what the system says to others is said here."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    assert refusal(folder) == f"cannot read {folder}: Permission denied"


def test_heads_that_were_asked_for_are_not_blamed_on_the_config(folder: Path) -> None:
    assert "--num-heads is 5, which does not divide the width 32" in refusal(folder, num_heads=5)
    edit_json(folder / "config.json", num_attention_heads=5)
    assert "config.json: num_attention_heads is 5" in refusal(folder)
