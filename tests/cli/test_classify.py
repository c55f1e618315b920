"""`vit classify` as a process: rows, formats, exit codes, pipes."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image, ImageOps

from tests.conftest import Vit
from tests.fixtures.forks import ForkServer
from tests.fixtures.photos import Corpus, many_photos
from vitcli.checkpoints.scoring import ScoreFunction, averaged, to_scores
from vitcli.jobs.predictions import top_k

Models = Callable[[str], Path]


def rows_of(out: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.splitlines()]


def reference_probabilities(model: Path, image: Path) -> np.ndarray:
    """What transformers gives for the picture, as its pipeline would open it."""
    rgb = ImageOps.exif_transpose(Image.open(image)).convert("RGB")
    processor = transformers.AutoImageProcessor.from_pretrained(model)
    network = transformers.AutoModelForImageClassification.from_pretrained(model)
    with torch.inference_mode():
        logits = network(**processor(rgb, return_tensors="pt")).logits
    return logits[0].softmax(-1).numpy()


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """2,000 small photographs, 30 of them broken."""
    folder = tmp_path_factory.mktemp("many")
    many_photos(folder, 2000, broken=range(0, 2000, 67))
    return folder


@pytest.mark.parametrize("family", ["vit", "deit", "dinov2-classifier", "dinov2-reg-classifier"])
def test_scores_are_those_of_transformers(
    vit: Vit, tiny_model: Models, photos: Corpus, family: str
) -> None:
    images = [path for path in photos.good if path.suffix.lower() in (".jpg", ".png")][:6]
    images = [path for path in images if "16" not in path.name]  # scaled, not clamped: on purpose
    ended = vit("classify", *images, "-m", tiny_model(family), "-k", 7)
    assert ended.code == 0, ended.err
    for image, row in zip(images, rows_of(ended.out), strict=True):
        expected = reference_probabilities(tiny_model(family), image)
        got = {p["index"]: p["score"] for p in row["predictions"]}
        assert [*got] == np.argsort(-expected, kind="stable").tolist()
        np.testing.assert_allclose([got[i] for i in range(7)], expected, atol=2e-6)


def test_every_input_has_one_row_in_order(vit: Vit, tiny_model: Models, many: Path) -> None:
    ended = vit("classify", many, "-m", tiny_model("vit"), "-k", 1)
    rows = rows_of(ended.out)
    assert ended.code == 3
    assert [row["path"] for row in rows] == [str(many / f"img-{i:05}.jpg") for i in range(2000)]
    broken = [i for i, row in enumerate(rows) if "error" in row]
    assert broken == list(range(0, 2000, 67))
    assert {row["error"]["type"] for row in rows if "error" in row} == {"DecodeError", "NotAnImage"}
    assert "1,970 of 2,000 images done, 30 failed" in ended.err
    lines = ended.err.splitlines()
    assert sum(str(many) in line for line in lines) == 5 and len(lines) == 9
    more = sum(int(line.split()[2]) for line in lines if re.fullmatch(r"vit: \w+: \d+ more", line))
    assert more == 25


def test_any_number_of_workers_writes_the_same_bytes(
    vit: Vit, tiny_model: Models, many: Path
) -> None:
    images = sorted(many.iterdir())[:200]
    outputs = {
        vit("classify", *images, "-m", tiny_model("vit"), "-j", workers).out
        for workers in (0, 1, 2, 5)
    }
    assert len(outputs) == 1


def test_another_batch_size_gives_the_same_numbers(
    vit: Vit, tiny_model: Models, many: Path
) -> None:
    images = sorted(many.iterdir())[:40]
    runs = [
        rows_of(vit("classify", *images, "-m", tiny_model("vit"), "-b", size, "-j", 0).out)
        for size in (1, 7, 16)
    ]
    for one, *others in zip(*runs, strict=True):
        for other in others:
            for a, b in zip(one.get("predictions", []), other.get("predictions", []), strict=True):
                assert a["index"] == b["index"]
                assert a["score"] == pytest.approx(b["score"], abs=1e-6 + 1e-9)


def test_csv_and_tsv_read_back(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    good, bad = photos.good[0], next(iter(photos.bad))
    for name, delimiter in (("o.csv", ","), ("o.tsv", "\t")):
        vit("classify", good, bad, "-m", tiny_model("vit"), "-k", 2, "-o", name)
        text = (tmp_path / name).read_text("utf-8")
        header, *rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
        assert header == ["path", "rank", "label", "index", "score", "error"]
        assert [row[:2] for row in rows] == [[str(good), "1"], [str(good), "2"], [str(bad), ""]]
        assert rows[-1][-1].startswith(photos.bad[bad])


def test_several_models_average_their_probabilities(
    vit: Vit, tiny_model: Models, photos: Corpus
) -> None:
    image = photos.good[0]
    names = ["vit", "deit"]
    specs = [word for name in names for word in ("-m", tiny_model(name))]
    [row] = rows_of(vit("classify", image, *specs, "-k", 7).out)
    singles = []
    for name in names:
        [single] = rows_of(vit("classify", image, "-m", tiny_model(name), "-k", 7).out)
        scores = {p["index"]: p["score"] for p in single["predictions"]}
        singles.append([scores[i] for i in range(7)])
    got = {p["index"]: p["score"] for p in row["predictions"]}
    np.testing.assert_allclose([got[i] for i in range(7)], np.mean(singles, axis=0), atol=2e-6)


def test_threshold_and_logits(vit: Vit, tiny_model: Models, photos: Corpus) -> None:
    image = photos.good[0]
    model = tiny_model("vit")
    [row] = rows_of(vit("classify", image, "-m", model, "--threshold", "0.2").out)
    assert row["predictions"]
    assert all(p["score"] >= 0.2 for p in row["predictions"])
    [none] = rows_of(vit("classify", image, "-m", model, "--threshold", "1").out)
    assert none["predictions"] == []
    [raw] = rows_of(vit("classify", image, "-m", model, "--scores", "logit", "-k", 7).out)
    logits = {p["index"]: p["score"] for p in raw["predictions"]}
    expected = reference_probabilities(model, image)
    probs = torch.tensor([logits[i] for i in range(7)]).softmax(-1).numpy()
    np.testing.assert_allclose(probs, expected, atol=3e-6)


def test_output_is_whole_or_partial(
    vit: Vit, tiny_model: Models, photos: Corpus, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    args = ("classify", photos.good[0], "-m", tiny_model("vit"), "-o", out)
    assert vit(*args).code == 0
    before = out.read_bytes()
    again = vit(*args)
    assert again.code == 1
    assert again.err.startswith(f"vit: {out} exists")
    assert "--overwrite" in again.err
    assert out.read_bytes() == before
    assert vit(*args, "--overwrite").code == 0
    assert {p.name for p in tmp_path.iterdir()} == {"out.jsonl", ".out.jsonl.journal"}


def test_a_closed_pipe_ends_quietly(
    tiny_model: Models, many: Path, scripts: Path, clean_env: dict[str, str]
) -> None:
    command = [scripts / "vit", "classify", many, "-m", tiny_model("vit")]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_env
    )
    assert process.stdout is not None
    assert process.stderr is not None
    json.loads(process.stdout.readline())
    process.stdout.close()
    assert process.wait(20) == 141
    said = process.stderr.read().decode().splitlines()
    assert all(re.match("vit: (DecodeError|NotAnImage): |vit: more images failed", s) for s in said)


def test_a_list_from_find(vit: Vit, tiny_model: Models, tmp_path: Path, photos: Corpus) -> None:
    odd = os.fsencode(tmp_path) + b'/caf\xe9\n "x".png'
    Path(os.fsdecode(odd)).write_bytes(photos.good[-1].read_bytes())
    ended = vit("classify", "-0", "-", "-m", tiny_model("vit"), input=odd + b"\0")
    [row] = rows_of(ended.out)
    import base64

    assert base64.b64decode(row["path_bytes"]) == odd
    assert "\ufffd" in row["path"]


def test_an_empty_list_is_a_run_of_no_images(vit: Vit, tiny_model: Models) -> None:
    ended = vit("classify", "-", "-m", tiny_model("vit"), input=b"")
    assert (ended.code, ended.out) == (0, b"")
    assert ended.err.startswith("vit: standard input names no images\nvit: 0 images in ")
    Path("none.txt").touch()
    ended = vit("classify", "-0", "--files-from", "none.txt", "-m", tiny_model("vit"))
    assert (ended.code, ended.out) == (0, b"")
    assert ended.err.startswith("vit: none.txt names no images\nvit: 0 images in ")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("x.jpg", "-b", "0"), 2, "batch-size"),
        (("x.jpg", "-j", "many"), 2, "--workers many"),
        (("x.jpg", "--image-size", "0"), 2, "--image-size 0"),
        (("x.jpg", "--image-size", "65x64"), 2, "the nearest is 64x64"),
        (("x.jpg", "--max-pixels", "lots"), 2, "--max-pixels lots"),
        (("x.jpg", "--no-such-option"), 2, "has no option --no-such-option"),
        (("x.jpg", "--format", "xml"), 2, "xml"),
        (("x.jpg", "-o", "out.xyz"), 2, "known are jsonl, csv, tsv"),
        (("x.jpg", "-o", "no/such/folder/out.csv"), 1, "cannot write to"),
        (("x.jpg", "--device", "tpu"), 1, "unknown device"),
        (("empty",), 1, "no images in empty"),
        (("*.nothing",), 1, "no file matches"),
        (("x.jpg",), 3, "NotFound: x.jpg: no such file"),
    ],
)
def test_a_mistake_is_one_clear_line(
    vit: Vit, tiny_model: Models, tmp_path: Path, args: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    ended = vit("classify", *args, "-m", tiny_model("vit"))
    assert ended.code == code, ended.err
    assert said in ended.err
    assert len(ended.err.splitlines()) <= 5


def test_a_backbone_cannot_classify_and_says_what_can(vit: Vit, tiny_model: Models) -> None:
    ended = vit("classify", "x.jpg", "-m", tiny_model("dinov2"))
    assert (ended.code, ended.out) == (1, b"")
    assert "without a classifier" in ended.err
    assert "vit embed" in ended.err


def session_of(pid: int) -> list[str]:
    """The processes that a process and its children left behind."""
    found = subprocess.run(["pgrep", "-s", str(pid)], capture_output=True, text=True)
    return found.stdout.split()


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_a_signal_ends_the_run_in_good_order(
    tiny_model: Models,
    many: Path,
    tmp_path: Path,
    vits: ForkServer,
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "out.jsonl"
    child = vits.start("classify", many, "-b", "1", "-o", out, "-m", tiny_model("vit"))
    partial = tmp_path / "out.jsonl.partial"
    deadline = time.monotonic() + 60
    while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    child.kill(number)
    assert child.wait() in (code, -number)
    assert "interrupted after" in child.err
    assert "Traceback" not in child.err
    assert not out.exists()
    assert [json.loads(line) for line in partial.read_bytes().splitlines()]
    deadline = time.monotonic() + 5
    while (left := session_of(child.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not left, "a worker is still alive"


@pytest.mark.slow
def test_memory_does_not_depend_on_the_number_of_images(
    tiny_model: Models, many: Path, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    """500 and 5,000 images: the peak of the main process, as the kernel counts it."""
    script = (
        "import resource, sys; from vitcli.cli import main; code = main(sys.argv[1:]);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)"
    )
    good = [path for i, path in enumerate(sorted(many.iterdir())) if i % 67]

    def peak(count: int) -> int:
        listed = tmp_path / "list.txt"
        listed.write_text("\n".join(str(good[i % len(good)]) for i in range(count)))
        args = ["classify", "--files-from", listed, "-m", tiny_model("vit"), "-o", "/dev/null"]
        out = subprocess.run(
            [sys.executable, "-c", script, *map(str, args), "--format", "jsonl", "-q"],
            capture_output=True,
            text=True,
            check=True,
            env=clean_env,
        )
        return int(out.stdout)

    small, large = peak(500), peak(5000)
    assert large < small * 1.1, f"{small} kB for 500 images, {large} kB for 5,000"


@pytest.mark.parametrize("k", [1, 4, 5, 7, 9])
def test_of_equal_scores_the_lower_index_is_first(k: int) -> None:
    """Whether or not scores are equal, and whether they are among the best."""
    drawn = np.random.default_rng(k).random((40, 7), np.float32)
    holes = np.where(drawn < 0.9, np.log(drawn), np.float32(np.nan))
    for scores in (drawn, np.floor(drawn * 3), holes):
        values, places = top_k(scores, k)
        order = np.argsort(-scores, axis=-1, kind="stable")[:, :k]
        np.testing.assert_array_equal(places, order)
        np.testing.assert_array_equal(values, np.take_along_axis(scores, order, axis=-1))


@pytest.mark.parametrize("function", ["softmax", "sigmoid", "none"])
def test_the_scores_of_numpy_are_those_of_torch_but_for_the_last_digit(
    function: ScoreFunction,
) -> None:
    """Scores that round to 1 or are equal do so in both, as do logits far from 0."""
    logits = np.random.default_rng(0).normal(0, 8, (50, 20)).astype(np.float32)
    logits[0], logits[1], logits[2, :3] = 200, -200, (90, 90, -1e4)
    found, expected = (to_scores(logits, function, engine) for engine in ("onnx", "torch"))
    assert found.dtype == expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=5e-7, atol=1e-37)
    np.testing.assert_array_equal(found[:2], expected[:2])
    several = [logits, logits * 2, logits / 3]
    means = [averaged(several, engine) for engine in ("onnx", "torch")]
    np.testing.assert_allclose(*means, rtol=5e-7, atol=1e-5)
