"""Without INPUTS, what is piped or redirected to standard input is the list of paths."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.tiny import tiny_hf
from vitcli.cli.options.parse import check_paths

EXAMPLES = Path(__file__).parents[2] / "examples"
LISTED = sorted(map(str, EXAMPLES.glob("digit-7*.png")))
SAID = "no images are given: reading a list of paths from standard input"


@pytest.mark.parametrize("separator", ["\n", "\0"])
def test_a_list_that_is_piped_in_needs_no_dash(vit: Vit, tmp_path: Path, separator: str) -> None:
    given = separator.join([*LISTED, ""]).encode()
    null = ("-0",) if separator == "\0" else ()
    ended = vit("classify", "-m", "demo", "-j", "0", *null, input=given)
    assert ended.code == 0, ended.err
    assert [json.loads(line)["path"] for line in ended.out.splitlines()] == LISTED
    assert SAID in ended.err
    args = ("embed", "--layer", "-1", "-m", "demo", "-j", "0", *null, "-o", "feats.npy")
    assert vit(*args, input=given).code == 0
    ended = vit(*args, "--resume", input=given)
    assert (ended.code, "already complete" in ended.err) == (0, True)
    args = ("attention", "-m", "demo", "-j", "0", *null, "--out", "maps")
    assert vit(*args, input=given).code == 0


def test_reconstruct_reads_a_list_that_is_piped_in(vit: Vit, tmp_path: Path) -> None:
    tiny_hf("mae-pretraining", tmp_path / "mae", num_hidden_layers=1, decoder_num_hidden_layers=1)
    ended = vit(
        *("reconstruct", "-m", "mae", "-j", "0", "--out", "out"), input=LISTED[0].encode() + b"\n"
    )
    assert ended.code == 0, ended.err
    assert len([*(tmp_path / "out").rglob("*.png")]) == 1


def test_a_file_of_paths_is_not_joined_by_standard_input(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text(LISTED[0] + "\n")
    args = ("classify", "--files-from", "list.txt", "-m", "demo", "-j", "0")
    ended = vit(*args, input=b"no-such.png\n")
    assert (ended.code, len(ended.out.splitlines()), SAID in ended.err) == (0, 1, False)


def test_a_device_or_a_socket_is_no_list() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, Path(os.devnull).open("rb") as nothing:
        for descriptor in (nothing.fileno(), theirs.fileno()):
            with reading(descriptor):
                assert check_paths(None, None) == ()  # without images, and without texts, an error
    read, write = os.pipe()
    with reading(read):
        assert check_paths(None, None) == ("-",)
        assert check_paths(["a.png"], None) == ("a.png",)
    os.close(read)
    os.close(write)


@contextmanager
def reading(descriptor: int) -> Iterator[None]:
    """Standard input is this."""
    saved = os.dup(0)
    os.dup2(descriptor, 0)
    try:
        yield
    finally:
        os.dup2(saved, 0)
        os.close(saved)


@pytest.mark.parametrize(
    "args",
    [("embed", "x.png"), ("attention", "x.png"), ("finetune", "x", "--out", "r")],
)
def test_a_second_model_is_refused_where_one_is_taken(vit: Vit, args: tuple[str, ...]) -> None:
    for more in (("-m", "demo", "-m", "other"), ("--model=demo", "-qmdemo")):
        ended = vit(*args, *more)
        assert ended.code == 2, ended.err
        assert f"-m is given 2 times, and vit {args[0]} takes one model" in ended.err
