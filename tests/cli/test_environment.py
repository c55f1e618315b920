"""`vit info --env`: what it says of the installation and the machine, and what it keeps secret."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import pytest

from tests.conftest import Vit
from vitcli import schemas
from vitcli.cli.inventory import commands
from vitcli.machine import affinity, first_processor, instruction_sets, memory, memory_limit
from vitcli.tasks import environment as task
from vitcli.tasks.environment import Torch


def told(vit: Vit) -> dict[str, Any]:
    ended = vit("info", "--env", "--json")
    assert (ended.code, ended.err) == (0, "")
    found: dict[str, Any] = json.loads(ended.out)
    jsonschema.validate(found, schemas.read("environment"))
    return found


def test_the_record_fits_its_schema_and_this_installation(vit: Vit) -> None:
    found = told(vit)
    assert found["schema"] == 1 and found["vitcli"] == version("vitcli")
    assert found["packages"]["torch"] == version("torch")
    assert {*found["extras"]} >= {"heif", "onnx", "openvino", "parquet", "ray", "remote", "text"}
    assert not {"dev", "docs", "all"} & {*found["extras"]}
    assert found["extras"]["text"] == {"tokenizers": version("tokenizers")}
    assert found["engines"]["torch"] == {"dtypes": ["fp32", "bf16", "fp16", "auto"], "missing": []}
    assert 1 <= found["cpu"]["usable"] <= found["cpu"]["affinity"] <= found["cpu"]["cores"]
    assert 0 < found["memory"]["free"] <= found["memory"]["total"]
    assert found["formats"]["JPEG"].startswith(("libjpeg_turbo ", "jpg "))
    assert {*found["cache"]["bytes"]} == {
        "exports",
        "texts",
        "features",
        "rates",
        "hashes",
        "outputs",
    }


def test_a_person_reads_it_on_80_columns(vit: Vit, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task, "_version", lambda name: None if name == "pyarrow" else "1.0")
    monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
    ended = vit("info", "--env")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.decode().splitlines()
    wide = [line for line in lines if len(line) > 80]
    assert all(" " not in line[14:] for line in wide), wide  # a long path stays whole
    assert all(line == line.rstrip() for line in lines)
    assert "[parquet]     pyarrow not installed" in lines
    names = [line[:14].strip() for line in lines]
    for name in ("vitcli", "python", "packages", "torch", "system", "cpu", "memory", "devices"):
        assert names.count(name) == 1


SECRETS = {
    "HF_TOKEN": "hf_aaaaaaaaaaaaaaaa",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI",
    "GOOGLE_APPLICATION_CREDENTIALS": "/home/me/wJalrXUtnFEMI.json",
    "RAY_AUTH_TOKEN": "wJalrXUtnFEMI",
}
SHOWN = {
    "HF_ENDPOINT": ("https://me:wJalrXUtnFEMI@hub.org/", "https://***@hub.org/"),
    "HTTPS_PROXY": ("me:wJalrXUtnFEMI@proxy:3128", "***@proxy:3128"),
    "VIT_LABELS": ("https://host/names?sig=wJalrXUtnFEMI", "https://host/names?…"),
    "VIT_MODEL": ("hf_aaaaaaaaaaaaaaaa", "hf_***"),
    "VIT_TOKENIZER": ("org/name", "org/name"),
    "VIT_TOP_K": ("3\x1b[1m", r"3\x1b[1m"),
    "AWS_REGION": ("eu-central-1", "eu-central-1"),
}


def test_no_password_and_no_token_is_shown(
    vit: Vit, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**SECRETS, **{name: value for name, (value, _) in SHOWN.items()}}.items():
        monkeypatch.setitem(clean_env, name, value)
        monkeypatch.setenv(name, value)
    variables = told(vit)["variables"]
    assert {name: variables[name] for name in SECRETS} == dict.fromkeys(SECRETS)
    assert {name: variables[name] for name in SHOWN} == {
        n: shown for n, (_, shown) in SHOWN.items()
    }
    for output in (vit("info", "--env").out, vit("info", "--env", "--json").out):
        assert b"wJalrXUtnFEMI" not in output and b"aaaaaaa" not in output


def test_a_variable_that_nothing_reads_is_named(
    vit: Vit, clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    read = {one.variable for command in commands() for one in command.options if one.variable}
    for name in {*read, "VIT_MODLE"} - {"VIT_CONFIG"}:
        monkeypatch.setitem(clean_env, name, "")
        monkeypatch.setenv(name, "")
    assert told(vit)["unread"] == ["VIT_MODLE"]
    note = "note          VIT_MODLE: no option reads this variable"
    assert note in vit("info", "--env").out.decode().splitlines()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["demo", "--env"], "demo"),
        (["--env", "-m", "demo"], "demo"),
        (["--env", "--image-size", "32"], "--image-size"),
    ],
)
def test_env_takes_no_options_of_a_model(vit: Vit, words: list[str], what: str) -> None:
    ended = vit("info", *words)
    assert ended.code == 2
    assert ended.err == f"vit: --env describes this machine: {what} has no effect\n  leave it out\n"


def test_torch_is_asked_only_where_it_may_find_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setitem(sys.modules, "vitcli.models.prepare", None)  # type: ignore[arg-type]
    notes: list[str] = []
    assert [*task._devices(Torch(None, None), notes)] == [] and notes == []
    assert [*task._devices(Torch("12.8", None), notes)] == []
    assert len(notes) == 1 and notes[0].startswith("torch does not work: ")
    stand_in = ModuleType("vitcli.models.prepare")
    stand_in.devices = lambda: iter([("cuda:0", "NVIDIA H200", 150 * 10**9)])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vitcli.models.prepare", stand_in)
    assert [*task._devices(Torch("12.8", None), notes)] == [
        task.Device("cuda:0", "NVIDIA H200", 150 * 10**9)
    ]


def test_what_torch_was_built_for_is_read_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "torch" / "version.py"
    file.parent.mkdir()
    (file.parent / "__init__.py").write_text("raise AssertionError")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "torch")
    for text, built in {
        "cuda: Optional[str] = '12.8'\nhip: Optional[str] = None\n": Torch("12.8", None),
        "cuda = None\nhip = '6.4'\n": Torch(None, "6.4"),
        "cuda = None\n": Torch(None, None),
        "cuda = (": Torch(None, None),
    }.items():
        file.write_text(text)
        assert task._torch() == built


def test_processors_and_memory_are_read_from_the_files_of_linux(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(
        "processor\t: 0\nmodel name\t: Xeon\nflags\t\t: fpu avx2 amx_tile amx_int8 avx512_vnni\n\n"
        "processor\t: 1\nmodel name\t: other\n"
    )
    xeon = first_processor(cpuinfo)
    assert (xeon["model name"], xeon["processor"]) == ("Xeon", "0")
    assert instruction_sets(xeon) == ("avx2", "avx512_vnni", "amx_tile", "amx_int8")
    assert instruction_sets({"Features": "fp asimd i8mm bf16"}) == ("asimd", "i8mm", "bf16")
    assert instruction_sets(first_processor(tmp_path / "none")) is None
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  8000 kB\nMemAvailable:    1000 kB\n")
    assert memory(meminfo)[1] == 1_024_000
    assert memory(tmp_path / "none")[1] is None


def test_a_system_without_affinity_lends_all_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS has no sched_getaffinity."""
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert affinity() == 12


@pytest.mark.parametrize(
    ("own", "files", "limit"),
    [
        ("0::/a/b\n", {"a/b/memory.max": "max", "a/memory.max": "2000000"}, 2_000_000),
        ("4:memory:/d\n", {"memory/d/memory.limit_in_bytes": "3000000"}, 3_000_000),
        ("4:memory:/d\n", {"memory/memory.limit_in_bytes": "9223372036854771712"}, None),
        ("nonsense", {}, None),
    ],
)
def test_the_memory_of_a_container_counts(
    own: str, files: dict[str, str], limit: int | None, tmp_path: Path
) -> None:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        file = tmp_path / "cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    assert memory_limit(tmp_path / "cgroup", tmp_path / "own") == limit
