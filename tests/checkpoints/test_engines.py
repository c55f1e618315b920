"""Other engines than torch: the same numbers, exported once, and bytes that agree."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import safetensors.torch
import torch

import vitcli
from tests.fixtures.extras import needs
from vitcli.cache import cache_folder
from vitcli.checkpoints import engines, hashes, openvino
from vitcli.checkpoints.engines import exported, open_engine
from vitcli.checkpoints.graph import Graph
from vitcli.checkpoints.load import Model, Unread, load
from vitcli.demo import train
from vitcli.engines import ENGINES, EngineName, EngineRow
from vitcli.errors import CheckpointError, DeviceError, OutputError, UsageError
from vitcli.models import onednn
from vitcli.models.engine import Engine, Features, Logits, Output
from vitcli.models.prepare import TorchEngine, prepare
from vitcli.records import Classified

Models = Callable[[str], Path]
EXAMPLES = Path(__file__).parents[2] / "examples"
NAMES = [pytest.param(name, marks=needs(name)) for name in ("openvino", "onnx")]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def kept(clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache of the session: what is exported once is read by every test."""
    monkeypatch.setenv("VIT_CACHE", clean_env["VIT_CACHE"])


@pytest.fixture
def copied(cache: Path, clean_env: dict[str, str]) -> Callable[[EngineName], Path]:
    """Put the demo's export for an engine, made once for the session, into the test's cache."""

    def copy(name: EngineName) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("VIT_CACHE", clean_env["VIT_CACHE"])
            made = exported(load("demo"), Logits(), name)
        return Path(shutil.copytree(made, cache / "engines" / made.name))

    return copy


def torch_engine(model: Model, output: Output) -> Engine:
    return TorchEngine(prepare(model.network, model.preprocess, "cpu"), output)


def pixels(model: Model, count: int) -> np.ndarray:
    drawn = openvino.calibration_pixels(model.preprocess.size, count)
    return drawn.astype(model.preprocess.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("family", "output"),
    [
        ("deit-distilled", Logits()),
        ("dinov2-reg", Features((0, 2), "cls+mean")),
        ("dinov2-swiglu", Features((2,), "patches")),
        ("vit", Features((1, 2), "tokens", norm=False)),
        ("floats", Logits()),
    ],
)
def test_another_engine_gives_the_numbers_of_torch_for_any_batch(
    cache: Path, shallow_model: Models, name: EngineName, family: str, output: Output
) -> None:
    model = load(str(shallow_model("vit" if family == "floats" else family)), image_size=(64, 48))
    if family == "floats":  # pixels of DINOv3's image processor
        model = replace(model, preprocess=replace(model.preprocess, resizer="floats"))
    engine, expected = open_engine(model, output, name), torch_engine(model, output)
    for batch in (1, 5):
        images = pixels(model, batch)
        found = engine(images)
        assert found.dtype == np.float32
        torch.testing.assert_close(found, expected(images), atol=1e-5, rtol=0)
    assert [p.name for p in (cache / "engines").iterdir() if p.name.startswith(".")] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_another_engine_merges_the_pairs_that_torch_merges(
    cache: Path, shallow_model: Models, name: EngineName
) -> None:
    model = load(str(shallow_model("deit-distilled")), image_size=(64, 48))
    model = replace(model, source=model.network.with_merging(12))
    engine, expected = open_engine(model, Logits(), name), torch_engine(model, Logits())
    for batch in (1, 5):
        images = pixels(model, batch)
        torch.testing.assert_close(engine(images), expected(images), atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def held_out() -> np.ndarray:
    pictures = [train.render(index) for index, _ in train.held_out()]
    return train.pixels_of(pictures, load("demo").preprocess)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "cosine"),
    [
        pytest.param("openvino", "fp32", 0.99, marks=needs("openvino")),
        pytest.param("openvino", "bf16", 0.99, marks=needs("openvino")),
        pytest.param("onnx", "fp32", 0.998, marks=needs("onnx")),
    ],
)
@pytest.mark.skipif(
    not onednn.has("avx512_vnni", "avx_vnni", "amx_int8"),
    reason="without VNNI, the engines' sums of int8 products saturate",
)
def test_int8_names_the_digits_that_fp32_names(
    kept: None, held_out: np.ndarray, name: EngineName, dtype: str, cosine: float
) -> None:
    model, images = load("demo"), held_out
    labels = torch.tensor([label for _, label in train.held_out()])
    exact = torch.from_numpy(torch_engine(model, Logits())(images))
    engine = open_engine(model, Logits(), name, dtype, "int8")
    found = torch.from_numpy(engine(images))
    answers, expected = found.argmax(dim=1), exact.argmax(dim=1)
    assert (answers == expected).float().mean() >= 0.99
    right, exactly_right = (answers == labels).float(), (expected == labels).float()
    assert right.mean() >= exactly_right.mean() - 0.005
    assert torch.cosine_similarity(found, exact).min() > cosine
    assert not torch.equal(found, exact)


@pytest.mark.slow
@needs("openvino")
def test_bf16_is_near_and_fp32_is_not_bf16(
    cache: Path, copied: Callable[[EngineName], Path], held_out: np.ndarray
) -> None:
    """OpenVINO's own default takes bf16 for fp32 where the processor has it."""
    model, images = load("demo"), held_out
    copied("openvino")
    exact = torch_engine(model, Logits())(images)
    fp32 = open_engine(model, Logits(), "openvino")(images)
    torch.testing.assert_close(fp32, exact, atol=2e-5, rtol=0)
    bf16 = open_engine(model, Logits(), "openvino", "bf16")(images)
    cosines = torch.cosine_similarity(torch.from_numpy(bf16), torch.from_numpy(exact))
    assert cosines.min() > 0.999
    assert len(list((cache / "engines").iterdir())) == 1  # the dtype is chosen when it is opened


class Stub:
    """An engine whose export is a file of one word."""

    def __init__(self, fails: bool = False) -> None:
        self.exports = 0
        self.fails = fails

    def install(self, monkeypatch: pytest.MonkeyPatch, *names: EngineName) -> None:
        for name in names:
            monkeypatch.setitem(ENGINES, name, EngineRow(("fp32", "auto"), f"stub_{name}"))
            monkeypatch.setitem(sys.modules, f"stub_{name}", self)  # type: ignore[misc]

    def export(self, graph: object, folder: Path, int8: bool) -> None:
        self.exports += 1
        (folder / "model").write_text("word")
        if self.fails:
            raise OSError(28, "No space left on device")

    def open_export(self, folder: Path, dtype: str) -> Engine:
        assert (folder / "model").read_text() == "word"
        return lambda images: np.zeros(len(images), np.float32)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    stub.install(monkeypatch, "onnx", "openvino")
    return stub


def test_a_model_is_exported_once_for_each_thing_that_shapes_the_file(
    cache: Path, stub: Stub, tiny_model: Models
) -> None:
    folder = str(tiny_model("vit"))
    model, said = load(folder), []
    floats = replace(model, preprocess=replace(model.preprocess, resizer="floats"))
    cases = [
        lambda: open_engine(model, Logits(), "onnx", note=said.append),
        lambda: open_engine(model, Logits(), "openvino"),
        lambda: open_engine(model, Logits(), "onnx", "fp32", "int8"),
        lambda: open_engine(model, Features((1,), "cls"), "onnx"),
        lambda: open_engine(model, Features((2,), "cls"), "onnx"),
        lambda: open_engine(load(folder, image_size=(64, 48)), Logits(), "onnx"),
        lambda: open_engine(floats, Logits(), "onnx"),
        lambda: open_engine(load(folder, patch_size=(8, 4)), Logits(), "onnx"),
    ]
    for count, case in enumerate(cases, start=1):
        case()
        case()
        assert stub.exports == count
    assert len(said) == 1
    assert str(cache) in said[0]
    changed = load(folder)
    changed.network.head.bias = torch.nn.Parameter(changed.network.head.bias + 1)
    open_engine(changed, Logits(), "onnx")
    assert stub.exports == len(cases) + 1


def test_a_network_is_read_only_if_its_files_are_new(
    cache: Path, stub: Stub, tiny_model: Models, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hash of its weights is kept for the files that it was read of."""
    monkeypatch.setattr(hashes, "LARGE", 0)
    monkeypatch.setattr(hashes, "SETTLED", -60)
    folder = shutil.copytree(tiny_model("vit"), tmp_path / "model")
    file = folder / "model.safetensors"

    def is_read(**options: Any) -> bool:
        model = load(str(folder), lazily=True, **options)
        open_engine(model, Logits(), "onnx")
        assert isinstance(model.source, Unread)
        return model.source.is_read

    def write(content: bytes, seconds: int) -> None:
        file.write_bytes(content)
        os.utime(file, (seconds, seconds))

    open_engine(load(str(folder)), Logits(), "onnx")  # of a network in memory
    assert (is_read(), is_read(), stub.exports) == (True, False, 1)
    old, state = file.read_bytes(), safetensors.torch.load_file(file)
    new = safetensors.torch.save(state | {"classifier.bias": state["classifier.bias"] + 1})
    write(new, 1000)
    assert (is_read(), is_read(), stub.exports) == (True, False, 2)
    write(old, 2000)
    assert (is_read(), stub.exports) == (False, 2)
    assert (is_read(image_size=(64, 48)), is_read(image_size=(64, 48))) == (True, False)
    shutil.rmtree(cache / "engines")
    assert (is_read(), is_read(), stub.exports) == (True, False, 4)
    for kept in (cache / "hashes").iterdir():
        kept.write_text("damaged")
    hashes._known.cache_clear()
    assert (is_read(), is_read(), stub.exports) == (True, False, 4)


def test_a_large_file_is_hashed_again_after_a_change(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also after one that keeps its size and its time; and a hash that the user gives is compared
    with the bytes."""
    monkeypatch.setattr(hashes, "LARGE", 1)
    file, read = tmp_path / "weights", hashes._read

    def found() -> str:
        hashes._known.cache_clear()
        return hashes.sha256([file])

    def digest() -> str:
        return hashlib.sha256(file.read_bytes()).hexdigest()

    file.write_bytes(b"one")
    os.utime(file, (1000, 1000))
    assert found() == digest()
    assert not (cache / "hashes").exists(), "it may change again without another time"
    monkeypatch.setattr(hashes, "SETTLED", -60)
    assert found() == digest()
    monkeypatch.setattr(hashes, "_read", None)
    assert found() == digest()
    monkeypatch.setattr(hashes, "_read", read)
    changed = file.stat().st_ctime_ns
    while file.stat().st_ctime_ns == changed:  # until the clock of the file system ticks
        file.write_bytes(b"two")
        os.utime(file, (1000, 1000))
    assert found() == digest()
    for kept in (cache / "hashes").iterdir():
        kept.write_text("0" * 64)
    assert found() == "0" * 64
    hashes.check_sha256([file], digest())
    with pytest.raises(CheckpointError, match="expected 0000"):
        hashes.check_sha256([file], "0" * 64)
    (cache / "hashes").chmod(0o777)
    assert found() == digest(), "everybody can have written it"


def test_a_failed_export_leaves_nothing(cache: Path, stub: Stub) -> None:
    stub.fails = True
    with pytest.raises(OutputError, match="No space left on device"):
        open_engine(load("demo"), Logits(), "onnx")
    assert list((cache / "engines").iterdir()) == []


def test_an_export_that_another_run_completed_meanwhile_stays(
    cache: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = stub.export

    def export(graph: object, folder: Path, int8: bool) -> None:
        monkeypatch.setattr(stub, "export", write)
        open_engine(load("demo"), Logits(), "onnx")  # the other run
        write(graph, folder, int8)

    monkeypatch.setattr(stub, "export", export)
    open_engine(load("demo"), Logits(), "onnx")
    [folder] = (cache / "engines").iterdir()
    assert sorted(p.name for p in folder.iterdir()) == ["about.json", "model"]


def test_an_export_that_has_changed_is_made_anew(cache: Path, stub: Stub) -> None:
    said: list[str] = []
    open_engine(load("demo"), Logits(), "onnx")
    [folder] = (cache / "engines").iterdir()
    about = (folder / "about.json").read_text()
    for count, spoil in enumerate(
        (
            lambda: (folder / "model").write_text("wore"),
            lambda: (folder / "more").write_text("a file that nobody exported"),
            lambda: (folder / "about.json").write_text(about.replace("torch", "other")),
            lambda: (folder / "about.json").write_text("[" * 10_000),
            lambda: (folder / "model").chmod(0o666),
            lambda: ((folder / "model").unlink(), (folder / "model").symlink_to("/etc/passwd")),
            lambda: folder.chmod(0o777),
        ),
        start=2,
    ):
        spoil()
        open_engine(load("demo"), Logits(), "onnx", note=said.append)
        open_engine(load("demo"), Logits(), "onnx")
        assert stub.exports == count
    assert "is incomplete or was changed: it is exported again" in said[0]


def test_what_another_user_owns_is_neither_run_nor_touched(
    cache: Path, stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    open_engine(load("demo"), Logits(), "onnx")
    [folder] = (cache / "engines").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o755 & ~umask()  # a second user may read it
    real = Path.lstat

    def owned(path: Path) -> os.stat_result:
        values = list(real(path))
        is_theirs = path.name in theirs
        return os.stat_result([*values[:4], 4321 if is_theirs else values[4], *values[5:]])

    monkeypatch.setattr(Path, "lstat", owned)
    theirs = {folder.name}  # in a cache that all share
    open_engine(load("demo"), Logits(), "onnx")
    open_engine(load("demo"), Logits(), "onnx")
    assert stub.exports == 2
    assert len(list((cache / "engines").iterdir())) == 2
    theirs = {"engines"}  # who may exchange what lies in it
    monkeypatch.setattr(
        Path, "lstat", lambda path: owned(path) if path.is_relative_to(cache) else real(path)
    )
    open_engine(load("demo"), Logits(), "onnx")
    assert stub.exports == 3
    assert (tmp_path / "own" / "vitcli" / "engines").is_dir()


def umask() -> int:
    found = os.umask(0)
    os.umask(found)
    return found


def test_an_export_that_cannot_be_run_is_named(
    cache: Path, stub: Stub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(folder: Path, dtype: str) -> Engine:
        raise RuntimeError("not the word\nand more")

    monkeypatch.setattr(stub, "open_export", fails)
    stub.install(monkeypatch, "onnx")
    with pytest.raises(DeviceError, match=r"\(not the word\)") as raised:
        open_engine(load("demo"), Logits(), "onnx")
    assert str(cache) in raised.value.message
    assert raised.value.hint == "remove that folder to export again"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_both_engines_say_what_they_cannot_read(
    copied: Callable[[EngineName], Path], name: EngineName
) -> None:
    folder = copied(name)
    for file in folder.glob("model.*"):
        file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DeviceError, match="cannot run"):
        engines.open_exported(folder, name)


def test_a_cache_that_cannot_be_written_is_one_clear_line(
    stub: Stub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VIT_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="cannot be written") as raised:
        open_engine(load("demo"), Logits(), "onnx")
    assert raised.value.hint == "VIT_CACHE names another folder"


def test_the_cache_is_where_the_user_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIT_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    assert cache_folder() == Path("/home/me/.cache/vitcli")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/me")
    assert cache_folder() == Path("/var/me/vitcli")
    monkeypatch.setenv("VIT_CACHE", "/fast")
    assert cache_folder() == Path("/fast")


class Toy:
    """An engine as somebody might add one: it runs the graph that it has pickled."""

    @staticmethod
    def export(graph: Graph, folder: Path, int8: bool) -> None:
        torch.save(graph, folder / "graph.pt")

    @staticmethod
    def open_export(folder: Path, dtype: str) -> Engine:
        graph: Graph = torch.load(folder / "graph.pt", weights_only=False).requires_grad_(False)
        return lambda pixels: graph(torch.from_numpy(pixels)).float().numpy()


def test_an_engine_is_a_module_and_a_row(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy: EngineName = "toy"  # type: ignore[assignment]
    monkeypatch.setitem(sys.modules, "toy_engine", Toy)  # type: ignore[misc]
    monkeypatch.setitem(ENGINES, toy, EngineRow(("fp32", "bf16"), "toy_engine", ("torch",)))
    rows, expected = (
        vitcli.classify(EXAMPLES, model="demo", engine=engine, scores="logit", workers=0)
        for engine in (toy, "torch")
    )
    for row, other in zip(rows, expected, strict=True):
        assert isinstance(row, Classified)
        assert isinstance(other, Classified)
        for one, two in zip(row.predictions, other.predictions, strict=True):
            assert (one.label, one.score) == (two.label, pytest.approx(two.score, abs=1e-4))
    assert len(list((cache / "engines").iterdir())) == 1
    with pytest.raises(UsageError, match="--engine toy does not run fp16"):
        vitcli.classify(EXAMPLES, model="demo", engine=toy, dtype="fp16")
    monkeypatch.setitem(ENGINES, toy, EngineRow(("fp32",), "toy_engine", ("no_such_package",)))
    with pytest.raises(DeviceError, match="--engine toy needs no_such_package"):
        vitcli.classify(EXAMPLES, model="demo", engine=toy)


def test_every_engine_has_a_row() -> None:
    assert set(ENGINES) == set(get_args(EngineName))


def test_calibration_pictures_are_the_same_every_time() -> None:
    first, again = (openvino.calibration_pixels((24, 32), 8) for _ in range(2))
    assert first.shape == (8, 24, 32, 3)
    assert np.array_equal(first, again)
    assert (first.min(), first.max()) == (0, 255)


RUNS = {
    "torch": ("classify",),
    "onnx": ("classify", "--engine", "onnx"),
    "onnx int8": ("classify", "--engine", "onnx", "--quantize", "int8"),
    "openvino": ("classify", "--engine", "openvino"),
    "openvino int8": ("classify", "--engine", "openvino", "--quantize", "int8"),
    "convert": ("convert", "demo", "model.onnx", "--to", "onnx", "--verify"),
}


# Runs each of the commands in turn. Where one begins, a socket that connects nowhere names it.
TRACED = """
import json, socket, sys
from vitcli.cli import main
for name, words in json.loads(sys.argv[1]).items():
    socket.socket(socket.AF_UNIX).connect_ex("\\0vit " + name)
    code = main(words)
    print(name, code, sep="\\t")
"""


@pytest.fixture(scope="module")
def calls(
    tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]
) -> dict[str, list[str]]:
    """The calls of each run that send over a socket or connect one. The exports are new."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    folder = tmp_path_factory.mktemp("traced")
    commands = {}
    for run, (command, *options) in RUNS.items():
        inputs = [str(EXAMPLES / "digit-7-0007.png"), "-m", "demo", "-j", "0"]
        more = [*inputs, "-o", f"{run}.jsonl"] if command == "classify" else []
        commands[run] = [command, *options, *more, "--offline", "-q"]
    traced = ("strace", "-f", "-qq", "--seccomp-bpf", "-o", "calls")
    traced += ("-e", "trace=connect,sendto,sendmsg,sendmmsg")
    words = (sys.executable, "-c", TRACED, json.dumps(commands))
    env = clean_env | {"VIT_CACHE": str(folder / "cache")}
    done = subprocess.run([*traced, *words], cwd=folder, env=env, capture_output=True, text=True)
    if "ptrace" in done.stderr:
        pytest.skip("strace may not trace here")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{run}\t0" for run in RUNS], done.stderr
    found: dict[str, list[str]] = {}
    for line in (folder / "calls").read_text().splitlines():
        if begins := re.search(r'sun_path=@"vit ([^"]+)"', line):
            found[begins[1]] = []
        elif found:
            [*found.values()][-1].append(line)
    return found


@pytest.mark.slow
@needs("onnx", "openvino")
@pytest.mark.parametrize("run", RUNS)
def test_no_engine_asks_the_network(run: str, calls: dict[str, list[str]]) -> None:
    """Neither OpenVINO's packages nor ONNX Runtime report their use to a server, or look for one:
    a name is asked for over a socket that connects, too."""
    assert [call for call in calls[run] if "AF_INET" in call] == []


@pytest.mark.slow
@needs("openvino")
def test_openvino_reports_to_nobody() -> None:
    """Its package sends a message over the network when it is imported, unless asked not to."""
    code = (
        "import sys; from vitcli.checkpoints.openvino import _openvino; ov = _openvino();"
        "from openvino.tools.ovc import telemetry; print(type(telemetry).__module__);"
        "print([m for m in sys.modules if m.startswith('openvino_telemetry.')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines() == ["openvino.tools.ovc.telemetry_stub", "[]"]
