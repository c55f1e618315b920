"""Many shards into one output: with few open files, and little memory for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.faults.rules import contents
from tests.fixtures.forks import ForkServer
from tests.sinks.rows import classified, embedded, failed
from vitcli.records import Failure, Row
from vitcli.runs.fingerprint import Fingerprint
from vitcli.runs.output import Output
from vitcli.runs.recording import Recording
from vitcli.runs.shard import Shard
from vitcli.sinks.format import Format
from vitcli.tasks import merge

COUNT, IMAGES, SHAPE = 30, 400, (3, 2)
outputs = pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.npy", "a.npz", "a.safetensors"])


def row(index: int, is_array: bool) -> Row:
    path = f"photos/{index:05}.jpg"
    if index % 7 == 3:
        return failed(index, path)
    return embedded(index, path, SHAPE) if is_array else classified(index, path, "a", "b")


def write(out: Path, shard: Shard | None = None) -> Path:
    """What a run makes of 400 images, or its shard, without a model."""
    command = "classify" if out.suffix in (".jsonl", ".csv") else "embed"
    meta = {"row_shape": SHAPE, "array_dtype": "float32"} if command == "embed" else {}
    rows = [row(index, bool(meta)) for index in range(IMAGES)]
    out = shard.named(out) if shard else out
    output = Output(out=out, command=command, format=Format(out.suffix[1:]))
    with Recording(output, lambda: iter(())) as record:
        asked = {"--format": out.suffix[1:], "--shard": shard and str(shard)}
        record.plan(Fingerprint({"command": command, **asked}))
        sink = record.begin(meta, [])
        sink.write([r for r in rows if shard is None or shard.has(r.ref.path)])
        failures = sum(isinstance(r, Failure) for r in rows)
        sink.finish({**meta, "images": len(rows) - failures, "failed": failures})
    return out


@outputs
def test_there_may_be_more_shards_than_files_may_be_open(
    vits: ForkServer, tmp_path: Path, name: str
) -> None:
    shards = [write(tmp_path / name, Shard(n, COUNT)) for n in range(1, COUNT + 1)]
    (tmp_path / "merged").mkdir()
    merged = tmp_path / "merged" / name
    ended = vits.vit("merge", *shards, "-o", merged, limits={"NOFILE": 24})
    assert ended.wait() == 3, ended.err
    assert contents(merged) == contents(write(tmp_path / name))


@outputs
@pytest.mark.parametrize("ahead", [1, 3 * 2 * 200])
def test_what_is_read_ahead_does_not_change_the_rows(
    vit: Vit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, ahead: int
) -> None:
    monkeypatch.setattr(merge, "AHEAD", ahead)
    shards = [write(tmp_path / name, Shard(n, 2)) for n in (1, 2)]
    (tmp_path / "merged").mkdir()
    merged = tmp_path / "merged" / name
    assert vit("merge", *shards, "-o", merged).code == 3
    assert contents(merged) == contents(write(tmp_path / name))
