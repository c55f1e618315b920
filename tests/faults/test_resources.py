"""Workers that die, and a machine that has no more to give: the image at fault has a row."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.faults.rules import (
    DEMO,
    environment,
    run,
    until_gone,
    vit,
)
from tests.fixtures.forks import ForkServer, wait_for
from tests.fixtures.processes import processes

# Imported by every Python with its folder on the path: a file of this name kills who opens it.
DEADLY = """
import os, signal, sys
from pathlib import Path

def hook(event, args):
    if event != "open" or not isinstance(args[0], str):
        return
    if args[0].endswith("deadly.jpg"):
        os.abort()
    if args[0].endswith("deadly-once.jpg") and not Path(args[0] + ".died").exists():
        Path(args[0] + ".died").touch()
        os.kill(os.getpid(), signal.SIGKILL)

sys.addaudithook(hook)
"""


@pytest.fixture
def deadly(tmp_path: Path) -> dict[str, str]:
    """Surroundings in which a decoder dies of a file called `deadly`; or `deadly-once`, once."""
    (tmp_path / "hook").mkdir()
    (tmp_path / "hook" / "sitecustomize.py").write_text(DEADLY)
    found = environment()
    return {**found, "PYTHONPATH": f"{tmp_path / 'hook'}:{found['PYTHONPATH']}"}


def copies(ten: Path, folder: Path, *names: str) -> list[Path]:
    for name in names:
        (folder / name).hardlink_to(ten / "img-00001.jpg")
    return [folder / name for name in names]


def test_a_worker_that_is_killed_once_costs_no_image(
    vits: ForkServer, ten: Path, tmp_path: Path, deadly: dict[str, str]
) -> None:
    """S10"""
    files = copies(ten, tmp_path, "a.jpg", "deadly-once.jpg", "z.jpg")
    found = run(vits, "classify", *files, *DEMO, cwd=tmp_path, env=deadly, inputs=files)
    assert found.code == 0
    first, summary = found.err.splitlines()
    assert (
        first == "vit: an image worker was killed by signal 9 (SIGKILL: out of memory?); restarted"
    )
    assert summary.startswith("vit: 3 images in ")


def test_a_file_that_kills_its_worker_each_time_is_the_only_one_to_fail(
    vits: ForkServer, ten: Path, tmp_path: Path, deadly: dict[str, str]
) -> None:
    """S11"""
    files = copies(ten, tmp_path, *"abcdefgh", "deadly.jpg", *"stuvwxyz")
    found = run(vits, "classify", *files, *DEMO, cwd=tmp_path, env=deadly, inputs=files)
    assert found.errors == {str(tmp_path / "deadly.jpg"): "WorkerCrash"}
    message = found.rows[8]["error"]["message"]
    assert message == "its decoder was killed by signal 6 (SIGABRT), 2 times"


def test_a_picture_that_needs_more_memory_than_there_is_has_a_row(
    ten: Path, tmp_path: Path
) -> None:
    """S12: 2.7 GB of pixels, where a process may have 3 GB of addresses."""
    huge = tmp_path / "huge.ppm"
    huge.write_bytes(b"P6 30000 30000 255\n" + bytes(1000))
    inputs = [ten / "img-00001.jpg", huge, ten / "img-00002.jpg"]
    words = ("prlimit", f"--as={3 << 30}")
    for workers in ("2", "0"):
        args = ("classify", *inputs, *DEMO, "--max-pixels", "900M", "-j", workers)
        found = vit(*args, cwd=tmp_path, before=words, inputs=inputs)
        assert found.errors == {str(huge): "OutOfMemory"}
        assert found.rows[1]["error"]["message"] == "not enough memory to decode it"


def test_too_little_memory_for_torch_itself_is_one_error(ten: Path, tmp_path: Path) -> None:
    """S12"""
    words = ("prlimit", "--as=300000000")
    found = vit("classify", ten, *DEMO, "-j", "0", cwd=tmp_path, before=words)
    assert (found.code, found.err.splitlines()[0]) == (1, "vit: there is not enough memory")


@pytest.mark.parametrize("size", [64, 0])
def test_little_shared_memory_is_enough(ten: Path, tmp_path: Path, size: int) -> None:
    """S13: as in a container; nothing of ours goes through /dev/shm."""
    options = f"size={size}k" if size else "ro"
    script = f'mount -t tmpfs -o {options} none /dev/shm || exit 77; exec "$0" "$@"'
    words = ("unshare", "-m", "sh", "-c", script)
    if subprocess.run([*words, "true"], capture_output=True).returncode != 0:
        pytest.skip("nothing can be mounted here")
    assert vit("classify", ten, *DEMO, "-j", "2", cwd=tmp_path, before=words).code == 0


def test_few_descriptors_are_enough_and_none_is_lost(
    vits: ForkServer, many: Path, tmp_path: Path
) -> None:
    """S14: 20,000 images with 64 descriptors and eight workers."""
    paths = sorted(many.iterdir()) * 2
    (tmp_path / "list").write_text("".join(f"{path}\n" for path in paths))
    out = tmp_path / "out.jsonl"
    args = ("classify", "--files-from", tmp_path / "list", *DEMO, "-j", "8", "-o", out)
    child = vits.start(*args, limits={"NOFILE": 64})
    counts = []
    for rows in (100, 750):
        wait_for(tmp_path / "out.jsonl.partial", rows * 100)
        counts.append(len(list(Path(f"/proc/{child.pid}/fd").iterdir())))
    assert child.wait() == 3
    assert counts[0] == counts[1] < 64


@pytest.mark.parametrize("descriptors", [10, 14, 18, 24, 30])
def test_too_few_descriptors_are_one_error(vits: ForkServer, ten: Path, descriptors: int) -> None:
    """S14: it names the limit, and the way out."""
    found = run(vits, "classify", ten, *DEMO, "-j", "8", limits={"NOFILE": descriptors})
    if found.code != 0:
        assert found.code == 1
        assert found.err == (
            "vit: the image workers cannot start (gave up: Too many open files)\n"
            "  try -j 0, which decodes in the main process\n"
        )
    assert run(vits, "classify", ten, *DEMO, "-j", "0", limits={"NOFILE": descriptors}).code == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_is_left_of_a_run_that_is_killed(
    vits: ForkServer, fewer: Path, tmp_path: Path, workers: int
) -> None:
    """S16: no process after five seconds, and the lock is free."""
    out = tmp_path / "out.jsonl"
    args = ("classify", fewer, *DEMO, "-b", "1", "-j", str(workers), "-o", out)
    child = vits.start(*args)
    wait_for(tmp_path / "out.jsonl.partial", 500)
    assert len(processes("session", child.pid)) >= 1 + workers
    child.kill(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert until_gone(child.pid) == []
    assert run(vits, *args, "--resume", made=out).code == 3
