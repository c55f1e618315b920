"""A bucket of Google's (a server on this machine that speaks its API), through gcsfs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Vit
from tests.fixtures.extras import needs
from tests.fixtures.gcs import FakeGcs

EXAMPLES = Path(__file__).parents[2] / "examples"
COMMON = ("-m", "demo", "-j", "0", "-b", "4")


@pytest.mark.slow
@needs("remote")
def test_from_a_bucket_into_it(vit_process: Vit, tmp_path: Path) -> None:
    """With an error on the way; and what has changed is done again."""
    assert vit_process("embed", EXAMPLES, *COMMON, "-o", "files.npy").code == 0
    gcs = FakeGcs()
    for path in EXAMPLES.iterdir():
        gcs.objects[f"p/{path.name}"] = path.read_bytes()
    gcs.faults = [503]
    env = {
        "STORAGE_EMULATOR_HOST": gcs.url,
        "NO_GCE_CHECK": "true",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
    }
    words = ("embed", "gs://bkt/p/", *COMMON, "-o", "gs://bkt/out/a.npy")
    ended = vit_process(*words, env=env)
    assert ended.code == 0 and not gcs.faults, ended.err
    sent = [name.removeprefix("out/") for name in gcs.objects if name.startswith("out/")]
    assert sent == ["a.index.jsonl", "a.meta.json", ".a.npy.journal", "a.npy"]
    assert gcs.objects["out/a.npy"] == (tmp_path / "files.npy").read_bytes()
    first, second = sorted(EXAMPLES.iterdir())[:2]
    gcs.objects[f"p/{first.name}"] = second.read_bytes()
    ended = vit_process(*words, "--resume", env=env)
    assert "10 images, 9 of them before" in ended.err, ended.err
    ended = vit_process("embed", EXAMPLES, *COMMON, "-o", "gs://none/a.npy", env=env)
    assert "cannot write to gs://none/a.npy: there is no such bucket (404)" in ended.err, ended.err
    gcs.stop()
