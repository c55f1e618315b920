"""Outputs that cannot be written: one error that says so, and nothing that was there is lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from tests.faults.rules import DEMO, FAILURE, OBEYING, contents, ended, environment, run, vit
from tests.fixtures.forks import ForkServer, wait_for
from tests.fixtures.photos import many_photos

FORMS = pytest.mark.parametrize(
    ("command", "name"), [("classify", "out.jsonl"), ("embed", "out.npy")]
)
PYTHON = f"{sys.executable} -m vitcli"  # what starts with closed descriptors is not forked


def mount(*words: object) -> None:
    """Mount something, or skip the test and say why."""
    done = subprocess.run(["mount", *map(str, words)], capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"nothing can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount("-t", "tmpfs", "-o", "size=64k", "none", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=False)


def in_shell(script: str, cwd: Path, **env: str) -> tuple[list[int], bytes, str]:
    """Run a pipeline of bash: the exit code of each of its parts, its output, its words."""
    words = f'{script}; echo " ${{PIPESTATUS[@]}}" >&2'
    done = subprocess.run(
        ["bash", "-c", words], cwd=cwd, env=environment(**env), capture_output=True, timeout=300
    )
    *said, codes = done.stderr.decode().rsplit(" ", len(script.split("|")))
    numbers = [int(code) for code in (*said[1:], codes)]
    assert "Traceback" not in said[0]
    return numbers, done.stdout, said[0]


# What is full


@FORMS
def test_a_full_disk_is_one_error_and_the_run_goes_on_when_there_is_room(
    vits: ForkServer, many: Path, tmp_path: Path, disk: Path, command: str, name: str
) -> None:
    """O1"""
    args = (command, many, "-m", "demo", "-j", "0", "-o")
    (tmp_path / "clean").mkdir()
    assert run(vits, *args, tmp_path / "clean" / name).code == 3
    full = run(vits, *args, disk / name, made=disk / name)
    assert full.code == 1
    *_, first, hint = full.err.splitlines()  # failures come before
    assert re.fullmatch(
        rf"vit: cannot write to {disk}/\S+: No space left on device \(\d+ of 500 images done\)",
        first,
    )
    assert hint == "  free space, then repeat with --resume"
    mount("-o", "remount,size=50m", disk)
    assert run(vits, *args, disk / name, "--resume", made=disk / name).code == 3
    assert contents(disk / name) == contents(tmp_path / "clean" / name)


def test_a_disk_that_is_full_of_pictures_is_one_error_and_the_run_goes_on(
    vits: ForkServer, tmp_path: Path, disk: Path
) -> None:
    """O1"""
    many_photos(tmp_path / "in", 40, broken=(3,))
    args = ("attention", tmp_path / "in", "-m", "demo", "-j", "0", "-b", "4", "--raw", "--out")
    assert run(vits, *args, tmp_path / "clean").code == 3
    full = run(vits, *args, disk / "maps", made=disk / "maps" / "attention.jsonl")
    assert full.code == 1
    *_, first, hint = full.err.splitlines()  # failures come before
    assert re.fullmatch(
        rf"vit: cannot write to {disk}/maps/\S+: No space left on device \(\d+ of 40 images done\)",
        first,
    )
    assert hint == "  free space, then repeat with --resume"
    assert not list(disk.rglob("*.png.partial"))
    mount("-o", "remount,size=50m", disk)
    assert run(vits, *args, disk / "maps", "--resume").code == 3
    made, clean = drawn(disk / "maps"), drawn(tmp_path / "clean")
    assert len(made) == 2 * 39 + 1
    assert made == clean


def drawn(folder: Path) -> dict[str, bytes]:
    """What is in a folder of pictures, wherever that is; without what vit keeps for itself."""
    files = [path for path in folder.rglob("[!.]*") if path.is_file()]
    where = str(folder).encode()
    return {str(p.relative_to(folder)): p.read_bytes().replace(where, b"") for p in files}


@FORMS
def test_a_file_that_may_not_grow_is_an_error_and_no_signal(
    vits: ForkServer, fewer: Path, tmp_path: Path, command: str, name: str
) -> None:
    """O10: RLIMIT_FSIZE, as a quota would do it."""
    args = (command, fewer, "-m", "demo", "-j", "0", "-o", tmp_path / name)
    full = run(vits, *args, made=tmp_path / name, limits={"FSIZE": 8192})
    assert full.code == 1
    assert re.search(r": File too large \(\d+ of 200 images done\)\n  repeat with", full.err)
    assert run(vits, *args, "--resume", made=tmp_path / name).code == 3


def test_a_full_standard_output_is_an_error(vits: ForkServer, ten: Path) -> None:
    """O3"""
    full = run(vits, "classify", ten, *DEMO, "-j", "0", stdout="/dev/full")
    assert (full.code, full.err) == (
        1,
        "vit: write error on standard output: No space left on device\n",
    )
    assert run(vits, "models", stdout="/dev/full").code == 1


# Standard output


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_what_is_closed_at_the_start_disturbs_nothing(
    ten: Path, tmp_path: Path, closed: str
) -> None:
    """O3, P11: the output must not get the number of a standard descriptor, nor the workers."""
    codes, out, err = in_shell(
        f"{PYTHON} classify {ten} {' '.join(DEMO)} -j 2 -o out.jsonl {closed}", tmp_path
    )
    assert codes == [0]
    assert len((tmp_path / "out.jsonl").read_bytes().splitlines()) == 10
    assert out == b""
    assert "2>&-" in closed or re.fullmatch(r"vit: 10 images in .*\n", err)


def test_without_standard_output_there_is_an_error_before_the_model(
    ten: Path, tmp_path: Path
) -> None:
    """O3"""
    codes, out, err = in_shell(f"{PYTHON} classify {ten} -m no/such >&-", tmp_path)
    assert (codes, out) == ([1], b"")
    assert err == "vit: standard output is closed\n  use --out FILE\n"


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
@pytest.mark.parametrize("out", ["", "-o /dev/stdout"])
def test_a_reader_that_goes_away_ends_the_run_quietly(
    scripts: Path, many: Path, tmp_path: Path, reader: str, out: str
) -> None:
    """O4"""
    codes, read, err = in_shell(
        f"{scripts}/vit classify {many} {' '.join(DEMO)} -b 1 {out} | {reader}", tmp_path
    )
    assert codes == [141, 0] and all(map(FAILURE.match, err.splitlines())), err
    assert len(read.splitlines()) == (reader != "true")


@pytest.mark.parametrize("name", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"])
def test_standard_output_has_several_names(
    scripts: Path, ten: Path, tmp_path: Path, name: str
) -> None:
    """O7: where it is a file, that is written on, and not replaced."""
    log = tmp_path / "log"
    log.write_bytes(b"what was there\n")
    with log.open("ab") as file:
        code = subprocess.run(
            [scripts / "vit", "classify", ten, *DEMO, "-o", name],
            stdout=file,
            env=environment(),
            stderr=2,
        ).returncode
    first, *rows = log.read_bytes().splitlines()
    assert (code, first, len(rows)) == (0, b"what was there", 10)
    assert [p.name for p in tmp_path.iterdir()] == ["log"]


# What is there already


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("no/out.jsonl", r"\S+/no is not a directory\n  make it first: mkdir -p no"),
        ("file/out.jsonl", r"\S+/file is not a directory"),
        ("closed/out.jsonl", r"\S+/closed is not writable"),
        ("folder.npy", r"it is a directory\n  name a file in it, with a suffix"),
        ("n" * 256 + ".jsonl", "File name too long"),
    ],
)
def test_what_cannot_be_written_is_found_before_the_model_is_loaded(
    ten: Path, tmp_path: Path, out: str, reason: str
) -> None:
    """O5: there is no such model, and nobody asks for it."""
    (tmp_path / "file").touch()
    (tmp_path / "closed").mkdir(mode=0o555)
    (tmp_path / "folder.npy").mkdir()
    failed = vit("embed", ten, "-m", "no/such", "-o", out, cwd=tmp_path, before=OBEYING)
    assert failed.code == 1
    assert re.fullmatch(rf"vit: cannot write to {out}: {reason}\n", failed.err)


def test_a_read_only_file_system_is_found_before_the_model_is_loaded(
    vits: ForkServer, ten: Path, disk: Path
) -> None:
    """O5"""
    mount("-o", "remount,ro", disk)
    failed = run(vits, "embed", ten, "-m", "no/such", "-o", disk / "out.npy")
    assert (failed.code, failed.err) == (
        1,
        f"vit: cannot write to {disk}/out.npy: {disk} is not writable\n",
    )


@FORMS
def test_an_existing_output_is_whole_until_the_new_one_is(
    vits: ForkServer, many: Path, ten: Path, tmp_path: Path, command: str, name: str
) -> None:
    """O6: refused without --overwrite; and killed half-way with it."""
    out = tmp_path / name
    args = ("-m", "demo", "-j", "0", "-b", "1", "-o", out)
    run(vits, command, ten, *args, made=out)
    before = contents(out), out.stat().st_mtime_ns
    refused = run(vits, command, many, *args)
    assert refused.err == (
        f"vit: {out} exists\n  --overwrite replaces it, --resume brings it up to date\n"
    )
    child = vits.start(command, many, *args, "--overwrite")
    wait_for(out.with_name(name + ".partial"), 2000)
    child.kill(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    left = {n: data for n, data in contents(out).items() if "partial" not in n}
    assert (left, out.stat().st_mtime_ns) == before


@pytest.mark.parametrize("kind", ["name", "link", "hard link", "below"])
def test_an_input_is_never_overwritten(
    vits: ForkServer, ten: Path, tmp_path: Path, kind: str
) -> None:
    """O7"""
    photo = tmp_path / "photos" / "a.jpg"
    photo.parent.mkdir()
    photo.write_bytes((ten / "img-00000.jpg").read_bytes())
    before = photo.read_bytes()
    out = tmp_path / "out.jsonl"
    if kind == "link":
        out.symlink_to(photo)
    elif kind == "hard link":
        out.hardlink_to(photo)
    else:
        out = photo
    inputs = photo.parent if kind == "below" else photo
    args = ("classify", inputs, *DEMO, "-j", "0", "-o", out, "--format", "jsonl", "--overwrite")
    refused = run(vits, *args)
    assert (refused.code, photo.read_bytes()) == (1, before)
    assert f"{photo} is an input, and would be overwritten" in refused.err
    summary = run(vits, "classify", photo, *DEMO, "-j", "0", "--summary", out)
    assert (summary.code, photo.read_bytes()) == (1, before)
    assert f"cannot write the summary to {out}: it is an input" in summary.err


def test_links_pipes_and_devices_are_written_as_they_are(
    vits: ForkServer, ten: Path, tmp_path: Path
) -> None:
    """O7"""
    args = ("classify", ten, *DEMO, "-j", "0", "--format", "jsonl", "-o")
    run(vits, *args, tmp_path / "plain.jsonl")
    rows = (tmp_path / "plain.jsonl").read_bytes()

    (tmp_path / "target").mkdir()
    link = tmp_path / "link.jsonl"
    link.symlink_to("target/real.jsonl")
    assert run(vits, *args, link).code == 0
    assert link.is_symlink()
    assert (tmp_path / "target" / "real.jsonl").read_bytes() == rows

    fifo, read = tmp_path / "fifo", []
    os.mkfifo(fifo)
    reader = Thread(target=lambda: read.append(fifo.read_bytes()))
    reader.start()
    assert run(vits, *args, fifo).code == 0
    reader.join(10)
    assert read == [rows]

    assert run(vits, *args, "/dev/null").code == 0
    assert Path("/dev/null").is_char_device()


@FORMS
def test_the_mode_obeys_the_umask_and_nothing_goes_through_tmp(
    vits: ForkServer, ten: Path, tmp_path: Path, disk: Path, command: str, name: str
) -> None:
    """O9: the output lies on another file system than /tmp."""
    for umask in (0o077, 0o022):
        out = disk / str(umask) / name
        out.parent.mkdir()
        args = (command, ten, "-m", "demo", "-j", "0", "-o", out)
        assert run(vits, *args, made=out, umask=umask).code == 0
        assert {oct(path.stat().st_mode & 0o777) for path in out.parent.iterdir()} == {
            oct(0o666 & ~umask)
        }


@FORMS
def test_an_output_whose_file_system_goes_away_is_taken_up_when_it_is_back(
    vits: ForkServer, fewer: Path, tmp_path: Path, command: str, name: str
) -> None:
    """A mount that vanishes takes the names away, not what was written."""
    real, seen = tmp_path / "real", tmp_path / "seen"
    real.mkdir()
    seen.mkdir()
    mount("--bind", real, seen)
    args = (command, fewer, "-m", "demo", "-j", "0", "-b", "1", "-o", seen / name)
    try:
        child = vits.start(*args)
        wait_for(seen / f"{name}.partial", 2000)
    finally:
        subprocess.run(["umount", "-l", seen], check=True)
    gone = ended(child, made=seen / name)
    assert gone.code == 1
    assert re.search(rf"^vit: cannot write to {seen}\S+: No such file", gone.err, re.MULTILINE)
    mount("--bind", real, seen)
    try:
        again = run(vits, *args, "--resume", made=seen / name)
    finally:
        subprocess.run(["umount", "-l", seen], check=True)
    assert again.code == 3
    run(vits, *args[:-1], tmp_path / name)
    assert contents(real / name) == contents(tmp_path / name)
