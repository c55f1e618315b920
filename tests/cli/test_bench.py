"""`vit bench`: a table, JSON, commands that run, and what is not there in one line."""

from __future__ import annotations

import csv
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from pathlib import Path

import jsonschema
import pytest

from tests.conftest import Ended, Vit
from tests.fixtures.extras import needs
from tests.fixtures.processes import processes
from vitcli import errors, schemas
from vitcli.cli.commands.bench import COLUMNS
from vitcli.models import onednn

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def no_extras(monkeypatch: pytest.MonkeyPatch) -> None:
    def spec(name: str) -> ModuleSpec | None:
        return None if name in ("nncf", "onnxruntime") else ModuleSpec(name, None)

    monkeypatch.setattr(errors, "find_spec", spec)


@pytest.fixture
def on_torch(no_extras: None, warm: None, vit: Vit) -> Callable[..., Ended]:
    return lambda *args: vit("bench", "demo", "--seconds", "600", *args)


def test_the_table_in_a_pipe_and_the_commands_on_stderr(
    on_torch: Callable[..., Ended], vit: Vit, tmp_path: Path
) -> None:
    ended = on_torch("--no-progress")
    assert ended.code == 0, ended.err
    lines = ended.out.decode().splitlines()
    assert tuple(lines[0].split("\t")) == tuple(COLUMNS)
    rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [row["batch_size"] for row in rows if row["dtype"] == "fp32"][:4] == [
        *("1", "4", "16", "32")
    ]
    first = rows[0]
    assert (first["engine"], first["dtype"], first["quantize"]) == ("torch", "fp32", "")
    assert (float(first["cosine"]), float(first["top1_agreement"])) == (1, 1)
    assert all(float(row["images_per_second"]) > 0 for row in rows)
    assert all(float(row["peak_mb"]) > 50 for row in rows)
    for extra, package in (("openvino", "nncf"), ("onnx", "onnxruntime")):
        note = f"left out: --engine {extra} needs {package}: pip install 'vitcli[{extra}]', or"
        assert ended.err.count(note) == 1

    shutil.copytree(EXAMPLES, tmp_path / "photos")
    advised = [line.partition(": ") for line in ended.err.splitlines() if ": vit " in line]
    assert [words for words, _, _ in advised] == [
        "exact numbers",
        "fastest",
        "fastest that agrees with fp32 on 99 %",
        "lowest latency of one image",
        "least memory",
    ]
    for command in {command for _, _, command in advised}:
        ran = vit(*shlex.split(command)[1:])
        assert ran.code == 0, ran.err
        assert len(ran.out.splitlines()) == 10


def test_json_has_what_the_table_has_and_more(
    on_torch: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onednn, "has", lambda *names: False)
    monkeypatch.setattr(onednn, "supports", lambda dtype, int8=False: False)
    ended = on_torch("--json", "-q", "--image-size", "40x32")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    jsonschema.validate(found, schemas.read("bench"))
    assert list(found) == [
        *("model", "device", "threads", "images", "gflops", "limits_gflops", "rows", "best"),
        *("exports", "left_out", "seconds", "interrupted"),
    ]
    assert found["images"] == "64 drawn images"
    assert found["left_out"]["openvino"] == "not installed"
    assert found["interrupted"] is False
    assert found["limits_gflops"]["fp32"] > 0
    for row in found["rows"]:
        assert tuple(row) == tuple(COLUMNS)
        assert row["workers"] is None and row["decode"] is None
        assert row["limit_share"] > 0
        assert row["compared"] >= 1
        assert " --image-size 40x32 " in row["command"]
    assert set(found["best"]) == {"exact", "fastest", "close", "latency", "memory"}
    assert found["best"]["exact"]["dtype"] == "fp32"
    assert found["best"]["exact"]["quantize"] is None


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("no/such-model",), 1, "no/such-model"),
        (("demo", "--device", "cuda:9"), 1, "CUDA"),
        (("demo", "--seconds", "0"), 2, "--seconds"),
        (("demo", "--on", "nowhere"), 1, "nowhere"),
        (("demo", "--image-size", "0"), 2, "--image-size 0"),
    ],
)
def test_mistakes_are_told_before_anything_is_tried(
    vit: Vit, args: tuple[str, ...], code: int, said: str
) -> None:
    ended = vit("bench", *args, "--offline")
    assert (ended.code, ended.out) == (code, b"")
    assert said in ended.err


def is_measuring(pid: int) -> bool:
    """Whether the process of a candidate is at work."""
    commands = (Path(f"/proc/{child}/cmdline") for child in processes("parent", pid))
    return any(b"vitcli.tasks.bench.worker" in command.read_bytes() for command in commands)


def test_ctrl_c_prints_what_there_is(tmp_path: Path, clean_env: dict[str, str]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "vitcli", "bench", "demo", "--seconds", "600", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env={**clean_env, "TMPDIR": str(tmp_path)},
    )
    while not is_measuring(process.pid):
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT
    found = json.loads(out)
    assert found["interrupted"] is True
    assert b"vit: interrupted after" in err
    assert list(tmp_path.glob("vit-bench-*")) == []


@pytest.mark.slow
@pytest.mark.usefixtures("warm")
@needs("onnx")
def test_another_engine_is_exported_first_and_then_measured(
    vit: Vit, monkeypatch: pytest.MonkeyPatch, clean_env: dict[str, str], tmp_path: Path
) -> None:
    from vitcli.tasks.bench import bench as task
    from vitcli.tasks.bench.protocol import Candidate

    monkeypatch.setitem(clean_env, "VIT_CACHE", str(tmp_path / "cache"))  # nothing is exported yet

    ways = [Candidate("torch", "fp32"), Candidate("onnx", "fp32")]
    monkeypatch.setattr(task._Trials, "_candidates", lambda self, device, exports: iter(ways))
    ended = vit("bench", "demo", "--json", "--seconds", "600")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    onnx = [row for row in found["rows"] if row["engine"] == "onnx"]
    assert len(onnx) == 4
    assert all(row["cosine"] > 0.99999 and row["top1_agreement"] == 1 for row in onnx)
    assert found["exports"]["onnx fp32"] > 0
    assert "onnx fp32: the export took" in ended.err
