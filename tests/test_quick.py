"""Every command once, on small inputs: `pytest -m quick` takes less than a minute."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.hub import FakeHub
from tests.fixtures.photos import many_photos
from vitcli.cli.inventory import commands
from vitcli.tasks.bench import bench as task
from vitcli.tasks.bench.protocol import Candidate

COMMANDS = {
    "classify": "photos -m demo -j 0 -o rows.csv",
    "embed": "photos -m demo -j 0 -o vectors.npy",
    "attention": "photos -m demo -j 0 -o maps",
    "merge": "part-00001-of-00002.jsonl part-00002-of-00002.jsonl -o whole.jsonl",
    "convert": "demo converted --to hf --verify",
    "finetune": "photos -m demo --train head --epochs 1 -j 0 --out run",
    "dedupe": "vectors.npy -j 0 -o twins.jsonl",
    "search": "vectors.npy --like photos/0/img-00000.jpg -o found.jsonl",
    "map": "vectors.npy --clusters 2 -j 0 -o map.jsonl",
    "evaluate": "photos -m demo -j 0 --json",
    "reconstruct": "photos/0/img-00000.jpg -m mae -j 0 -o drawn",
    "info": "demo --json",
    "cache": "--json",
    "bench": "demo --seconds 600 --json",
    "models": "--json",
    "models pull": "some/vit",
}

pytestmark = pytest.mark.quick


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize("command", [command.name for command in commands()])
def test_a_command_does_its_work(
    vit: Vit,
    tmp_path: Path,
    tiny_model: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    fp32 = iter([Candidate("torch", "fp32")])  # what bench measures
    monkeypatch.setattr(task._Trials, "_candidates", lambda self, device, exports: fp32)
    for label in "01":
        many_photos(tmp_path / "photos" / label, 4)
    (tmp_path / "mae").symlink_to(tiny_model("mae-pretraining"))
    words = (*command.split(), *COMMANDS[command].split())
    if command == "models pull":
        with FakeHub() as hub:
            hub.add("some/vit", tiny_model("vit"))
            ended = vit(*words, env=hub.env(tmp_path / "hub"))
        assert (Path(ended.out.decode().strip()) / "config.json").is_file()
    else:
        if command == "merge":
            for part in ("1/2", "2/2"):
                shard = ("-m", "demo", "-j", "0", "--shard", part, "-o", "part.jsonl")
                assert vit("classify", "photos", *shard).code == 0
        if command in ("dedupe", "search", "map"):
            assert vit(*f"embed {COMMANDS['embed']}".split()).code == 0
        ended = vit(*words)
    assert ended.code == 0, ended.err
    if "--json" in words:
        assert json.loads(ended.out)
    for name in ("-o", "--out"):
        if name in words:
            assert (tmp_path / words[words.index(name) + 1]).exists()
