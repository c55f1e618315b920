"""A journal is checked as input is: nothing that it says is trusted."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.runs.killing import IsKilled
from tests.runs.test_recording import Inputs, contents, record, resume
from vitcli.errors import OutputError
from vitcli.runs.journal import read_commits, read_finished
from vitcli.runs.journal_lines import Damaged, Entry, Header, json_bytes
from vitcli.runs.lock import holder
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.sinks.format import Format

DEEP = b"[" * 100_000
HEADERS: list[Any] = [
    [1],
    {"fingerprint": [1]},
    {"fingerprint": {}, "defaults": [1]},
    {"fingerprint": {}, "meta": []},
    {"fingerprint": {}, "meta": {"row_shape": ["3"]}},
    {"fingerprint": {}, "meta": {"row_shape": [-3]}},
    {"fingerprint": {}, "meta": {"row_shape": [1 << 40]}},
    {"fingerprint": {}, "meta": {"row_shape": [True]}},
    {"fingerprint": {}, "meta": {"array_dtype": "object"}},
    {"fingerprint": {}, "meta": {"array_dtype": ["float32"]}},
    {"fingerprint": {}, "weights": 5},
    {"fingerprint": {}, "weights": [{"files": 1, "sha256": 2}]},
    {"fingerprint": {}, "takes_over": "yes"},
]
ENTRIES: list[Any] = [
    [0],
    {},
    [0, 5, [1, 1], 0, 1, 0],
    [0.5, "a", [1, 1], 0, 1, 0],
    [True, "a", [1, 1], 0, 1, 0],
    [0, "a", [1, 1], -1, 1, 0],
    [0, "a", [1, 1], 0, -1, 0],
    [0, "a", [1, 1], 0, 1, -1],
    [0, "a", [1, 1], 0, 1 << 60, 0],
    [0, "a", [1], 0, 1, 0],
    [0, "a", [1, None], 0, 1, 0],
    [0, "\ud800", [1, 1], 0, 1, 0],
]
FINISHED: list[Any] = [5, [], ["x"], [["a.partial", "a", 9]], [["a", "b", "9", 0, 0, 0, 0, 0]]]


@pytest.fixture
def inputs(tmp_path: Path) -> Inputs:
    return Inputs(tmp_path / "in", "abcdxef")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "feats.npy"


def lines(out: Path) -> Output:
    return Output(out=out, command="classify", overwrite=True)


@pytest.mark.parametrize(
    ("text", "option"), [("paths -0", "--null"), ("csv and html", "--html"), ("csv", "--top-k")]
)
def test_a_format_is_read_as_the_first_version_wrote_it(text: str, option: str) -> None:
    now = {"--format": text.split()[0], option: True}
    then = {"--format": text, **({} if " " in text else {option: True})}
    assert Header.of(json_bytes({"fingerprint": then})).fingerprint.values == now


@pytest.mark.parametrize("value", HEADERS, ids=str)
def test_a_header_of_another_shape_is_none(value: Any) -> None:
    with pytest.raises(Damaged):
        Header.of(json_bytes(value))


@pytest.mark.parametrize("value", ENTRIES, ids=ascii)
def test_an_entry_of_another_shape_is_none(value: Any) -> None:
    with pytest.raises(Damaged):
        Entry.of(json_bytes(value))


@pytest.mark.parametrize(
    "line", [DEEP, b"[NaN]\n", b"\xff\0\n", b"[" + b"9" * 5000 + b"]", b"\n"], ids=range(5)
)
def test_what_is_no_json_of_ours_is_no_entry(line: bytes) -> None:
    with pytest.raises(Damaged):
        Entry.of(line)
    with pytest.raises(Damaged):
        Header.of(line)


@pytest.mark.parametrize("value", FINISHED, ids=str)
def test_an_end_of_another_shape_ends_no_run(inputs: Inputs, out: Path, value: Any) -> None:
    journal = out.with_name("feats.npy.partial.journal")
    head = json_bytes({"fingerprint": {}})
    journal.write_bytes(head + json_bytes({"finished": value, "crc": zlib.crc32(head)}))
    assert read_finished(journal) is None
    record(inputs, out)
    assert len(inputs.computed) == 7


def last_line_gone(data: bytes) -> bytes:
    return b"".join(data.splitlines(keepends=True)[:-1])


def something_behind(data: bytes) -> bytes:
    return data + b"xx"


def other_header(data: bytes) -> bytes:
    return b'{"fingerprint":[1]}\n' + data.partition(b"\n")[2]


def rows_exchanged(data: bytes) -> bytes:
    return data.replace(b",0]", b",9]").replace(b",1]", b",0]").replace(b",9]", b",1]")


def a_gigabyte_without_end(data: bytes) -> bytes:
    return data[:-1]


@pytest.mark.parametrize(
    "damage",
    [last_line_gone, something_behind, other_header, rows_exchanged, a_gigabyte_without_end],
    ids=lambda f: f.__name__,
)
def test_a_damaged_journal_of_a_whole_output_is_told_and_may_be_overwritten(
    inputs: Inputs, out: Path, damage: Callable[[bytes], bytes]
) -> None:
    record(inputs, out)
    journal = out.with_name(".feats.npy.journal")
    journal.write_bytes(damage(journal.read_bytes()))
    if damage is a_gigabyte_without_end:
        os.truncate(journal, 1 << 30)  # a hole
    before = contents(out.parent)
    with pytest.raises(OutputError, match="has no whole record of its run") as caught:
        record(inputs, out, resume)
    assert caught.value.hint == "--overwrite starts over"
    assert contents(out.parent) == before
    record(inputs, out, overwrite=True)
    assert read_finished(journal)


@pytest.mark.parametrize("where", ["../secret", "absolute", "other.txt"])
def test_a_journal_moves_no_file_but_those_of_its_run(
    inputs: Inputs, out: Path, tmp_path: Path, where: str
) -> None:
    secret = out.parent / where if where != "absolute" else tmp_path / where
    secret.write_text("precious")
    name = str(secret) if where == "absolute" else where
    head = json_bytes({"fingerprint": {}})
    whole = [name, "feats.npy", 8, 0, 0, zlib.crc32(b"precious"), 0, 0]
    for finished in ([whole], [[name, "x1", *whole[2:]]]):
        out.with_name("feats.npy.partial.journal").write_bytes(
            head + json_bytes({"finished": finished, "crc": zlib.crc32(head)})
        )
        record(inputs, out, overwrite=True)
        assert secret.read_text() == "precious"
        assert not out.with_name("x1").exists()


@pytest.mark.parametrize(
    "line", [[0, "p", [1, 1], 5, 1, 0], [0, "p", [1, 1], 0, 7, 4], DEEP], ids=range(3)
)
def test_an_interrupted_run_ends_where_its_journal_contradicts_itself(
    tmp_path: Path, line: Any
) -> None:
    journal = tmp_path / "j"
    lines = [json_bytes({"fingerprint": {}})]
    for entries, size in (([], 0), ([[0, "a", [1, 1], 0, 4, 0]], 4), ([line], 8)):
        lines += [e if isinstance(e, bytes) else json_bytes(e) for e in entries]
        state = {"files": [[size, 0]], "crc": zlib.crc32(b"".join(lines))}
        lines.append(json_bytes(state))
    journal.write_bytes(b"".join(lines))
    assert [commit.inputs for commit in read_commits(journal)] == [0, 1]


# Links, locks, neighbours


@pytest.mark.parametrize(
    "name",
    [
        *("feats.npy.partial", "feats.npy.partial.lock", "feats.npy.partial.journal"),
        *(".feats.npy.journal", "feats.index.jsonl", "feats.meta.json"),
    ],
)
@pytest.mark.parametrize("kind", ["symbolic", "dangling", "hard"])
def test_nothing_is_written_through_a_link(
    inputs: Inputs, out: Path, tmp_path: Path, name: str, kind: str
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    link = out.with_name(name)
    if kind == "hard":
        link.hardlink_to(victim)
    else:
        link.symlink_to(victim if kind == "symbolic" else tmp_path / "nowhere")
    if kind == "hard" and not name.endswith(".lock"):
        record(inputs, out, overwrite=True)  # by a file of its own
    else:
        words = "is a symbolic link" if kind != "hard" else "has another name, too"
        with pytest.raises(OutputError, match=words):
            record(inputs, out, overwrite=True)
    assert victim.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()


def test_two_outputs_of_one_stem_do_not_share_an_index(inputs: Inputs, out: Path) -> None:
    other = out.with_name("feats.safetensors")
    index = out.with_name("feats.index.jsonl")
    with Recording(Output(out=out, command="embed", format=Format("npy")), inputs.refs):
        with pytest.raises(OutputError, match=rf"feats.index.jsonl is being .+ {os.getpid()} on"):
            record(inputs, other)
        assert len(list(out.parent.glob("*.lock"))) == 3
    assert not list(out.parent.glob("*.lock"))
    record(inputs, out)
    before = contents(out.parent)
    with pytest.raises(OutputError, match=r"belongs to .+feats.npy, and would be overwritten"):
        record(inputs, other, overwrite=True)
    with pytest.raises(OutputError, match=r"belongs to .+feats.npy, and would be overwritten"):
        record(inputs, other, resume)
    out.with_name(".feats.npy.journal").unlink()
    with pytest.raises(OutputError, match=r"belongs to .+feats.npy, and would be overwritten"):
        record(inputs, other, overwrite=True)
    assert contents(out.parent) == before
    out.unlink()
    record(inputs, other, overwrite=True)
    assert json.loads(index.read_bytes().splitlines()[0])["row"] == 0


def test_an_index_is_not_overwritten_by_an_output_of_its_name(inputs: Inputs, out: Path) -> None:
    out = out.with_name("a.feats.npy")
    index, meta = (out.with_name(f"a.feats{end}") for end in (".index.jsonl", ".meta.json"))
    record(inputs, out)
    before = contents(out.parent)
    for journal in (True, False):
        for path in (index, meta):
            with pytest.raises(OutputError, match=r"belongs to .+a.feats.npy, and would be"):
                Recording(lines(path), inputs.refs).__enter__()
        if journal:
            assert contents(out.parent) == before
            out.with_name(".a.feats.npy.journal").unlink()
    out.unlink()
    with Recording(lines(index), inputs.refs):
        pass


def test_the_index_of_an_interrupted_run_is_not_overwritten(
    inputs: Inputs, out: Path, is_killed: IsKilled
) -> None:
    assert is_killed(14, partial(record, inputs, out))
    before = contents(out.parent)
    with pytest.raises(OutputError, match=r"may belong to .+feats.npy, an interrupted run"):
        record(inputs, out.with_name("feats.npz"), overwrite=True)
    with pytest.raises(OutputError, match=r"may belong to .+feats.npy, an interrupted run"):
        Recording(lines(out.with_name("feats.index.jsonl")), inputs.refs).__enter__()
    assert contents(out.parent) == before
    record(inputs, out, resume)


def test_a_partial_that_somebody_has_exchanged_takes_no_name(
    inputs: Inputs, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = inputs.row

    def exchange(ref: Any, kind: str) -> Any:
        index = out.with_name("feats.index.jsonl.partial")
        data = index.read_bytes()
        index.rename(index.with_name("away"))
        index.write_bytes(data)
        return make(ref, kind)

    monkeypatch.setattr(inputs, "row", exchange)
    with pytest.raises(OutputError, match="is no longer the file that this run has written"):
        record(inputs, out)
    assert not out.exists()


@pytest.mark.parametrize("way", ["overwrite", "resume"])
def test_a_private_output_stays_private(
    inputs: Inputs, out: Path, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record(inputs, out)
    files = [out, out.with_name("feats.index.jsonl"), out.with_name("feats.meta.json")]
    for file in files[:2]:
        file.chmod(0o600)
    modes: list[int] = []
    make = inputs.row

    def watched(ref: Any, kind: str) -> Any:
        partials = [p for p in out.parent.glob("feats.*.partial*") if p.suffix != ".lock"]
        modes.extend(p.stat().st_mode & 0o777 for p in partials)
        return make(ref, kind)

    inputs.write("g")
    monkeypatch.setattr(inputs, "row", watched)
    record(inputs, out, resume if way == "resume" else type(resume)(), overwrite=way != "resume")
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600, 0o644]
    assert out.with_name(".feats.npy.journal").stat().st_mode & 0o777 == 0o600
    assert set(modes) == {0o600}


# A finished output that has changed


@pytest.mark.parametrize("has_time", [False, True])
@pytest.mark.parametrize("name", ["feats.npy", "feats.index.jsonl", "feats.meta.json"])
def test_an_edited_output_of_the_same_size_is_not_trusted(
    inputs: Inputs, out: Path, name: str, has_time: bool
) -> None:
    record(inputs, out)
    file = out.with_name(name)
    data, before = file.read_bytes(), file.stat()
    file.write_bytes(data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])
    if has_time:
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(OutputError, match=f"{name} has changed since its run") as caught:
        record(inputs, out, resume)
    assert "--overwrite starts over" in str(caught.value.hint)
    file.write_bytes(data)  # as a copy that is brought back
    assert record(inputs, out, resume).is_complete


@pytest.mark.parametrize("since", ["today", None, [1], 1e400, -1e300, 10**30, True, {"a": 1}])
def test_the_words_of_another_version_in_a_lock_do_not_matter(since: Any) -> None:
    said = json.dumps({"pid": 1, "host": "h", "since": since}).encode()
    assert holder(said) == "another process"
    assert holder(b"[1]") == holder(b"\xff") == holder(DEEP) == "another process"
