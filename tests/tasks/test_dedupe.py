"""Twins in an index: pairs, groups, files, the choice of the kept one, and the command."""

from __future__ import annotations

import csv
import json
import shutil
from contextlib import nullcontext
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import vitcli
from tests.conftest import Vit
from tests.fixtures.extras import Lazy, needs
from vitcli.errors import VitError
from vitcli.indexes.index import index_of
from vitcli.sinks.text import json_line, path_fields
from vitcli.tasks.dedupe import links, pairs
from vitcli.tasks.dedupe.known import read_pairs
from vitcli.tasks.dedupe.pairs import Pass, compare, exact
from vitcli.tasks.dedupe.threshold import chosen
from vitcli.tasks.dedupe.vectors import lengths, margin

PARQUET = pytest.param("parquet", marks=needs("parquet"))
pq = Lazy("pyarrow.parquet", "parquet")


def vectors(count: int = 301, width: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """Rows at random, some of them the same, one of zeros."""
    rows = np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)
    rows[5], rows[7], rows[-1] = 0, 2 * rows[9], rows[9]
    return rows


def cosines(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    exact = rows.astype(np.float64)
    norms = np.linalg.norm(exact, axis=1)
    exact /= np.where(norms > 0, norms, 1)[:, None]
    return exact @ exact.T


def greedy(scores: NDArray[np.float64], threshold: float) -> list[list[int]]:
    """Stars, written plainly: in order, each that is free takes all that are free and near."""
    free, groups = set(range(len(scores))), []
    for row in range(len(scores)):
        if row in free:
            near = [r for r in sorted(free) if r != row and scores[row, r] >= threshold - 1e-12]
            free -= {row, *near}
            groups += [[row, *near]] if near else []
    return groups


def rows_of(twins: list[vitcli.Twin]) -> list[list[int]]:
    groups: dict[int, list[int]] = {}
    for twin in twins:
        groups.setdefault(twin.group, []).append(twin.row)
    return list(groups.values())


@pytest.mark.parametrize(("tall", "wide"), [(4096, 2048), (64, 32), (50, 17), (17, 50)])
def test_pairs_are_those_of_numpy_whatever_the_blocks(
    tall: int, wide: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "TALL", tall)
    monkeypatch.setattr(pairs, "WIDE", wide)
    rows = vectors()
    index, norms = index_of(rows), lengths(index_of(rows))
    state = Pass.start(len(rows), 0.8 - margin(8))
    compare(index, norms, state, lambda done, total: None)
    found = exact(index, norms, state, 0.8)
    scores = cosines(rows)
    assert np.array_equal(np.stack([found.a, found.b]), np.nonzero(np.triu(scores >= 0.8, 1)))
    scores[np.eye(len(rows), dtype=bool)] = scores[5] = scores[:, 5] = -2
    best = pairs.best_scores(index, norms, state)
    expected = np.where(scores > 1 - 1e-9, -2, scores).max(axis=1)
    assert np.allclose(np.nan_to_num(best, nan=-2), expected, atol=1e-9)
    assert np.flatnonzero(state.same).tolist() == [7, 9, 300]


@pytest.mark.parametrize("most", [4_000_000, 50])
def test_stars_are_greedy_with_few_pairs_and_with_too_many(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRS", most)
    rows = vectors()
    for threshold in (0.8, 0.5):
        found = vitcli.dedupe(rows, threshold=threshold)
        assert rows_of(found) == greedy(cosines(rows), threshold)


def test_a_chain_is_one_group_only_for_single_linkage() -> None:
    angles = np.radians([0, 19, 40])
    rows = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    near = float(np.cos(np.radians(25)))
    assert rows_of(vitcli.dedupe(rows, threshold=near)) == [[0, 1]]
    assert rows_of(vitcli.dedupe(rows[[1, 0, 2]], threshold=near)) == [[0, 1, 2]]
    assert rows_of(vitcli.dedupe(rows, threshold=near, linkage="complete")) == [[0, 1]]
    assert rows_of(vitcli.dedupe(rows, threshold=near, linkage="single")) == [[0, 1, 2]]


@pytest.mark.parametrize("linkage", ["complete", "single"])
def test_a_linkage_that_holds_all_pairs_refuses_too_many(
    linkage: links.Linkage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRS", 50)
    monkeypatch.setattr("vitcli.tasks.dedupe.find.MAX_PAIRS", 50)
    with pytest.raises(VitError, match="more than 50 pairs reach the threshold 0") as error:
        vitcli.dedupe(vectors(), threshold=0.0, linkage=linkage)
    assert "--threshold 0." in str(error.value)


def test_identical_rows_are_one_group_without_their_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pairs, "MAX_PAIRS", 1000)
    found = vitcli.dedupe(np.ones((500, 4), np.float32), threshold=0.0)
    assert rows_of(found) == [list(range(500))]
    assert [twin.score for twin in found] == [1.0] * 500


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_rows(count: int) -> None:
    rows = np.ones((count, 4), np.float16)
    assert rows_of(vitcli.dedupe(rows)) == ([[0, 1]] if count == 2 else [])


def test_a_threshold_stands_between_pictures_and_twins() -> None:
    generator = np.random.default_rng(3)
    usual = 1 - 10 ** -generator.normal(0.7, 0.12, 1000)  # of images without a twin
    twins = 1 - 10 ** -generator.normal(2.5, 0.2, 400)
    same = np.zeros(1400, bool)
    value = chosen(np.concatenate([usual, twins]), same).value
    assert value < twins.min()
    assert np.count_nonzero(usual > value) <= 1
    assert chosen(usual[:5], same[:5]).value == 0.97
    assert chosen(usual - 0.6, same[:1000]).value == 0.9


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of images, some of them twice, in every way."""
    folder = tmp_path_factory.mktemp("planted")
    generator = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        small = generator.integers(0, 255, (6, 9, 3), np.uint8)
        Image.fromarray(small).resize((90, 60), 3).save(folder / f"{name}.png")
    shutil.copy(folder / "a.png", folder / "a-copy.png")
    image = Image.open(folder / "b.png")
    image.save(folder / "b-same.bmp")
    image.save(folder / "b-same.webp", lossless=True)
    image.transpose(Image.Transpose.ROTATE_90).save(folder / "b-turned.png", exif=_turned(6))
    image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "b-mirrored.png")
    Image.open(folder / "c.png").save(folder / "c-again.jpg", quality=90)
    return folder


def _turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def test_kinds_are_told_apart_by_the_files(planted: Path) -> None:
    paths: list[Path] = sorted(planted.iterdir())
    rows = np.eye(len(paths), dtype=np.float32)  # the vectors say nothing
    found = vitcli.dedupe(rows, paths=paths, threshold=0.99)
    groups = [
        [(Path(t.path).name, t.kind) for t in found if t.group == number]
        for number in sorted({t.group for t in found})
    ]
    assert sorted(groups[0]) == [("a-copy.png", "bytes"), ("a.png", "bytes")]
    assert sorted(name for name, kind in groups[1] if kind == "pixels") == [
        *("b-same.bmp", "b-same.webp", "b-turned.png", "b.png"),
    ]
    assert len(groups) == 2
    assert [t.why for t in found if t.keep] == ["first", "most bytes"]
    only = vitcli.dedupe(rows, paths=paths, kind="bytes")
    assert [(Path(t.path).name, t.keep, t.why) for t in only] == [
        ("a-copy.png", True, "first"),
        ("a.png", False, "later"),
    ]


@pytest.mark.parametrize("kind", ["bytes", "pixels", "near", "bytes,near", "bytes,pixels"])
def test_each_row_has_a_kind_that_was_asked_for(kind: str, planted: Path, tmp_path: Path) -> None:
    paths = [*sorted(planted.iterdir()), tmp_path / "no-image.jpg", tmp_path / "no-image-2.jpg"]
    for path in paths[-2:]:
        path.write_bytes(b"no image")
    rows = np.eye(len(paths), dtype=np.float32)
    with nullcontext() if kind == "near" else pytest.warns(RuntimeWarning):
        found = vitcli.dedupe(
            rows, paths=paths, kind=kind, threshold=0.9 if "near" in kind else None
        )
    assert {twin.kind for twin in found} <= set(kind.split(","))
    names = {Path(twin.path).name for twin in found}
    assert ("a-copy.png" in names) == (kind != "near")
    assert ("no-image.jpg" in names) == ("bytes" in kind)
    assert ("b-same.bmp" in names) == ("pixels" in kind)


def test_pixels_are_those_of_all_frames_and_their_opacity(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    for format in ("gif", "png", "webp", "tiff"):
        more = {"lossless": True} if format == "webp" else {}
        for name, second in (("a", frames[1]), ("b", frames[2])):
            file = tmp_path / f"{format}-{name}.{format}"
            frames[0].save(file, save_all=True, append_images=[second], **more)
    shape = Image.new("RGBA", (8, 6), (0, 0, 0, 0))
    shape.save(tmp_path / "hidden.png")
    shape.paste((0, 0, 0, 255), (2, 2, 4, 4))
    shape.save(tmp_path / "shape.png")
    shape.save(tmp_path / "shape.webp", lossless=True, exact=True)
    Image.new("RGBA", (8, 6), (9, 9, 9, 255)).save(tmp_path / "opaque.png")
    Image.new("RGB", (8, 6), (9, 9, 9)).save(tmp_path / "opaque.bmp")
    paths = sorted(tmp_path.iterdir())
    found = vitcli.dedupe(np.eye(len(paths), dtype=np.float32), paths=paths, kind="pixels")
    groups: dict[int, set[str]] = {}
    for twin in found:
        groups.setdefault(twin.group, set()).add(Path(twin.path).name)
    animated = [
        {f"{format}-{name}.{format}" for format in ("gif", "png", "webp", "tiff")} for name in "ab"
    ]
    expected = [{"opaque.png", "opaque.bmp"}, {"shape.png", "shape.webp"}, *animated]
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, expected))


@pytest.mark.parametrize(
    "wrong",
    [
        {"linkage": "foo"},
        {"keep": "foo"},
        {"kind": "zzz"},
        {"kind": ""},
        {"threshold": float("nan")},
    ],
)
def test_unknown_words_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(VitError, match=r"choose from|from 0 to 1"):
        vitcli.dedupe(np.eye(3, dtype=np.float32), **wrong)  # type: ignore[arg-type]


def test_the_largest_is_kept(tmp_path: Path) -> None:
    for name, side in (("s.png", 8), ("l.png", 32), ("m.png", 16)):
        Image.new("RGB", (side, side), "red").save(tmp_path / name)
    paths = [tmp_path / name for name in ("s.png", "l.png", "m.png")]
    found = vitcli.dedupe(np.ones((3, 4), np.float32), paths=paths, threshold=0.9)
    assert [(Path(t.path).name, t.why) for t in found] == [
        ("l.png", "largest"),
        ("s.png", "smaller"),
        ("m.png", "smaller"),
    ]


def test_a_file_under_two_names_is_no_twin_of_itself(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "a.png")
    paths = [f"{tmp_path}/link.png", f"{tmp_path}/a.png", f"{tmp_path}/./a.png"]
    assert vitcli.dedupe(np.ones((3, 4), np.float32), paths=paths, threshold=0.9) == []


def test_files_that_are_gone_are_said(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    rows = np.eye(2, 4, dtype=np.float32)
    with pytest.raises(VitError, match=r"gone/x\.png is not found from here"):
        vitcli.dedupe(rows, paths=["gone/x.png", "gone/y.png"], kind="bytes")
    with pytest.warns(RuntimeWarning, match=r"1 of 2 files could not be read: gone/x\.png"):
        assert (
            vitcli.dedupe(rows, paths=["gone/x.png", str(tmp_path / "a.png")], threshold=0.9) == []
        )


def write_index(folder: Path, rows: NDArray[np.floating], names: list[str]) -> None:
    np.save(folder / "feats.npy", rows)
    lines = (json_line({"row": row, **path_fields(name)}) for row, name in enumerate(names))
    (folder / "feats.index.jsonl").write_bytes(b"".join(lines))
    (folder / "feats.meta.json").write_text(json.dumps({"kind": "image"}))


def test_the_command_writes_rows(vit: Vit, tmp_path: Path) -> None:
    rows = vectors(40)
    write_index(tmp_path, rows, [f"{row}.jpg" for row in range(40)])
    done = vit("dedupe", "feats.npy", "--threshold", "0.8", "--kind", "near", "-o", "out.jsonl")
    assert done.code == 0, done.err
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    found = [r["row"] for r in records]
    assert found == [row for group in greedy(cosines(rows), 0.8) for row in group]
    assert records[0].keys() == {*("group", "path", "kind", "score", "keep", "why", "of", "row")}
    done = vit("dedupe", "feats.npy", "--threshold", "0.8", "--kind", "near", "--paths-only", "-0")
    gone = [r["path"] for r in records if not r["keep"]]
    assert done.out.decode().split("\0")[:-1] == gone


@needs("parquet")
def test_tables_and_a_page_have_the_same_rows(vit: Vit, tmp_path: Path) -> None:
    write_index(tmp_path, vectors(40), [f"{row}.jpg" for row in range(40)])
    words = ("dedupe", "feats.npy", "--threshold", "0.8", "--kind", "near", "-o")
    assert vit(*words, "out.csv", "--html", "twins.html", "--summary", "sum.json").code == 0
    assert vit(*words, "out.parquet").code == 0
    with (tmp_path / "out.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [int(line["row"]) for line in lines] == [row["row"] for row in table]
    assert {line["keep"] for line in lines} == {"true", "false"}
    page = (tmp_path / "twins.html").read_text()
    assert page.count('"members"') == len({line["group"] for line in lines})
    assert "threshold 0.8" in page
    assert json.loads((tmp_path / "sum.json").read_text())["exit_code"] == 0
    assert vit(*words, "out.csv").code == 1  # it exists
    assert vit(*words, "out.csv", "--overwrite").code == 0


def test_known_pairs_set_the_threshold(vit: Vit, tmp_path: Path) -> None:
    rows = vectors(40)
    write_index(tmp_path, rows, [f"{row}.jpg" for row in range(40)])
    (tmp_path / "known.csv").write_text("9.jpg,7.jpg\n./1.jpg,2.jpg\n")
    done = vit("dedupe", "feats.npy", "--kind", "near", "--like-pairs", "known.csv")
    score = cosines(rows)[1, 2]
    if score >= 0:
        assert done.code == 0, done.err
        assert "known pairs of twins" in done.err
        assert "1.jpg" in done.err


NAMES = ["a, b.jpg", " c\t\u2028\x0b.jpg", '"d".jpg', "[e]\udcff.jpg", "f\n.jpg", "f\r.jpg"]


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", PARQUET])
def test_known_pairs_may_be_an_output_of_dedupe(vit: Vit, tmp_path: Path, suffix: str) -> None:
    rows = np.repeat(np.eye(3, 4, dtype=np.float32), 2, axis=0)
    write_index(tmp_path, rows, NAMES)
    twins = ("dedupe", "feats.npy", "--kind", "near", "--keep", "first")
    assert vit(*twins, "--threshold", "0.9", "-o", f"out.{suffix}").code == 0
    pairs = read_pairs(tmp_path / f"out.{suffix}")
    assert [pair[:2] for pair in pairs] == [(NAMES[n + 1], NAMES[n]) for n in (0, 2, 4)]
    done = vit(*twins, "--like-pairs", f"out.{suffix}")
    assert done.code == 0 and "threshold 1" in done.err, done.err


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        (b"a\x0b.jpg\tb\xe2\x80\xa8.jpg\r\n\nc,d.jpg\te.jpg", 2),
        (b"\xef\xbb\xbfpath,other\n[1].jpg,[2].jpg\n", 1),
        (b'[1].jpg,{2}.jpg\n["a","b"]\n{"a":"x","b":"y","c":1}\n', 3),
        (b"a.jpg,b.jpg\nc.jpg\n", "line 2: not two paths: c.jpg"),
        (b"a.jpg,b.jpg,c.jpg\n", "line 1: not two paths"),
        (b'["a","b"]\n["a","b","c"]\n', "line 2: not two paths"),
        (b'{"path":"a.jpg"}\n', "line 1: not two paths"),
        (b"a.jpg,a.jpg\n", "no pairs in"),
        (b"PK\0\3", "is not UTF-8 text"),
    ],
)
def test_lists_of_pairs(tmp_path: Path, text: bytes, pairs: int | str) -> None:
    (tmp_path / "known.txt").write_bytes(text)
    if isinstance(pairs, int):
        assert len(read_pairs(tmp_path / "known.txt")) == pairs
        return
    with pytest.raises(VitError, match=pairs) as error:
        read_pairs(tmp_path / "known.txt")
    assert "known.txt" in error.value.message and error.value.hint


def test_a_pair_that_is_not_in_the_index_is_named(vit: Vit, tmp_path: Path) -> None:
    write_index(tmp_path, vectors(40), [f"{row}.jpg" for row in range(40)])
    (tmp_path / "known.csv").write_text("1.jpg,2.jpg\n3.jpg,gone.jpg\n")
    done = vit("dedupe", "feats.npy", "--kind", "near", "--like-pairs", "known.csv")
    assert done.code == 1 and "known.csv, line 2: gone.jpg is not in feats.npy" in done.err
    with pytest.raises(VitError, match=r"like_pairs\[1\]: zzz is not in"):
        vitcli.dedupe(vectors(), like_pairs=[("1", "2"), ("3", "zzz")])


@pytest.mark.parametrize(
    ("text", "line"), [("a.jpg\n", 1), ("a\tb\nc\n", 2), ('["a", 1]\n', 1), ("path,of\na,\n", 2)]
)
def test_a_line_that_is_no_pair_is_named(text: str, line: int, tmp_path: Path) -> None:
    (tmp_path / "pairs").write_text(text)
    with pytest.raises(VitError, match=f"line {line}: not two paths"):
        read_pairs(tmp_path / "pairs")


def test_an_output_is_no_file_of_the_index_and_no_image(vit: Vit, tmp_path: Path) -> None:
    write_index(tmp_path, np.eye(3, dtype=np.float32), ["0.jpg", "x.html", "2.jpg"])
    (tmp_path / "x.html").write_bytes(b"an image")
    (tmp_path / "link.jsonl").symlink_to("feats.index.jsonl")
    before = {file: file.read_bytes() for file in tmp_path.iterdir()}
    for command in (("dedupe", "feats.npy"), ("map", "feats.npy"), ("search", "feats.npy")):
        like = ("--like", "0") if command[0] == "search" else ()
        for option, name in (
            *(("-o", "feats.index.jsonl"), ("-o", "link.jsonl"), ("--html", "feats.meta.json")),
            *(("--html", "x.html"), ("--html", "./x.html"), ("--summary", "feats.index.jsonl")),
        ):
            ended = vit(*command, *like, option, name, "--overwrite")
            assert ended.code in (1, 2), (command, option, name)
            assert "of the index" in ended.err, (command, option, name, ended.err)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_interrupted_comparison_is_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, vit: Vit
) -> None:
    monkeypatch.setattr(pairs, "TALL", 16)
    monkeypatch.setattr(pairs, "WIDE", 16)
    write_index(tmp_path, vectors(101), [f"{row}.jpg" for row in range(101)])
    words = ("dedupe", "feats.npy", "--kind", "near", "--threshold", "0.6", "-o")
    assert vit(*words, "whole.jsonl").code == 0
    take, calls = pairs._take, []

    def interrupted(*args: object) -> None:
        calls.append(1)
        if len(calls) == 9:
            raise_signal(SIGINT)
        take(*args)  # type: ignore[arg-type]

    from signal import SIGINT, raise_signal

    monkeypatch.setattr(pairs, "_take", interrupted)
    stopped = vit(*words, "out.jsonl")
    assert stopped.code == 130
    assert "--resume" in stopped.err
    assert not (tmp_path / "out.jsonl").exists()
    first = len(calls)
    assert vit(*words, "out.jsonl", "--resume").code == 0
    assert first == 9
    assert len(calls) == len(list(pairs._blocks(101)))
    assert (tmp_path / "out.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not list(tmp_path.glob("*.blocks"))


def test_embedded_photographs_have_their_twins_found(vit: Vit, tmp_path: Path) -> None:
    """Shards, an archive, fp16, a broken file; a mirrored image is no twin."""
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(30):
        small = generator.integers(0, 255, (5, 7, 3), np.uint8)
        Image.fromarray(small).resize((280, 200), 3).save(folder / f"{number:02}.png")
    first, second, third, fourth = (Image.open(folder / f"0{n}.png") for n in range(4))
    first.save(folder / "00-again.jpg", quality=60)
    second.resize((140, 100)).save(folder / "01-half.png")
    third.crop((6, 4, 274, 196)).save(folder / "02-cut.png")
    fourth.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "03-mirrored.png")
    with ZipFile(tmp_path / "more.zip", "w") as archive:
        archive.write(folder / "05.png", "05.png")
    words = ("photos", "more.zip", "-m", "demo", "-j", "0", "--pool", "mean", "--store", "fp16")
    assert vit("embed", *words, "-o", "feats.npy").code == 0
    for part in "12":
        assert vit("embed", *words, "-o", "part.npy", "--shard", f"{part}/2").code == 0
    (folder / "07.png").write_bytes(b"no image any more")
    for index in ("feats.npy", "part-*.npy"):
        done = vit("dedupe", index, "-j", "0")
        assert done.code == 3, done.err
        assert "07.png" in done.err
        rows = [json.loads(line) for line in done.out.splitlines()]
        gone = [row for row in rows if not row["keep"]]
        assert {(row["kind"], *sorted((row["path"], row["of"]))) for row in gone} == {
            ("near", "photos/00-again.jpg", "photos/00.png"),
            ("near", "photos/01-half.png", "photos/01.png"),
            ("near", "photos/02-cut.png", "photos/02.png"),
            ("bytes", "more.zip/05.png", "photos/05.png"),
        }
    assert "threshold 0." in done.err
