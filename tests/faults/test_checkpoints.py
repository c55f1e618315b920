"""Checkpoints that are broken, hostile or changed meanwhile: one error, before anything is read."""

from __future__ import annotations

import argparse
import gzip
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor

from tests.checkpoints.files import copied, edit_json, read_state, write_state
from tests.faults.rules import contents, ended, run
from tests.fixtures.forks import ForkServer, wait_for

WEIGHTS = "model.safetensors"
BIAS = "classifier.bias"
State = dict[str, Tensor]


class Hostile:
    """A pickle of this runs a command, if it is let."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny ViT with 7 classes, to be changed."""
    return copied(tiny_model("vit"), tmp_path / "model")


# What is done to the folder; gives what is then asked for, where that is not the folder.
Spoil = Callable[[Path], Path | None]


def pickled(make: Callable[[Path], Any], **how: Any) -> Spoil:
    """A `.pth` of what is made, which may have to do with the canary."""

    def spoil(folder: Path) -> Path:
        torch.save(make(folder.parent / "canary"), folder / "vit.pth", **how)
        return folder / "vit.pth"

    return spoil


def contains(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> Path:
        (folder / name).write_bytes(content)
        return folder / name

    return spoil


def cut(folder: Path) -> None:
    os.truncate(folder / WEIGHTS, (folder / WEIGHTS).stat().st_size * 9 // 10)


def packed(folder: Path) -> Path:
    with tarfile.open(folder / "vit.pth", "w") as archive:
        archive.add(folder / WEIGHTS)
    return folder / "vit.pth"


def scripted(folder: Path) -> Path:
    with zipfile.ZipFile(folder / "vit.pt", "w") as archive:
        archive.writestr("archive/constants.pkl", b"")
    return folder / "vit.pt"


def indexed(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        index = {"weight_map": {BIAS: name}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))

    return spoil


def stated(change: Callable[[State], State]) -> Spoil:
    return lambda folder: write_state(folder, change(read_state(folder)))


def configured(**changes: Any) -> Spoil:
    return lambda folder: edit_json(folder / "config.json", **changes)


def arrays(folder: Path) -> Path:
    np.savez(folder / "vit.npz", a=np.array([{}], dtype=object))
    return folder / "vit.npz"


def flipped(folder: Path) -> Path:
    torch.save(read_state(folder), folder / "vit.pth")
    data = bytearray((folder / "vit.pth").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "vit.pth").write_bytes(data)
    return folder / "vit.pth"


TOO_LONG = (1000).to_bytes(8, "little") + b"{}"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n"
REFUSED: tuple[tuple[str, Spoil, str], ...] = (
    ("C1", pickled(lambda canary: {"state_dict": {"a": Hostile(canary)}}), "`posix.system`"),
    ("C1", pickled(Hostile, _use_new_zipfile_serialization=False), "`posix.system`"),
    ("C2", pickled(lambda canary: {"args": argparse.Namespace(run=Hostile(canary))}), "refused: "),
    ("C4", arrays, "holds Python objects"),
    ("C5", pickled(lambda _: {"a": torch.empty(1).expand(2**20, 2**20)}), "a takes 4.4 TB"),
    ("C5", pickled(lambda _: {"a": torch.ones(2, 2).to_sparse()}), "is sparse"),
    ("C6", contains(WEIGHTS, TOO_LONG), "header says 1,000 bytes, file has 10"),
    ("C6", contains(WEIGHTS, save({})), "holds no tensors"),
    ("C7", cut, "is truncated"),
    ("C8", contains(WEIGHTS, b"<!DOCTYPE html><html>404</html>"), "is a web page, not weights"),
    ("C8", contains("vit.pth", LFS), "git lfs pull"),
    ("C8", contains("vit.pth", gzip.compress(b"weights")), "is gzip-compressed"),
    ("C8", packed, "is a tar archive"),
    ("C8", scripted, "is a TorchScript archive"),
    ("C8", pickled(lambda _: torch.nn.Linear(2, 2)), "is a whole pickled module"),
    ("C9", indexed("../../etc/passwd"), "names a file that is not a shard next to it"),
    ("C9", indexed("model-00001-of-00001.safetensors"), "shard 1 of 1 is missing"),
    ("C10", stated(lambda s: {n: t for n, t in s.items() if n != BIAS}), f"{BIAS} [7] is missing"),
    ("C10", stated(lambda s: s | {BIAS: torch.ones(9)}), f"{BIAS}: expected [7], found [9]"),
    ("C10", stated(lambda s: s | {"surplus": torch.ones(3)}), "unknown name: surplus [3]"),
    ("C11", stated(lambda s: s | {BIAS: torch.full((7,), torch.nan)}), f"{BIAS} holds 7 NaN"),
    ("C12", configured(id2label={"9": "a"}), "the head has 7 outputs"),
    ("C13", configured(hidden_size=10**9), "hidden_size is 1000000000"),
    ("C13", configured(patch_size=0), "patch_size is 0"),
    ("C15", flipped, "is damaged: the checksum of"),
)


@pytest.mark.parametrize(("row", "spoil", "says"), REFUSED)
def test_a_bad_checkpoint_is_one_error_before_an_image_is_read(
    row: str, spoil: Spoil, says: str, folder: Path, vits: ForkServer, ten: Path
) -> None:
    out = folder.parent / "out.jsonl"
    model = spoil(folder) or folder
    found = run(vits, "classify", ten, "-m", model, "-o", out, made=out)
    assert (found.code, found.out) == (1, b""), row
    assert says in found.err
    assert "weights_only" not in found.err
    assert [path.name for path in folder.parent.iterdir()] == ["model"], "an output, or the canary"


def test_a_run_ends_with_the_weights_that_it_began_with(
    folder: Path, vits: ForkServer, many: Path, tmp_path: Path
) -> None:
    """C16: replaced, cut short and gone. The hash in the meta file, too, is that of the old."""

    def args(name: str) -> tuple[object, ...]:
        (tmp_path / name).mkdir()
        return ("embed", many, "-m", folder, "-b", 8, "-j", 1, "-o", tmp_path / name / "out.npy")

    whole = (folder / WEIGHTS).read_bytes()
    changed = save({name: tensor + 1 for name, tensor in read_state(folder).items()})
    clean = tmp_path / "clean" / "out.npy"
    assert run(vits, *args("clean"), made=clean).code == 3
    for ruin in ("replaced", "truncated", "removed"):
        out = tmp_path / ruin / "out.npy"
        child = vits.start(*args(ruin))
        wait_for(out.with_name("out.npy.partial"))
        if ruin == "replaced":
            (folder / "new").write_bytes(changed)
            (folder / "new").replace(folder / WEIGHTS)
        elif ruin == "truncated":
            os.truncate(folder / WEIGHTS, 10)
        else:
            (folder / WEIGHTS).unlink()
        assert not out.exists(), "it was over before"
        assert ended(child, made=out).code == 3
        assert contents(out) == contents(clean), ruin
        (folder / WEIGHTS).write_bytes(whole)
