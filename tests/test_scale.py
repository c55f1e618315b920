"""The commands of docs/scale.md do their work, at small size, as a scheduler starts them."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.faults.test_resume import assert_same_rows
from tests.fixtures.store import Way
from tests.test_readme import ROOT

SCALE = (ROOT / "docs" / "scale.md").read_text("utf-8")
BLOCKS = re.findall(r"```(sh|bash|yaml)\n(.*?)```", SCALE, re.DOTALL)
SMALL = {"seq -w 0 999": "seq -w 000 000", "{000..999}": "{000..001}", "{00..99}": "{00..01}"}
TARS = ("000000", "000001", "000100", "000101")

Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, clean_env: dict[str, str], scripts: Path) -> Run:
    """A block's text in a shell, in a folder with ten images and some tars of two."""
    folder = tmp_path_factory.mktemp("scale")
    images = sorted(shutil.copytree(ROOT / "examples", folder / "photos").iterdir())
    (folder / "shards").mkdir()
    for number, name in enumerate(TARS):
        with tarfile.open(folder / "shards" / f"train-{name}.tar", "w") as tar:
            for image in images[2 * number : 2 * number + 2]:
                tar.add(image, image.name)

    def run(text: str, shell: str = "sh", **env: str) -> str:
        for large, small in SMALL.items():
            text = text.replace(large, small)
        env = {"PATH": f"{scripts}:{clean_env['PATH']}", "VIT_MODEL": "demo", **env}
        ended = subprocess.run(
            [shell, "-e", "-c", text],
            cwd=folder,
            env={**clean_env, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert (ended.returncode, ended.stdout) == (0, ""), ended.stderr
        return ended.stderr

    run.folder = folder  # type: ignore[attr-defined]
    run("vit embed photos -o one.npy")
    return run


def block(start: str) -> str:
    """The block that begins with this line, or has it."""
    [found] = [text for _, text in BLOCKS if start in text]
    return found


def assert_is_the_run(run: Run, name: str) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    assert_same_rows(folder / name, folder / "one.npy")


def rows_of(run: Run, name: str) -> Any:
    import pyarrow.parquet as pq

    folder: Path = run.folder  # type: ignore[attr-defined]
    table = pq.read_table(folder / name)
    return table["path"].to_pylist(), np.array(table["embedding"].to_pylist())


def test_every_block_is_tried_here() -> None:
    heads = [text.partition("\n")[0] for kind, text in BLOCKS if kind == "sh"]
    assert heads == [
        "# Ray: on any node of the cluster",
        "# Ray: one run for each part of the tars",
        "# Slurm: afterwards",
        "# torchrun: the same on every node",
        "# Kubernetes: afterwards",
        "# Kubernetes: a task with its tars",
        "# Kubernetes: a task from a bucket into it",
    ]
    assert [kind for kind, _ in BLOCKS if kind != "sh"] == ["bash", "bash", "yaml"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed: pip install '.[ray]'")
def test_ray(run: Run, two_workers: str) -> None:
    said = run(block("# Ray: on any node"), RAY_ADDRESS=two_workers)
    assert said.startswith("vit: 10 images in ") and len(said.splitlines()) == 1
    assert_is_the_run(run, "ray.npy")
    run(block("# Ray: one run for each part"), RAY_ADDRESS=two_workers)
    folder: Path = run.folder  # type: ignore[attr-defined]
    parts, one = np.load(folder / "ray-000.npy"), np.load(folder / "one.npy")
    np.testing.assert_allclose(parts, one[:4], atol=1e-6)


@pytest.mark.slow
def test_slurm(run: Run) -> None:
    for task in "12":
        env = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        run(block("--array=1-400"), "bash", **env)
    run(block("# Slurm: afterwards"))
    assert_is_the_run(run, "slurm.npy")
    for task in "01":
        run(block("--array=0-9999"), "bash", SLURM_ARRAY_TASK_ID=task)
    paths, vectors = rows_of(run, "slurm-0001.parquet")
    assert [path.partition("/digit")[0] for path in paths] == [
        f"shards/train-{name}.tar" for name in ("000100", "000100", "000101", "000101")
    ]
    folder: Path = run.folder  # type: ignore[attr-defined]
    np.testing.assert_allclose(vectors, np.load(folder / "one.npy")[4:8], atol=1e-6)


@pytest.mark.slow
def test_torchrun(run: Run) -> None:
    for rank in "01":
        run(block("# torchrun"), RANK=rank, WORLD_SIZE="2")
    run("vit merge torchrun-*-of-*.npy -o torchrun.npy")
    assert_is_the_run(run, "torchrun.npy")


@pytest.mark.slow
def test_kubernetes(run: Run) -> None:
    job = yaml.safe_load(block("kind: Job"))
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert job["spec"]["completions"] == int(container["env"][0]["value"])
    assert container["command"] == ["/bin/sh", "-c"]
    for index in "01":
        run(container["args"][0], "/bin/sh", JOB_COMPLETION_INDEX=index, SHARDS="2")
    run(block("# Kubernetes: afterwards"))
    assert_is_the_run(run, "k8s.npy")
    run(block("# Kubernetes: a task with"), JOB_COMPLETION_INDEX="1")
    assert len(rows_of(run, "k8s-0001.parquet")[0]) == 4


@pytest.mark.slow
def test_kubernetes_with_a_bucket(run: Run, reached: Way, clean_env: dict[str, str]) -> None:
    folder: Path = run.folder  # type: ignore[attr-defined]
    reached.client.create_bucket(Bucket="bucket")
    for name in TARS[2:]:
        key = f"shards/train-{name}.tar"
        reached.client.upload_file(str(folder / key), "bucket", key)
    aws = {name: value for name, value in clean_env.items() if name.startswith("AWS_")}
    run(block("# Kubernetes: a task from"), JOB_COMPLETION_INDEX="1", **aws)
    reached.client.download_file("bucket", "k8s-0001.parquet", str(folder / "bucket.parquet"))
    paths, vectors = rows_of(run, "bucket.parquet")
    assert [path.rpartition("/")[0] for path in paths] == [
        f"s3://bucket/shards/train-{name}.tar" for name in ("000100", "000100", "000101", "000101")
    ]
    np.testing.assert_allclose(vectors, np.load(folder / "one.npy")[4:8], atol=1e-6)


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", SCALE):
        assert (ROOT / "docs" / target).exists(), target
