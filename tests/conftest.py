"""What every test may ask for: the command, tiny models of the original library, photographs."""

from __future__ import annotations

import contextlib
import functools
import gc
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Before torch: its threads must not spin while the image workers want the processors.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# The suite starts hundreds of interpreters: they must not compile every module again.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

import pytest

from tests.fixtures.extras import require
from tests.fixtures.forks import ForkServer, build_commands_once, fork_server
from tests.fixtures.heads import CONFIGS
from tests.fixtures.photos import Corpus, make_photos
from vitcli.cli import main

if TYPE_CHECKING:
    from tests.fixtures.scale import Shell
    from tests.fixtures.store import Way


def pytest_configure() -> None:
    build_commands_once()
    wait_for_no_disk()


def wait_for_no_disk() -> None:
    """Let `os.fsync` of a file or a folder do nothing in this process: no test cuts the power."""
    sync = os.fsync

    def fsync(descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            sync(descriptor)

    os.fsync = fsync


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=5, help="how often test_resume kills each run")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Move the tests of a Ray cluster to the front: a process of -n that has nothing left to do
    takes tests from the end of another, and would start a second cluster for them."""
    items.sort(key=lambda item: "two_workers" not in getattr(item, "fixturenames", ()))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test that needs an extra which is not installed."""
    for mark in item.iter_markers("needs"):
        require(*mark.args)


def pytest_collection_finish() -> None:
    """Keep the imported modules and the collected tests out of every later garbage collection."""
    gc.collect()
    gc.freeze()


@dataclass(frozen=True)
class Ended:
    """How a `vit` process ended."""

    code: int
    out: bytes
    err: str


Vit = Callable[..., Ended]


@pytest.fixture(autouse=True)
def _untouched_torch() -> Iterator[None]:
    """No test leaves another default dtype behind."""
    import torch  # here: the controller of -n needs none

    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def vit(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfdbinary: pytest.CaptureFixture[bytes],
    clean_env: dict[str, str],
    request: pytest.FixtureRequest,
) -> Vit:
    """Run `vit` through `main`, in this process, in `tmp_path`, without a terminal.

    With `env` it becomes a process of its own, for what is read once at the start.
    """

    def run(
        *args: str | Path, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> Ended:
        if env is not None:
            vit_process: Vit = request.getfixturevalue("vit_process")
            return vit_process(*args, input=input, env=env)
        monkeypatch.chdir(tmp_path)
        for name in os.environ.keys() - clean_env.keys():
            monkeypatch.delenv(name)
        monkeypatch.setenv("VIT_CACHE", clean_env["VIT_CACHE"])
        capfdbinary.readouterr()
        with stdin(tmp_path.parent / f"{tmp_path.name}.stdin", input or b""):
            code = main([str(arg) for arg in args])
        sys.stdout.flush()
        out, err = capfdbinary.readouterr()
        return ended(code, out, err)

    return run


@pytest.fixture(scope="session")
def vits(
    tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str]
) -> Iterator[ForkServer]:
    """Processes of `vit` that start at once."""
    with fork_server(tmp_path_factory.mktemp("vits"), clean_env) as opened:
        yield opened


@pytest.fixture
def warm(vits: ForkServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The children of `--devices` and of `vit bench` start at once, as the processes of `vits`."""
    from tests.fixtures.children import fork_children

    fork_children(vits.address, monkeypatch)


@pytest.fixture(scope="session")
def scripts(vits: ForkServer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `vit` and `python`, to stand first on the PATH of a shell."""
    folder = tmp_path_factory.mktemp("bin")
    vits.write_scripts(folder)
    return folder


@pytest.fixture(scope="module")
def shell(
    tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str], scripts: Path
) -> Shell:
    """Runs the commands of docs/scale.md, where they have something to do."""
    from tests.fixtures.scale import open_shell

    return open_shell(tmp_path_factory.mktemp("scale"), clean_env, scripts)


@pytest.fixture
def vit_process(tmp_path: Path, vits: ForkServer, clean_env: dict[str, str]) -> Vit:
    """Run `vit` as a process of its own, in `tmp_path`, without a terminal."""

    def run(
        *args: str | Path, input: bytes | None = None, env: dict[str, str] | None = None
    ) -> Ended:
        child = vits.vit(*args, stdin=input or b"", cwd=tmp_path, env={**clean_env, **(env or {})})
        return ended(child.wait(), child.out, child.errors.read_bytes())

    return run


def ended(code: int, out: bytes, err: bytes) -> Ended:
    """What holds for every run: no traceback, no colours where nobody looks."""
    text = err.decode("utf-8", "replace")
    assert "Traceback" not in text, text
    assert "\x1b" not in text, text
    return Ended(code, out, text)


@contextlib.contextmanager
def stdin(file: Path, content: bytes) -> Iterator[None]:
    """Descriptor 0 reads `content`."""
    file.write_bytes(content)
    saved, handle = os.dup(0), os.open(file, os.O_RDONLY)
    os.dup2(handle, 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)
        os.close(handle)


@pytest.fixture(scope="session")
def clean_env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment without settings that would change what `vit` does, and a cache of ours."""
    dropped = ("VIT_", "HF_", "COLUMNS", "FORCE_COLOR", "COV_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    root = str(Path(__file__).parents[1])
    cache = str(tmp_path_factory.mktemp("cache"))
    return {**env, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": root, "VIT_CACHE": cache}


@pytest.fixture(scope="session", autouse=True)
def measured() -> Iterator[Callable[[Any], Any]]:
    """No run measures how fast this machine is: notes would depend on what else runs on it. The
    function that does."""
    from vitcli.jobs import precision

    with pytest.MonkeyPatch.context() as patch:
        original = precision.measured
        patch.setattr(precision, "measured", lambda name: None)
        yield original


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of transformers, made once a session."""
    from tests.fixtures.tiny import tiny_hf  # here: transformers is slow to import

    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            tiny_hf(family, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def shallow_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a `tiny_model` of two blocks, for what takes long for each block."""
    from tests.fixtures.tiny import tiny_hf  # here: transformers is slow to import

    @functools.cache
    def folder(family: str) -> Path:
        made = tmp_path_factory.mktemp("shallow") / family
        tiny_hf(family, made, num_hidden_layers=2)
        return made

    return folder


@pytest.fixture(scope="session")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model with a head of `CONFIGS`, made once a session."""
    from tests.fixtures.tiny import tiny_hf  # here: transformers is slow to import

    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("heads") / kind
            tiny_hf("vit", made[kind], num_hidden_layers=1, label2id=None, **CONFIGS[kind])
        return made[kind]

    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Good and bad images of every kind; `photos.good`, `photos.bad`. Not to be changed."""
    return make_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Path]]:
    """The way to a bucket, and its photographs in a folder."""
    require("remote", "parquet")
    from tests.fixtures.store import serving  # here: moto is slow to import

    folder = tmp_path_factory.mktemp("store")
    with serving(folder) as way:
        yield way, folder


@pytest.fixture(scope="module")
def two_workers(clean_env: dict[str, str]) -> Iterator[str]:
    """The address of a Ray cluster of this machine with two processors. In this process `--ray`
    goes to it."""
    require("ray")
    import ray
    from ray._private.node import Node

    from vitcli.fleet import cluster

    # Without it, Ray's processes wait for those of every other test.
    at_once = {"RAY_worker_niceness": "0"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**cluster.QUIET, **at_once, **clean_env}.items():
            patch.setenv(name, value)
        for unused in ("start_api_server", "start_log_monitor", "start_monitor"):
            patch.setattr(Node, unused, lambda *_, **__: None)  # each is an interpreter
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
        yield ray.get_runtime_context().gcs_address
        ray.shutdown()


@pytest.fixture
def reached(
    store: tuple[Way, Path], clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Way]:
    """The way to the bucket, without faults, for this process and those that it starts."""
    from tests.fixtures.store import part, reach

    reach(store[0], clean_env, monkeypatch)
    yield store[0]
    part()
