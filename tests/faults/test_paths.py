"""Odd names, odd files, odd lists: a row each where one is due, and a word where not."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import pty
import re
import shutil
import socket
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.faults.rules import DEMO, OBEYING, ended, environment, run, vit
from tests.fixtures.forks import ForkServer, wait_for

NAMES = [
    b"caf\xe9.jpg",
    b"new\nline.jpg",
    b"carriage\rreturn.jpg",
    b"tab\t.jpg",
    b'"quoted".jpg',
    b"it's.jpg",
    b"back\\slash.jpg",
    b"n" * 251 + b".jpg",
    b"[link=x].jpg",
    b"[b]bold.jpg",
    b"esc\x1b[31mred.jpg",
    b"bell\x07.jpg",
    "turned\u202egpj.jpg".encode(),
    "next\u0085line\u2028.jpg".encode(),
    "鳥 🐦.jpg".encode(),
    b"-dash.jpg",
    b" spaces .jpg",
    b"=cmd().jpg",
    b"comma,semicolon;.jpg",
    b"*.jpg",
    b"sub [/foo].jpg",
]


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, ten: Path) -> Path:
    """One picture under every name that a name may be, one of them below a folder."""
    folder = tmp_path_factory.mktemp("odd") / "odd"
    folder.mkdir()
    (folder / "sub [").mkdir()
    for name in NAMES:
        shutil.copy(ten / "img-00001.jpg", folder / os.fsdecode(name))
    return folder


def listed(names: list[bytes]) -> list[bytes]:
    """The paths of a scan, in its order."""
    return sorted(b"odd/" + name for name in names)


def path_of(row: dict[str, Any]) -> bytes:
    """The bytes of a path, as the README says how to find them."""
    if "path_bytes" in row:
        assert "\ufffd" in row["path"]
        return base64.b64decode(row["path_bytes"])
    return os.fsencode(row["path"])


def test_every_name_has_a_line_of_json(vits: ForkServer, odd: Path) -> None:
    """P4: for Python and for jq."""
    found = run(vits, "classify", "odd", *DEMO, "-j", "2", cwd=odd.parent)
    assert [path_of(row) for row in found.rows] == listed(NAMES)
    assert len({json.dumps(row["predictions"]) for row in found.rows}) == 1
    if shutil.which("jq"):
        read = subprocess.run(
            ["jq", "-j", '.path + "\\u0000"'], input=found.out, capture_output=True
        )
        wanted = [path.decode("utf-8", "replace") for path in listed(NAMES)]
        assert read.stdout.decode().split("\0")[:-1] == wanted


@pytest.mark.parametrize("name", ["csv", "tsv"])
def test_every_name_comes_back_from_a_table(
    vits: ForkServer, odd: Path, tmp_path: Path, name: str
) -> None:
    """P4: bytes and all."""
    out = tmp_path / f"out.{name}"
    assert run(vits, "classify", "odd", *DEMO, "-j", "0", "-o", out, cwd=odd.parent).code == 0
    text = out.read_bytes().decode("utf-8", "surrogateescape")
    dialect = "excel" if name == "csv" else "excel-tab"
    rows = list(csv.DictReader(io.StringIO(text, newline=""), dialect=dialect))
    assert [os.fsencode(row["path"]) for row in rows] == listed(NAMES)


def test_every_name_goes_in_and_out_between_nuls(
    vits: ForkServer, odd: Path, tmp_path: Path
) -> None:
    """P4: `find -print0 | vit -0 - --paths-only`, of each name and of one that is not there."""
    wanted = [path for path in listed(NAMES) for _ in range(2)]
    stdin, out = tmp_path / "list", tmp_path / "out"
    stdin.write_bytes(b"\0".join([*wanted, b"odd/\x1b[b].jpg"]))
    args = ("classify", "-0", "-", *DEMO, "-j", "0", "--paths-only", "-o", out)
    found = run(vits, *args, cwd=odd.parent, stdin=stdin)
    assert found.code == 3
    assert out.read_bytes().split(b"\0")[:-1] == wanted
    assert "NotFound: odd/\\x1b[b].jpg: no such file" in found.err


def test_the_index_of_an_array_has_every_name(vits: ForkServer, odd: Path, tmp_path: Path) -> None:
    """P4: and NPZ holds the paths themselves."""
    for name in ("one.npy", "two.npz"):
        args = ("embed", "odd", "-m", "demo", "-j", "0", "-o", tmp_path / name)
        assert run(vits, *args, cwd=odd.parent).code == 0
        lines = (tmp_path / f"{name[:3]}.index.jsonl").read_bytes().splitlines()
        assert [path_of(json.loads(line)) for line in lines] == listed(NAMES)
    paths = np.load(tmp_path / "two.npz")["paths"].tolist()
    assert paths == [path.decode("utf-8", "replace") for path in listed(NAMES)]


def test_a_name_that_looks_like_an_option_is_a_path_behind_dashes(
    vits: ForkServer, odd: Path
) -> None:
    """P4"""
    for args in (("./-dash.jpg",), ("--", "-dash.jpg")):
        found = run(vits, "classify", *DEMO, "-j", "0", *args, cwd=odd)
        assert [row["path"] for row in found.rows] == [args[-1]]


def on_terminal(vit: Path, *args: str | Path, cwd: Path, **env: str) -> tuple[int, bytes]:
    """A run whose stdin, stdout and stderr are a terminal, and what that has received."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, 100))
    process = subprocess.Popen(
        [vit, *map(str, args)],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=cwd,
        env=environment(TERM="xterm", **env),
        start_new_session=True,
    )
    os.close(theirs)
    out = b""
    try:
        while data := os.read(ours, 1 << 16):
            out += data
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    return process.wait(30), out


def test_a_terminal_gets_no_control_characters_of_a_name(
    odd: Path, tmp_path: Path, scripts: Path
) -> None:
    """P4: in the table, and in the lines of failures beside the bar."""
    (tmp_path / "\x1b[2J[b].jpg").write_text("no picture")
    vit = scripts / "vit"
    code, out = on_terminal(vit, "classify", "odd", tmp_path, *DEMO, cwd=odd.parent)
    text = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", out.decode())  # what rich draws with
    assert code == 3, text
    assert b"\x1b[2J" not in out
    for shown in ("esc\\x1b[31mred.jpg", "[link=x].jpg", "new\\nline.jpg", "turned\\u202egpj.jpg"):
        assert shown in text.replace("\r\n", ""), text
    assert b"\x1b]8" not in out, "a link"
    words = ("embed", tmp_path, "-m", "demo", "-o", "/dev/null")
    code, out = on_terminal(vit, *words, cwd=odd.parent)
    assert (code, b"\x1b[2J" in out, b"NotAnImage: " in out) == (3, False, True)


# Files that are none


@pytest.fixture
def strange(tmp_path: Path, ten: Path) -> Iterator[Path]:
    """A folder with one picture, and everything else that may have the name of one."""
    folder = tmp_path / "strange"
    (folder / "folder.jpg").mkdir(parents=True)
    shutil.copy(ten / "img-00001.jpg", folder / "good.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "dangling.jpg").symlink_to("nowhere")
    (folder / "self.jpg").symlink_to("self.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as server:
        os.chdir(folder)  # a name of a socket is short
        server.bind("socket.jpg")
        os.chdir("/")
        yield folder


def test_a_scan_takes_what_is_a_file_and_counts_the_rest(vits: ForkServer, strange: Path) -> None:
    """P2"""
    inputs = ["strange/dangling.jpg", "strange/good.jpg", "strange/self.jpg"]
    found = run(vits, "classify", "strange", *DEMO, "-j", "0", cwd=strange.parent, inputs=inputs)
    assert found.errors == {
        "strange/dangling.jpg": "NotFound",
        "strange/self.jpg": "Unreadable",
    }
    assert ", 3 skipped that are not files, in" in found.err


def test_what_is_named_is_tried_and_never_blocks(vits: ForkServer, strange: Path) -> None:
    """P2"""
    names = [f"strange/{n}.jpg" for n in ("pipe", "socket", "zero", "dangling", "good")]
    inputs = [*names, "/dev/zero", "strange/folder.jpg/none.jpg", "no\x7f.jpg"]
    started = time.monotonic()
    found = run(vits, "classify", *inputs, *DEMO, "-j", "0", cwd=strange.parent, inputs=inputs)
    assert time.monotonic() - started < 60
    messages = [row["error"]["message"] if "error" in row else "" for row in found.rows]
    none, other = "no such file", "not a regular file"
    assert messages == [other, other, other, none, "", other, none, none]
    assert "vit: NotFound: strange/dangling.jpg: no such file\n" in found.err  # P6


def test_links_that_go_round_are_entered_once(vits: ForkServer, ten: Path, tmp_path: Path) -> None:
    """P1: two links to one folder are two folders."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    shutil.copy(ten / "img-00001.jpg", tmp_path / "a" / "b" / "x.jpg")
    (tmp_path / "a" / "b" / "up").symlink_to("..")
    (tmp_path / "a" / "c").symlink_to("b")
    inputs = ["a/b/x.jpg", "a/c/x.jpg"]
    assert run(vits, "classify", "a", *DEMO, "-j", "0", cwd=tmp_path, inputs=inputs).code == 0


def test_a_folder_that_cannot_be_listed_is_named_and_the_rest_is_done(
    ten: Path, tmp_path: Path
) -> None:
    """P3"""
    for name in ("a/1.jpg", "a/private/2.jpg", "a/z.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ten / "img-00001.jpg", tmp_path / name)
    (tmp_path / "a" / "private").chmod(0)
    (tmp_path / "a" / "z.jpg").chmod(0)
    found = vit("classify", "a", *DEMO, cwd=tmp_path, before=OBEYING)
    (tmp_path / "a" / "private").chmod(0o700)
    assert found.code == 3
    assert [row["path"] for row in found.rows] == ["a/1.jpg", "a/z.jpg"]
    assert found.errors == {"a/z.jpg": "Unreadable"}
    assert "vit: cannot list a/private: Permission denied\n" in found.err


def test_a_file_that_is_removed_after_it_was_listed_is_a_row(
    vits: ForkServer, ten: Path, tmp_path: Path
) -> None:
    """P6"""
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(300):
        (folder / f"{index:03}.jpg").hardlink_to(ten / "img-00001.jpg")
    out = tmp_path / "out.jsonl"
    child = vits.start("classify", "photos", *DEMO, "-j", "0", "-b", "1", "-o", out, cwd=tmp_path)
    wait_for(tmp_path / "out.jsonl.partial")
    (folder / "299.jpg").unlink()
    found = ended(child, [f"photos/{index:03}.jpg" for index in range(300)], out)
    assert found.errors == {"photos/299.jpg": "NotFound"}


# Lists


def test_a_list_may_be_written_in_many_ways(vits: ForkServer, ten: Path, tmp_path: Path) -> None:
    """P5: CRLF, blank lines, a folder, a path twice, one of 100 kB, no newline at the end."""
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b .jpg", "c.jpg "):
        shutil.copy(ten / "img-00001.jpg", tmp_path / "photos" / name)
    long = "x" * 100_000
    lines = ["photos/a.jpg\r", "\r", "", long, "photos", "photos/a.jpg", "photos/c.jpg "]
    (tmp_path / "list").write_text("\n".join(lines), newline="")
    inputs = [
        "photos/a.jpg",
        long,
        "photos/a.jpg",
        "photos/b .jpg",
        "photos/a.jpg",
        "photos/c.jpg ",
    ]
    args = ("classify", *DEMO, "-j", "2")
    by_pipe = run(vits, *args, "-", cwd=tmp_path, stdin=tmp_path / "list", inputs=inputs)
    by_name = run(vits, *args, "--files-from", "list", cwd=tmp_path, inputs=inputs)
    assert by_pipe.out == by_name.out
    assert by_pipe.errors == {long: "Unreadable"}


def test_a_folder_without_images_says_what_is_there(vits: ForkServer, tmp_path: Path) -> None:
    """P7"""
    (tmp_path / "x").mkdir()
    for name in ("a.foo", "b.foo", "c.txt"):
        (tmp_path / "x" / name).touch()
    failed = run(vits, "classify", "x", *DEMO, "-o", "out.jsonl", cwd=tmp_path)
    said, looked = failed.err.splitlines()
    assert (failed.code, said) == (1, "vit: no images in x (3 other files: .foo 2, .txt 1)")
    assert ".jpg .jpeg" not in said and " .jpg " in looked
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("command", "name"),
    [("classify", "o.jsonl"), ("classify", "o.csv"), ("embed", "o.npy"), ("embed", "o.npz")],
)
def test_an_empty_list_is_a_valid_run(
    vits: ForkServer, tmp_path: Path, command: str, name: str
) -> None:
    """P8: a night in which nothing is new."""
    out = tmp_path / name
    found = run(vits, command, "-0", "-", "-m", "demo", "-o", out, made=out)
    assert (found.code, found.err.splitlines()[0]) == (0, "vit: standard input names no images")
    if command == "embed":
        loaded = np.load(out)
        array = loaded["embeddings"] if name.endswith("npz") else loaded
        assert array.shape == (0, 64)
    else:
        assert out.read_bytes().count(b"\n") == (name == "o.csv")


def test_a_terminal_is_no_list(tmp_path: Path, scripts: Path) -> None:
    """P9: it says so at once, instead of waiting for somebody to type paths."""
    code, out = on_terminal(scripts / "vit", "classify", "-", cwd=tmp_path)
    assert code == 2
    assert out.startswith(b"vit: paths expected on stdin\r\n")


# Surroundings


@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
        {},
    ],
    ids=["C", "ascii", "nothing"],
)
def test_the_surroundings_change_no_byte(vits: ForkServer, odd: Path, env: dict[str, str]) -> None:
    """P11: also without HOME, TERM, PATH and stdin, as cron starts programs."""
    expected = run(vits, "classify", "odd", *DEMO, "-j", "0", cwd=odd.parent).out
    kept = {} if "LC_ALL" not in env else {"PATH": os.environ["PATH"]}
    path = {"PYTHONPATH": environment()["PYTHONPATH"]}
    found = vit("classify", "odd", *DEMO, cwd=odd.parent, env={**kept, **path, **env})
    assert (found.code, found.out) == (0, expected)
