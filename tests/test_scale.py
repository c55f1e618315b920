"""The commands of docs/scale.md do their work, at small size, as a scheduler starts them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import yaml

from tests.fixtures.extras import imported
from tests.fixtures.scale import BLOCKS, ROOT, SCALE, TARS, Shell, block
from tests.fixtures.store import Way


def rows_of(shell: Shell, name: str) -> Any:
    pq = imported("pyarrow.parquet", "parquet")
    table = pq.read_table(shell.folder / name)
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
def test_slurm(shell: Shell) -> None:
    for task in "12":
        env = {"SLURM_ARRAY_TASK_ID": task, "SLURM_ARRAY_TASK_COUNT": "2"}
        shell(block("--array=1-400"), "bash", **env)
    shell(block("# Slurm: afterwards"))
    shell.check("slurm.npy")
    for task in "01":
        shell(block("--array=0-9999"), "bash", SLURM_ARRAY_TASK_ID=task)
    paths, vectors = rows_of(shell, "slurm-0001.parquet")
    assert [path.partition("/digit")[0] for path in paths] == [
        f"shards/train-{name}.tar" for name in ("000100", "000100", "000101", "000101")
    ]
    np.testing.assert_allclose(vectors, np.load(shell.folder / "one.npy")[4:8], atol=1e-6)


@pytest.mark.slow
def test_torchrun(shell: Shell) -> None:
    for rank in "01":
        shell(block("# torchrun"), RANK=rank, WORLD_SIZE="2")
    shell("vit merge torchrun-*-of-*.npy -o torchrun.npy")
    shell.check("torchrun.npy")


@pytest.mark.slow
def test_kubernetes(shell: Shell) -> None:
    job = yaml.safe_load(block("kind: Job"))
    pod = job["spec"]["template"]["spec"]
    [container] = pod["containers"]
    assert job["spec"]["completions"] == int(container["env"][0]["value"])
    assert container["command"] == ["/bin/sh", "-c"]
    for index in "01":
        shell(container["args"][0], "/bin/sh", JOB_COMPLETION_INDEX=index, SHARDS="2")
    shell(block("# Kubernetes: afterwards"))
    shell.check("k8s.npy")
    shell(block("# Kubernetes: a task with"), JOB_COMPLETION_INDEX="1")
    assert len(rows_of(shell, "k8s-0001.parquet")[0]) == 4


@pytest.mark.slow
def test_kubernetes_with_a_bucket(shell: Shell, reached: Way, clean_env: dict[str, str]) -> None:
    reached.client.create_bucket(Bucket="bucket")
    for name in TARS[2:]:
        key = f"shards/train-{name}.tar"
        reached.client.upload_file(str(shell.folder / key), "bucket", key)
    aws = {name: value for name, value in clean_env.items() if name.startswith("AWS_")}
    shell(block("# Kubernetes: a task from"), JOB_COMPLETION_INDEX="1", **aws)
    reached.client.download_file("bucket", "k8s-0001.parquet", str(shell.folder / "bucket.parquet"))
    paths, vectors = rows_of(shell, "bucket.parquet")
    assert [path.rpartition("/")[0] for path in paths] == [
        f"s3://bucket/shards/train-{name}.tar" for name in ("000100", "000100", "000101", "000101")
    ]
    np.testing.assert_allclose(vectors, np.load(shell.folder / "one.npy")[4:8], atol=1e-6)


def test_every_linked_file_exists() -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", SCALE):
        assert (ROOT / "docs" / target).exists(), target
