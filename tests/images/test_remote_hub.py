"""Files of a repository on a hub (one on this machine), through huggingface_hub's file system."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.extras import needs
from tests.fixtures.hub import FakeHub

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = ("-m", "demo", "-j", "0", "-b", "4")


@pytest.mark.slow
@needs("remote")
def test_the_rows_are_those_of_files(vit_process: Vit, tmp_path: Path) -> None:
    """A prefix, a pattern, a file, and one that is not there; what has changed is done again."""
    folder = tmp_path / "repo"
    names = sorted(path.name for path in shutil.copytree(EXAMPLES, folder / "ex").iterdir())
    assert vit_process("embed", folder / "ex", *COMMON, "-o", "files.npy").code == 0
    expected = (tmp_path / "files.npy").read_bytes()
    with FakeHub() as hub:
        hub.add("org/pics", folder)
        env = hub.env(tmp_path / "home")
        for url in ("hf://org/pics/ex/", "hf://org/pics/ex/*.png"):
            ended = vit_process("embed", url, *COMMON, "-o", "a.npy", "--overwrite", env=env)
            assert ended.code == 0, ended.err
            assert (tmp_path / "a.npy").read_bytes() == expected
            index = [json.loads(line) for line in (tmp_path / "a.index.jsonl").open()]
            assert [row["path"] for row in index] == [f"hf://org/pics/ex/{n}" for n in names]
        words = ("hf://org/pics/ex/none.png", "hf://org/none/a.png")
        ended = vit_process("classify", *words, *COMMON, env=env)
        kinds = [json.loads(line)["error"]["type"] for line in ended.out.splitlines()]
        assert kinds == ["NotFound", "NotFound"], ended.out
        shutil.copy(folder / "ex" / names[1], folder / "ex" / names[0])
        hub.add("org/pics", folder)
        ended = vit_process("embed", url, *COMMON, "-o", "a.npy", "--resume", env=env)
        assert "10 images, 9 of them before" in ended.err, ended.err
