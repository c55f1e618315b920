"""What every test may ask for: the command, tiny models of the original library, photographs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.fixtures.photos import Corpus, make_photos
from tests.fixtures.tiny import tiny_hf

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


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
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def vit(tmp_path: Path, clean_env: dict[str, str]) -> Vit:
    """Run `vit` as a process of its own, in `tmp_path`, without a terminal."""

    def run(
        *args: str | Path,
        input: bytes | None = None,
        env: dict[str, str] | None = None,
        cwd: Path = tmp_path,
        timeout: float = 120,
    ) -> Ended:
        ended = subprocess.run(
            [sys.executable, "-m", "vitcli", *map(str, args)],
            input=input,
            stdin=subprocess.DEVNULL if input is None else None,
            capture_output=True,
            cwd=cwd,
            env={**clean_env, **(env or {})},
            timeout=timeout,
        )
        err = ended.stderr.decode("utf-8", "replace")
        assert "Traceback" not in err, err
        assert "\x1b" not in err, err
        return Ended(ended.returncode, ended.stdout, err)

    return run


@pytest.fixture(scope="session")
def clean_env() -> dict[str, str]:
    """The environment without settings that would change what `vit` does."""
    dropped = ("VIT_", "HF_", "COLUMNS", "FORCE_COLOR", "COV_")
    env = {k: v for k, v in os.environ.items() if not k.startswith(dropped)}
    root = str(Path(__file__).parents[1])
    return {**env, "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": root}


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny random model of transformers, made once a session."""
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("models") / family
            tiny_hf(family, made[family])
        return made[family]

    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Good and bad images of every kind; `photos.good`, `photos.bad`. Not to be changed."""
    return make_photos(tmp_path_factory.mktemp("photos"))
