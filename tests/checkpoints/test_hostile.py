"""Files that lie, in processes of their own: what they cost before they are refused; and what a
checkpoint may not do to the machine, the terminal or the tables."""

from __future__ import annotations

import argparse
import collections
import csv
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.checkpoints.files import copied, edit_json, read_state, refusal, write_state
from tests.conftest import Vit
from tests.fixtures.photos import Corpus
from tests.fixtures.tiny import LABELS
from vitcli.checkpoints.load import load

# One that has loaded a good model forks for each path.
LOADING = """
import json, os, resource, sys
from pathlib import Path
import torch
from vitcli.checkpoints.load import load
from vitcli.errors import VitError
torch.set_num_threads(1)
load("demo")
def measured(path):
    said = "no error"
    try:
        load(path)
    except VitError as error:
        said = str(error).splitlines()[0]
    use = resource.getrusage(resource.RUSAGE_SELF)
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1000
    return said, use.ru_utime + use.ru_stime, peak
for line in sys.stdin:
    if os.fork() == 0:
        print(json.dumps(measured(line.removesuffix(chr(10)))), flush=True)
        os._exit(0)
    os.wait()
"""


@dataclass(frozen=True)
class Cost:
    """What was said, and what it cost beside the loading of a good model: seconds of the
    processor, and the peak of memory in MB with that model's."""

    said: str
    seconds: float
    peak: float


CostOf = Callable[[Path], Cost]


@pytest.fixture(scope="module")
def cost() -> Iterator[CostOf]:
    with subprocess.Popen(
        [sys.executable, "-c", LOADING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as loading:
        asked, answers = loading.stdin, loading.stdout
        assert asked is not None
        assert answers is not None

        def of(path: Path) -> Cost:
            print(path, file=asked, flush=True)
            return Cost(*json.loads(answers.readline()))

        yield of
        asked.close()


@pytest.fixture
def folder(tiny_model: Callable[[str], Path], tmp_path: Path) -> Path:
    """A tiny ViT with a classifier, to be changed."""
    return copied(tiny_model("vit"), tmp_path / "model")


# What a lie costs.


def many_tensors(count: int) -> bytes:
    entry = '"t{}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}'
    header = ("{" + ",".join(entry.format(n) for n in range(count)) + "}").encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize("count", [200_000, 2_000_000])
def test_a_header_of_too_many_tensors_costs_little(
    count: int, tmp_path: Path, cost: CostOf
) -> None:
    path = tmp_path / "many.safetensors"
    path.write_bytes(many_tensors(count))
    found = cost(path)
    assert "claims 200,000 tensors" in found.said or "at most 25,000,000 are read" in found.said
    assert found.seconds < 2
    assert found.peak < 900


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hidden_size": 10**9}, "hidden_size is 1000000000"),
        ({"num_hidden_layers": 10**9}, "num_hidden_layers is 1000000000"),
        ({"num_hidden_layers": 512, "hidden_size": 16_384}, "the file has 3 blocks"),
        ({"image_size": 16_384, "patch_size": 1}, "expected"),
        ({"intermediate_size": 131_072}, "expected [131072, 32]"),
        ({"qkv_bias": "false"}, "qkv_bias is 'false', not true or false"),
    ],
)
def test_a_config_that_lies_allocates_nothing(
    changes: dict[str, Any], says: str, folder: Path, cost: CostOf
) -> None:
    edit_json(folder / "config.json", **changes)
    found = cost(folder)
    assert says in found.said
    assert found.seconds < 2
    assert found.peak < 600


@pytest.mark.parametrize("text", ["[" * 100_000, "x" * 500_000_000, "[" + "[]," * 3_300_000 + "0]"])
def test_a_json_that_lies_costs_little(text: str, folder: Path, cost: CostOf) -> None:
    """Nested without end; 500 MB; and as full of objects as a file of the largest size can be."""
    (folder / "config.json").write_text(text)
    found = cost(folder)
    assert str(folder / "config.json") in found.said
    assert found.seconds < 4  # under 1 where nothing else runs
    assert found.peak < 700


def test_an_image_size_without_sense_is_refused_at_once(vit: Vit, folder: Path) -> None:
    ended = vit("info", folder, "--image-size", "1000000")
    assert (ended.code, ended.out) == (2, b"")


def test_a_stretched_tensor_costs_nothing(tmp_path: Path, cost: CostOf) -> None:
    path = tmp_path / "vit.pth"
    torch.save({"a": torch.empty(1).as_strided((2**20, 2**20), (0, 0))}, path)
    found = cost(path)
    assert "a takes 4.4 TB" in found.said
    assert found.peak < 600


# What wants to be run.


class Hostile:
    """A pickle of this runs a command, if it is let."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.canary}'",)


class Dressed(collections.OrderedDict[str, Any]):
    """By an allowed name, with more than its class has."""


def test_a_hostile_shard_is_refused(folder: Path, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    state = read_state(folder)
    (folder / "model.safetensors").unlink()
    names = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
    torch.save(state, folder / names[0])
    torch.save({"surplus": Hostile(canary)}, folder / names[1])
    weight_map = dict.fromkeys(state, names[0]) | {"surplus": names[1]}
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    said = refusal(folder)
    assert f"refused: {folder / names[1]} wants to run `posix.system`" in said
    assert not canary.exists()


def test_the_first_format_of_torch_a_tar_is_not_read(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    with tarfile.open(tmp_path / "vit.pth", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Hostile(canary), 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert "is a tar archive" in refusal(tmp_path / "vit.pth")
    assert not canary.exists()


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("new_zip", [True, False])
def test_an_allowed_name_opens_no_back_door(
    protocol: int, new_zip: bool, folder: Path, tmp_path: Path
) -> None:
    """Namespaces, ordered dicts and numpy's scalars that carry something to run."""
    canary = tmp_path / "canary"
    namespace = argparse.Namespace()
    namespace.__dict__["__setstate__"] = Hostile(canary)
    dressed = Dressed(a=1)
    dressed.extra = Hostile(canary)  # type: ignore[attr-defined]
    for payload in (namespace, dressed, np.float32(1), np.array([Hostile(canary)], dtype=object)):
        path = tmp_path / "vit.pth"
        torch.save(
            {"model": read_state(folder), "args": payload},
            path,
            pickle_protocol=protocol,
            _use_new_zipfile_serialization=new_zip,
        )
        assert "refused: " in refusal(path)
        assert not canary.exists()


def test_an_archive_on_several_disks_is_damaged(tmp_path: Path) -> None:
    """zipfile raises already where it is asked whether this is an archive."""
    torch.save({"head.weight": torch.ones(2, 2)}, tmp_path / "w.pth")
    data = (tmp_path / "w.pth").read_bytes()
    at = data.rindex(b"PK\5\6")
    data = data[: at - 20] + struct.pack("<4sLQL", b"PK\6\7", 0, 0, 2) + data[at:]
    (tmp_path / "w.pth").write_bytes(data)
    assert "w.pth is damaged" in refusal(tmp_path / "w.pth")


def test_a_whole_pickled_module_is_named(tmp_path: Path) -> None:
    torch.save(nn.Sequential(nn.Linear(2, 2)), tmp_path / "vit.pth")
    said = refusal(tmp_path / "vit.pth")
    assert "is a whole pickled module (torch.nn.modules.container.Sequential)" in said
    assert "save model.state_dict() instead" in said


def test_python_files_of_the_working_directory_are_not_imported(
    folder: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    """As the `vit` script runs, which does not look for modules where it is called."""
    for name in ("torch", "numpy", "sitecustomize", "safetensors", "modeling_vit"):
        (folder / f"{name}.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w')")
    edit_json(folder / "config.json", auto_map={"AutoModel": "modeling_vit.Model"})
    run = subprocess.run(
        [sys.executable, "-P", "-m", "vitcli", "info", "."],
        cwd=folder,
        env=clean_env,
        capture_output=True,
    )
    assert run.returncode == 0, run.stderr
    assert not (tmp_path / "canary").exists()


# Links.


def in_shards(folder: Path) -> Path:
    """The model in one shard beside an index; gives the shard."""
    state = read_state(folder)
    shard = folder / "model-00001-of-00001.safetensors"
    (folder / "model.safetensors").rename(shard)
    weight_map = dict.fromkeys(state, shard.name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return shard


def test_a_shard_that_is_a_link_out_of_the_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    shard = in_shards(folder)
    elsewhere = shard.rename(tmp_path / "elsewhere.safetensors")
    shard.symlink_to(elsewhere)
    said = refusal(folder)
    assert "names a file outside of its folder: " in said
    assert str(elsewhere) in said
    (folder / "shards").mkdir()
    shard.unlink()
    shard.symlink_to(elsewhere.rename(folder / "shards" / "one.safetensors"))
    assert load(str(folder)).labels == LABELS


def test_a_link_to_a_blob_of_the_cache_and_to_a_whole_folder_stay_allowed(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(folder)
    shard = in_shards(folder)
    assert load(str(tmp_path / "link")).labels == LABELS
    blobs = tmp_path / "hub" / "models--org--tiny" / "blobs"
    blobs.mkdir(parents=True)
    shard.symlink_to(shard.rename(blobs / "0a1b2c"))
    assert load(str(folder)).labels == LABELS


# Damage.


def test_a_flipped_byte_of_safetensors_shows_in_the_hash_alone(folder: Path) -> None:
    before = load(str(folder)).sha256
    path = folder / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    changed = load(str(folder))
    assert changed.sha256 != before
    assert before in refusal(folder, sha256=before)


def test_nan_never_reaches_a_row(vit: Vit, folder: Path, photos: Corpus) -> None:
    state = read_state(folder)
    state["classifier.bias"][3] = torch.nan
    write_state(folder, state)
    ended = vit("classify", photos.good[0], "-m", folder)
    assert (ended.code, ended.out) == (1, b"")
    assert "classifier.bias holds 1 NaN" in ended.err


# Labels.

ODD = ["two\nlines", "\x1b[31mred", "=cmd()", "<script>", "[/b]", 'quo"te,', "plain"]


def test_odd_labels_are_data_everywhere(vit: Vit, folder: Path, photos: Corpus) -> None:
    edit_json(folder / "config.json", id2label={str(i): name for i, name in enumerate(ODD)})
    args = ("classify", photos.good[0], "-m", folder, "-k", "7")
    ended = vit(*args)
    assert ended.code == 0
    [row] = [json.loads(line) for line in ended.out.splitlines()]
    assert {p["label"] for p in row["predictions"]} == set(ODD)
    assert len(ended.out.splitlines()) == 1
    ended = vit(*args, "-o", "out.csv")
    table = list(csv.DictReader(Path("out.csv").read_text("utf-8").splitlines(keepends=True)))
    assert {line["label"] for line in table} == set(ODD)
    shown = vit(*args, "--format", "table")
    assert shown.code == 0
    assert b"\x1b[31m" not in shown.out
    assert b"[/b]" in shown.out
