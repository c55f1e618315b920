"""`--engine` and `--quantize`: the same rows from other engines, and mistakes in one clear line."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import Vit
from tests.fixtures.extras import needs
from vitcli import errors

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=needs(name)) for name in ("openvino", "onnx")]
)
def test_another_engine_writes_the_same_rows(vit: Vit, name: str) -> None:
    args = ("classify", EXAMPLES, "-m", "demo", "--scores", "logit", "-b", "4")
    expected = [json.loads(line) for line in vit(*args).out.splitlines()]
    ended = vit(*args, "--engine", name)
    assert ended.code == 0, ended.err
    found = [json.loads(line) for line in ended.out.splitlines()]
    assert [row["path"] for row in found] == [row["path"] for row in expected]
    for row, other in zip(found, expected, strict=True):
        for one, two in zip(row["predictions"], other["predictions"], strict=True):
            assert one["label"] == two["label"]
            assert abs(one["score"] - two["score"]) < 1e-4
    again = vit(*args, "--engine", name)
    assert again.out == ended.out
    assert f"exported for {name}" not in again.err, "it is kept"


# Runs each of the commands in turn, as if torch were not installed.
WITHOUT_TORCH = """
import json, sys
sys.modules["torch"] = None
from vitcli.cli import main
from vitcli.machine import compute_threads
codes = [main(words) for words in json.loads(sys.argv[1])]
print([*codes, compute_threads()])
"""


@pytest.mark.slow
@needs("onnx", "openvino")
def test_what_needs_no_torch_imports_none(
    vit: Vit, clean_env: dict[str, str], tmp_path: Path
) -> None:
    """An export in the cache, with the same rows; and what reads no pixels."""
    demo, names = (str(EXAMPLES), "-m", "demo"), ("onnx", "openvino")
    commands = [("classify", *demo, "--engine", n, "-o", f"{n}.jsonl") for n in names]
    commands.append(("embed", *demo, "--engine", "onnx", "--l2", "-o", "onnx.npy"))
    shards = [f"part-0000{number}-of-00002.jsonl" for number in (1, 2)]
    for number in (1, 2):
        part = ("-o", "part.jsonl", "--shard", f"{number}/2")
        assert vit("classify", *demo, *part).code == 0
    for words in commands:
        assert vit(*words).code == 0
    made = {file: file.read_bytes() for name in names for file in tmp_path.glob(f"{name}.*")}
    rows = {file: data for file, data in made.items() if ".meta." not in file.name}
    assert len(rows) == 4
    commands = [(*words, "--overwrite") for words in commands]
    commands += [("info", "demo"), ("models",), ("search", "onnx.npy", "--like", "0")]
    commands += [("merge", *shards, "-o", "merged.jsonl")]
    threads = torch.get_num_threads()
    ended = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, json.dumps(commands)],
        cwd=tmp_path,
        env=clean_env | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)},
        capture_output=True,
        text=True,
    )
    assert ended.stdout.splitlines()[-1] == str([*[0] * len(commands), threads]), ended.stderr
    assert "exported for" not in ended.stderr
    assert {file: file.read_bytes() for file in rows} == rows
    assert (tmp_path / "merged.jsonl").exists()


@pytest.mark.slow
@needs("openvino")
def test_embed_says_what_ran_it(vit: Vit, tmp_path: Path) -> None:
    args = ("embed", EXAMPLES, "-m", "demo", "--pool", "patches", "-o")
    assert vit(*args, "torch.npy").code == 0
    more = ("--engine", "openvino", "--dtype", "bf16", "--quantize", "int8")
    ended = vit(*args, "int8.npy", *more)
    assert ended.code == 0, ended.err
    assert ended.out == b"", "NNCF draws its progress on standard output"
    expected, found = (np.load(tmp_path / f"{name}.npy") for name in ("torch", "int8"))
    assert found.shape == expected.shape
    norms = np.linalg.norm(found, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert ((found * expected).sum(-1) / norms).mean() > 0.99
    meta = json.loads((tmp_path / "int8.meta.json").read_text())
    assert [meta[key] for key in ("engine", "dtype", "quantize")] == ["openvino", "bf16", "int8"]


@pytest.mark.parametrize(
    ("name", "package", "said"),
    [
        ("openvino", "openvino", "openvino needs openvino: pip install 'vitcli[openvino]'"),
        ("openvino", "nncf", "openvino needs nncf: pip install 'vitcli[openvino]'"),
        ("onnx", "onnxruntime", "onnx needs onnxruntime: pip install 'vitcli[onnx]'"),
    ],
)
def test_a_missing_extra_is_one_line_before_the_model_is_loaded(
    vit: Vit, monkeypatch: pytest.MonkeyPatch, name: str, package: str, said: str
) -> None:
    def find_spec(wanted: str) -> ModuleSpec | None:
        return None if wanted == package else ModuleSpec(wanted, None)

    monkeypatch.setattr(errors, "find_spec", find_spec)
    ended = vit("classify", EXAMPLES, "-m", "no-such-model", "--engine", name)
    assert ended.code == 1
    assert ended.err == f"vit: --engine {said}, or in a checkout pip install -e '.[{name}]'\n"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--engine", "tensorflow"), "tensorflow"),
        (("--engine", "openvino", "--dtype", "fp16"), "openvino does not run fp16"),
        (("--engine", "onnx", "--dtype", "bf16"), "onnx does not run bf16"),
        (("--engine", "onnx", "--device", "cuda"), "onnx runs on the CPU"),
    ],
)
def test_what_an_engine_cannot_do_is_a_usage_error(
    vit: Vit, args: tuple[str, ...], said: str
) -> None:
    ended = vit("classify", EXAMPLES, "-m", "no-such-model", *args)
    assert ended.code == 2
    assert said in ended.err
