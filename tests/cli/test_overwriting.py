"""No run overwrites what it reads, nor what its report would be taken for."""

from __future__ import annotations

import json
import os
import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.photos import photo

DEMO = ("-m", "demo", "-j", "0", "-q")
Here = Path


@pytest.fixture
def here(tmp_path: Path) -> Here:
    """Images, a model, a list and labels."""
    (tmp_path / "in").mkdir()
    for name in ("a.png", "b.png"):
        photo(name, 16, 16).save(tmp_path / "in" / name)
    model = Path(str(files("vitcli.demo")))
    shutil.copytree(model, tmp_path / "m", ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    (tmp_path / "list").write_text("in/a.png\n")
    (tmp_path / "confusion.csv").write_text("path,label\nin/a.png,0\n")
    (tmp_path / "metrics.json").touch()
    (tmp_path / "labels.txt").write_text("".join(f"{n}\n" for n in range(10)))
    (tmp_path / "link.npy").symlink_to(tmp_path / "m" / "config.json")
    (tmp_path / "hard.jsonl").hardlink_to(tmp_path / "m" / "model.safetensors")
    return tmp_path


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ("embed in -m m -o m/model.safetensors", "m/model.safetensors is the model of this run"),
        ("embed in -m m -o link.npy", "m/config.json is the config of this run"),
        ("classify in -m m -o hard.jsonl", "is the model of this run"),
        ("classify in -m m -o m/config.json --format jsonl", "is the config of this run"),
        ("classify in -m m --html m/preprocessor_config.json", "is a file of the model"),
        ("classify --files-from list -m m -o list --format csv", "list is the list of this run"),
        ("classify in -m m --labels labels.txt -o labels.txt --format csv", "file of --labels"),
        ("classify in/a.png -m m -o in/a.png --format csv", "in/a.png is an input"),
        ("convert m m --to hf", "model.safetensors is the model of this run"),
        ("convert m/model.safetensors m --to hf", "model.safetensors is the model of this run"),
        ("finetune in -m m --out m", "model.safetensors is the model of this run"),
        ("finetune in -m m --out in", "in is the data of this run"),
        ("evaluate confusion.csv -m m --out .", "confusion.csv is the data of this run"),
        ("evaluate in --preds metrics.json --out .", "metrics.json is the file of --preds"),
        ("reconstruct in/a.png -m m --out in", "in/a.png is an input"),
        ("reconstruct in/a.png -m m --out m", "model.safetensors is the model of this run"),
    ],
)
def test_what_a_run_reads_is_not_overwritten(vit: Vit, here: Here, args: str, said: str) -> None:
    before = snapshot(here)
    ended = vit(*args.split(), "--overwrite", *(() if "convert" in args else ("-j", "0")))
    assert ended.code == 1, ended.err
    assert said in ended.err and "would be overwritten" in ended.err, ended.err
    assert snapshot(here) == before


def test_a_shard_is_not_merged_into_itself(vit: Vit, here: Here) -> None:
    for number in (1, 2):
        assert vit("classify", "in", *DEMO, "-o", "o.jsonl", "--shard", f"{number}/2").code == 0
    shards = ["o-00001-of-00002.jsonl", "o-00002-of-00002.jsonl"]
    before = snapshot(here)
    ended = vit("merge", *shards, "-o", shards[0], "--overwrite")
    assert (ended.code, "is a shard, and would be overwritten" in ended.err) == (1, True), ended.err
    assert snapshot(here) == before


REPORT = {"exit_code": 0, "error": None, "started": "", "ended": "", "versions": {"vitcli": "0"}}


@pytest.mark.parametrize(
    "content",
    [
        '{"path":"a.jpg","predictions":[]}\n',
        "{}",
        '{"model_type":"vit"}',
        json.dumps(REPORT) + "\n" + json.dumps(REPORT),
        json.dumps({**REPORT, "versions": 5}),
        json.dumps(REPORT)[:-1],
        "[" * 100_000,
    ],
    ids=range(7),
)
def test_a_summary_replaces_only_a_whole_report(vit: Vit, here: Here, content: str) -> None:
    file = here / "sum.json"
    file.write_text(content)
    ended = vit("classify", "in", *DEMO, "-o", "o.jsonl", "--summary", file)
    assert (ended.code, "it holds something else" in ended.err) == (1, True), ended.err
    assert file.read_text() == content


@pytest.mark.parametrize(
    ("args", "summary"),
    [
        ("embed -o f.npy", "f.npy"),
        ("embed -o f.npy", "f.index.jsonl"),
        ("embed -o f.npy", "f.meta.json"),
        ("embed -o f.npy", ".f.npy.journal"),
        ("embed -o f.npy", "f.npy.partial.lock"),
        ("embed -o f.npy", "./in/../f.npy.partial"),
        ("classify --html p.html", "p.html"),
        ("classify -o f.jsonl --shard 1/2", "f-00001-of-00002.jsonl"),
        ("attention --out maps", "maps/attention.jsonl"),
        ("attention --out maps", "maps/in/a.png"),
        ("classify -o f.jsonl --labels empty", "empty"),
        ("classify -o f.jsonl --files-from empty", "empty"),
    ],
)
def test_a_summary_is_no_file_of_its_run(vit: Vit, here: Here, args: str, summary: str) -> None:
    (here / "empty").touch()
    before = snapshot(here)
    command, *options = args.split()
    ended = vit(command, "in", *options, *DEMO, "--summary", summary)
    assert (ended.code, "cannot write the summary" in ended.err) == (1, True), ended.err
    assert snapshot(here) == before


def test_a_summary_is_written_to_descriptors_and_again_into_itself(
    vit: Vit, here: Here, vit_process: Vit
) -> None:
    run = ("classify", "in", *DEMO, "--overwrite", "-o", "o.csv", "--summary")
    for place in ("/dev/null", "s.json", "s.json"):
        assert vit(*run, place).code == 0
    assert json.loads((here / "s.json").read_bytes())["images"] == 2
    ended = vit(*run, "/dev/fd/1")
    assert json.loads(ended.out)["exit_code"] == 0
    ended = vit(*run, "/dev/stderr")
    assert json.loads(ended.err)["exit_code"] == 0
    assert vit(*run, "/dev/fd/77").code == 1


@pytest.mark.parametrize(
    "options",
    [
        ("--max-pixels", "1e400"),
        ("--max-pixels", "nan"),
        ("--max-pixels", "0"),
        ("--image-timeout", "nan"),
        ("--image-timeout", "inf"),
        ("--image-timeout", "1e9"),
        ("--threshold", "nan"),
        ("-b", "1" * 31),
        ("-j", "1000000000"),
        ("-j", "\u00b2"),
        ("--image-size", "999999999"),
        ("--top-k", "1" * 31),
        ("--max-errors", "nan%"),
    ],
    ids=" ".join,
)
def test_numbers_that_mean_nothing_are_usage_errors(
    vit: Vit, here: Here, options: tuple[str, ...]
) -> None:
    ended = vit("classify", "in", "-m", "demo", *options)
    assert ended.code == 2, ended.err
    assert len(ended.err) < 2000


def test_a_folder_that_is_gone_is_told(
    here: Here, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from vitcli.cli import main

    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    assert main(["classify", str(here / "in"), "-m", "demo"]) == 1
    assert capfd.readouterr().err.startswith("vit: the working folder no longer exists\n")


def test_a_long_tmpdir_does_not_reach_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tempfile
    from multiprocessing import process

    from vitcli.errors import VitError
    from vitcli.images import worker_process

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * 110)))
    config: dict[str, object] = {}
    monkeypatch.setattr(process.current_process(), "_config", config)
    worker_process._choose_socket_folder()
    assert len(str(config["tempdir"])) < 90  # removed at the end
    assert tempfile.tempdir.endswith("ttt")
    monkeypatch.setattr(os, "access", lambda *args: False)
    with pytest.raises(VitError, match="TMPDIR is too long for a socket"):
        worker_process._choose_socket_folder()


def test_two_outputs_of_one_name_are_refused(vit: Vit, here: Here) -> None:
    ended = vit("classify", "in", *DEMO, "-o", "o.jsonl", "--html", "in/../o.jsonl")
    assert (ended.code, "is named for two outputs" in ended.err) == (2, True), ended.err
    ended = vit("classify", "in", *DEMO, "-o", "o.jsonl", "--html", "nowhere/o.html")
    assert (ended.code, "nowhere is not a directory" in ended.err) == (1, True), ended.err
    assert not list(here.glob("o.jsonl*"))
