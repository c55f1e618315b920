"""`vit attention`: pictures in a tree like the inputs', a line for each image, nothing lost."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from tests.conftest import Vit
from tests.fixtures.photos import Corpus, many_photos, photo
from tests.fixtures.swin import tiny_swin
from vitcli.sinks.picture_names import PictureNames

Models = Callable[[str], Path]
GRID = [8, 8]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures, one of them in a folder, and one that is broken."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name in ("a.png", "b.png", "deep/c.png"):
        photo(name, 80, 60).save(tmp_path / "in" / name)
    (tmp_path / "in" / "bad.jpg").write_text("no picture")
    return tmp_path


@pytest.fixture
def look(vit: Vit) -> Vit:
    """`vit attention` that decodes and draws in this process: workers take a second to start."""
    return lambda *args, **how: vit("attention", "-j", "0", *args, **how)


def rows_of(text: bytes) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_tree_of_the_pictures_is_that_of_the_inputs(vit: Vit, folder: Path) -> None:
    ended = vit("attention", "in", "-m", "demo", "--out", "maps")
    assert ended.code == 3
    rows = rows_of(ended.out)
    assert rows[0] == {
        "path": "in/a.png",
        "files": ["maps/in/a.png"],
        "method": "raw",
        "layer": 4,
        "head": "mean",
        "grid": GRID,
    }
    assert rows[2]["error"]["type"] == "NotAnImage"
    assert [row["path"] for row in rows] == ["in/a.png", "in/b.png", "in/bad.jpg", "in/deep/c.png"]
    assert set(tree(folder / "maps")) == {
        "in/a.png",
        "in/b.png",
        "in/deep/c.png",
        "attention.jsonl",
        ".attention.jsonl.journal",
        ".drawn-by-vit",
    }
    assert (folder / "maps" / "attention.jsonl").read_bytes() == ended.out
    assert Image.open(folder / "maps" / "in" / "a.png").size == (80, 60)
    assert "3 of 4 images done, 1 failed" in ended.err


def test_raw_maps_are_transformers_attentions(
    look: Vit, tiny_model: Models, tmp_path: Path
) -> None:
    model = tiny_model("deit-distilled")
    images = [tmp_path / f"{name}.png" for name in "ab"]
    for image in images:
        photo(image.name, 96, 64).save(image)
    args = ("--layer", "1,-1", "--heads", "all", "--raw", "--size", "40")
    ended = look("a.png", "b.png", "-m", model, "--out", "maps", *args)
    assert ended.code == 0, ended.err
    processor = transformers.AutoImageProcessor.from_pretrained(model)
    network = transformers.AutoModel.from_pretrained(model, attn_implementation="eager")
    for image, row in zip(images, rows_of(ended.out), strict=True):
        pixels = processor(Image.open(image), return_tensors="pt")
        with torch.inference_mode():
            attentions = network(**pixels, output_attentions=True).attentions
        for layer, number in (("layer01", 0), ("layer03", -1)):
            maps = np.load(tmp_path / "maps" / f"{image.stem}.{layer}.npy")
            assert (maps.dtype, maps.shape) == (np.float32, (4, 8, 8))
            expected = attentions[number][0, :, 0, 2:].unflatten(1, (8, 8)).numpy()
            np.testing.assert_allclose(maps, expected, atol=1e-5)
            assert Image.open(tmp_path / "maps" / f"{image.stem}.{layer}.head04.png").size == (
                40,
                27,
            )
        assert (row["layer"], row["head"], row["grid"]) == ([1, 3], [1, 2, 3, 4], GRID)
        assert len(row["files"]) == 2 * 4 + 2


@pytest.mark.parametrize("method", ["rollout", "grad", "similarity"])
@pytest.mark.parametrize("style", ["panel", "grid", "mask"])
def test_methods_and_styles_go_together(look: Vit, folder: Path, method: str, style: str) -> None:
    args = ("--method", method, "--style", style, "--image-size", "32x48", "--format", "jpg")
    ended = look("in/a.png", "-m", "demo", "--out", "maps", *args)
    assert ended.code == 0, ended.err
    [row] = rows_of(ended.out)
    assert (row["method"], row["grid"]) == (method, [8, 12])
    assert row["layer"] == ("all" if method == "grad" else 4)
    assert ("class" in row) == (method == "grad")
    assert ("predictions" in row) == (style == "panel" or method == "grad")
    assert Image.open(folder / "maps/in/a.jpg").format == "JPEG"


def test_a_class_is_named_or_numbered(look: Vit, tiny_model: Models, folder: Path) -> None:
    model = tiny_model("vit")
    shown = []
    for target in ("great auk", "1", "top1", "fern"):
        args = ("--method", "grad", "--class", target, "--raw", "--overwrite", "--out", "maps")
        ended = look("in/a.png", "-m", model, *args)
        assert ended.code == 0, ended.err
        shown.append(
            (rows_of(ended.out)[0]["class"]["label"], (folder / "maps/in/a.npy").read_bytes())
        )
    assert [label for label, _ in shown[:2]] == ["great auk"] * 2
    assert shown[0] == shown[1] != shown[3]
    ended = look("in/a.png", "-m", model, "--method", "grad", "--class", "frn", "-o", "x")
    assert (ended.code, "did you mean fern?" in ended.err) == (2, True)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_an_interrupted_run_goes_on_to_the_same_files(
    vit: Vit, tmp_path: Path, workers: str
) -> None:
    many_photos(tmp_path / "in", 12, broken=(3,))
    run = ("attention", "in", "-m", "demo", "-b", "2", "-j", workers, "--out")
    assert vit(*run, "whole").code == 3
    assert vit(*run, "maps").code == 3
    # As a run that was killed after its third batch, with a picture that was half written.
    maps, journal = tmp_path / "maps", tmp_path / "maps" / ".attention.jsonl.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    commits = [n for n, line in enumerate(lines) if b'"files"' in line]
    journal.unlink()
    (maps / "attention.jsonl.partial.journal").write_bytes(b"".join(lines[: commits[4] + 1]))
    (maps / "attention.jsonl").rename(maps / "attention.jsonl.partial")
    (maps / "in" / "img-00009.png").unlink()
    (maps / "in" / "img-00007.png").write_bytes(b"half")
    refused = vit(*run, "maps")
    assert refused.code == 1 and "--resume continues it" in refused.err
    ended = vit(*run, "maps", "--resume")
    assert ended.code == 3, ended.err
    assert len(rows_of(ended.out)) == 6
    whole = tree(tmp_path / "whole")
    for name, data in tree(maps).items():
        if not name.startswith("."):
            assert data.replace(b"maps/", b"whole/") == whole[name] or data == whole[name], name
    again = vit(*run, "maps", "--resume")
    assert (again.code, "already complete" in again.err) == (3, True)
    changed = vit(*run, "maps", "--resume", "--alpha", "0.3")
    assert changed.code == 1 and "was made with --style" in changed.err


def test_pictures_of_an_earlier_run_are_not_inputs(vit: Vit, look: Vit, folder: Path) -> None:
    for more in ((), ("--overwrite",)):
        ended = look("in", "-m", "demo", "--out", "in/maps", *more)
        assert (ended.code, len(rows_of(ended.out))) == (3, 4), ended.err
    assert "in/maps holds images that vit has drawn: left out" in ended.err
    ended = vit("classify", "in", "-m", "demo")
    assert len(rows_of(ended.out)) == 4
    ended = look("in/**/*.png", "-m", "demo", "--out", "in/maps", "--overwrite")
    assert len(rows_of(ended.out)) == 3
    ended = look("in", "-m", "demo", "--out", ".")
    assert (ended.code, "would lie among the images" in ended.err) == (1, True)
    ended = look("in", "-m", "demo", "--out", "in", "--overwrite")
    assert (ended.code, "would lie among the images" in ended.err) == (1, True)
    assert sorted(f.name for f in folder.glob("in/*.png")) == ["a.png", "b.png"]


def test_nobody_elses_files_are_touched(look: Vit, folder: Path) -> None:
    ended = look("in", "-m", "demo", "--out", "in/deep")
    assert (ended.code, "holds files that vit has not written" in ended.err) == (1, True)
    (folder / "notes").write_text("mine")
    ended = look("in", "-m", "demo", "--out", "notes")
    assert (ended.code, "is not a folder" in ended.err) == (1, True)
    ended = look("in", "-m", "no-such-folder", "--offline", "--out", "maps")
    assert ended.code == 1
    assert not (folder / "maps").exists()
    assert look("in", "-m", "demo", "--out", "maps").code == 3
    ended = look("in", "-m", "demo", "--out", "maps")
    assert (ended.code, "exists" in ended.err) == (1, True)


def test_every_odd_photo_has_its_row(look: Vit, photos: Corpus) -> None:
    paths = [*photos.good, *photos.bad]
    ended = look(*paths, "-m", "demo", "--out", "maps", "--size", "64")
    assert ended.code == 3
    rows = rows_of(ended.out)
    for path, row in zip(paths, rows, strict=True):
        assert row.get("error", {}).get("type") == photos.bad.get(path), row


def test_names_of_any_length_and_with_dots_have_pictures(look: Vit, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    names = ["n" * 251 + ".png", "鳥" * 83 + "x.png", "two words.png"]
    for name in names:
        photo(name, 20, 20).save(tmp_path / "in" / name)
    shutil.copy(tmp_path / "in" / names[2], tmp_path.parent / "above.png")
    ended = look("in", "../above.png", "-m", "demo", "--out", "maps")
    assert ended.code == 0, ended.err
    files = [row["files"][0] for row in rows_of(ended.out)]
    assert len(set(files)) == 4
    assert files[-1] == "maps/__/above.png"
    assert all((tmp_path / file).is_file() for file in files)


def test_no_two_inputs_have_one_picture(look: Vit, tmp_path: Path) -> None:
    """`../a.png` and `__/a.png`; members of one name, or with a dot; named from the root."""
    tmp_path.joinpath("in", "___").mkdir(parents=True)
    names = ["a.png", "___/a.png", "__/a.png", "x~0123456789abcdef0123456789abcdef.png"]
    (tmp_path / "in" / "__").mkdir()
    for name in names:
        photo(name, 20, 20).save(tmp_path / "in" / name)
    (tmp_path / "__").mkdir()
    photo("other", 20, 20).save(tmp_path / "__" / "above.png")
    photo("above", 20, 20).save(tmp_path.parent / "above.png")
    root = tmp_path.relative_to("/")
    tmp_path.joinpath(root, "in").mkdir(parents=True)
    photo("root", 20, 20).save(tmp_path / root / "in" / "a.png")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for member in ("m.png", "./m.png", "d//m.png", "d/m.png", "d/../m.png", "m.png"):
            data = (tmp_path / "in" / "a.png").read_bytes()
            info = tarfile.TarInfo(member)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    relative = ["../above.png", "__/above.png", "in", "t.tar", f"{root}/in/a.png"]
    ended = look(*relative, tmp_path / "in" / "a.png", "-m", "demo", "--out", "maps", "--raw")
    rows = rows_of(ended.out)
    files = [file for row in rows for file in row.get("files", ())]
    assert len(files) == len(set(files)) == 2 * 13, ended.err
    assert all((tmp_path / file).stat().st_size for file in files)
    assert ended.code == 3
    (failed,) = (row for row in rows if "error" in row)
    assert (failed["path"], "the same name" in failed["error"]["message"]) == ("t.tar/m.png", True)
    again = look(
        *relative, tmp_path / "in" / "a.png", "-m", "demo", "--out", "maps", "--raw", "--resume"
    )
    assert (again.code, "already complete" in again.err) == (3, True), again.err


def test_images_of_one_name_keep_their_suffixes_and_so_does_an_earlier_output(
    vit: Vit, tmp_path: Path
) -> None:
    """With names as they were before, each picture had the whole name of its image."""
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "b.png", "a.png", "c.PNG", "c.bmp", "d.png", "d.png.jpg", "e.jpg"):
        photo(name, 20, 20).save(tmp_path / "in" / name)
    (tmp_path / "in" / "e.txt").write_text("about e")
    run = ("attention", "in", "-m", "demo", "-j", "0", "--out", "maps")
    whole = ["a.jpg.png", "a.png.png", "c.PNG.png", "c.bmp.png", "d.png.jpg.png"]
    names = sorted([*whole, "b.png", "d.png", "e.png"])
    assert vit(*run).code == 0
    assert sorted(f.name for f in (tmp_path / "maps" / "in").iterdir()) == names

    lines = tmp_path / "maps" / "attention.jsonl"
    shutil.rmtree(tmp_path / "maps")
    old = pytest.MonkeyPatch()
    old.setattr(PictureNames, "of", lambda self, path, into: Path(path).name)
    assert vit(*run).code == 0
    old.undo()
    assert b'"maps/in/e.jpg.png"' in lines.read_bytes()
    assert "already complete" in vit(*run, "--resume").err
    photo("f", 20, 20).save(tmp_path / "in" / "f.jpg")
    photo("other", 30, 20).save(tmp_path / "in" / "e.jpg")
    (tmp_path / "maps" / "in" / "b.png.png").unlink()
    ended = vit(*run, "--resume")
    assert (ended.code, "6 of them before" in ended.err) == (0, True), ended.err
    files = {row["path"]: row["files"] for row in rows_of(lines.read_bytes())}
    assert files["in/a.jpg"] == ["maps/in/a.jpg.png"]
    assert [files[f"in/{n}"] for n in ("b.png", "e.jpg", "f.jpg")] == [
        [f"maps/in/{n}.png"] for n in "bef"
    ]


def test_a_missing_image_keeps_its_picture(vit: Vit, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    photo("a", 20, 20).save(tmp_path / "in" / "a.jpg")
    photo("b", 20, 20).save(tmp_path / "in" / "b.jpg")
    run = ("attention", "in", "-m", "demo", "-j", "0", "--out", "maps")
    assert vit(*run).code == 0
    drawn = (tmp_path / "maps" / "in" / "a.png").read_bytes()
    (tmp_path / "in" / "a.jpg").unlink()
    photo("new", 20, 30).save(tmp_path / "in" / "a.bmp")
    assert vit(*run, "--resume", "--keep-missing").code == 0
    assert (tmp_path / "maps" / "in" / "a.png").read_bytes() == drawn
    assert (tmp_path / "maps" / "in" / "a.bmp.png").exists()


@pytest.mark.parametrize("has_page", [False, True])
def test_pictures_that_are_gone_are_drawn_again(
    vit: Vit, folder: Path, tmp_path: Path, has_page: bool
) -> None:
    run = ("attention", "in", "-m", "demo", "-j", "0", "--out", "maps", "--raw")
    run = (*run, "--html", "maps.html") if has_page else run
    assert vit(*run).code == 3
    before = tree(tmp_path / "maps")
    pictures = sorted((tmp_path / "maps").rglob("*.png"))
    arrays = sorted((tmp_path / "maps").rglob("*.npy"))
    pictures[0].unlink()
    arrays[-1].write_bytes(b"")
    ended = vit(*run, "--resume")
    assert ended.code == 3
    assert "2 of them before" in ended.err
    after = tree(tmp_path / "maps")
    assert {n: d for n, d in after.items() if not n.startswith(".")} == {
        n: d for n, d in before.items() if not n.startswith(".")
    }
    assert "already complete" in vit(*run, "--resume").err


def test_somebodys_photographs_are_not_marked_as_drawn(look: Vit, vit: Vit, folder: Path) -> None:
    for out, more in (("in/deep", "--overwrite"), ("in/deep", "--resume"), (".", "--overwrite")):
        ended = look("in/*.png", "-m", "demo", "--out", out, more)
        assert ended.code == 1, ended.err
    assert not list(folder.rglob(".drawn-by-vit"))
    (folder / "notes").mkdir()
    (folder / "notes" / "a.txt").write_text("mine")
    assert look("in", "-m", "demo", "--out", "notes", "--overwrite").code == 3
    (folder / "notes" / ".drawn-by-vit").unlink()  # it is ours by its record, too
    assert look("in", "-m", "demo", "--out", "notes", "--overwrite").code == 3


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "no output is given"),
        (("--raw", "--show"), "--raw writes files"),
        (("--out", "x", "--layer", "5"), "the model has 4 blocks"),
        (("--out", "x", "--layer", "0"), "1 is the first block"),
        (("--out", "x", "--layer", "two"), "give a number"),
        (("--out", "x", "--layer", "pool"), "no attention pooling"),
        (("--out", "x", "--heads", "9"), "there are 4 heads"),
        (("--out", "x", "--heads", "best"), "give mean, max, min, all"),
        (("--out", "x", "--method", "rollout", "--heads", "all"), "fuse the heads"),
        (("--out", "x", "--method", "grad", "--layer", "2"), "leave out --layer"),
        (("--out", "x", "--method", "grad", "--class", "cat"), "no such class"),
        (("--out", "x", "--class", "3"), "add --method grad"),
        (("--out", "x", "--discard-ratio", "0.5"), "add --method rollout"),
        (("--out", "x", "--query", "here"), "a place in pixels"),
        (("--out", "x", "--query", "30%,130%"), "outside the image"),
        (("--out", "x", "--engine", "onnx"), "does not return attention weights"),
        (("--out", "x", "--mass", "0.9"), "add --style mask"),
        (("--out", "x.png"), "named like a picture"),
        (("--out", "x", "--head", "5"), "there are 4 heads"),
        (("--out", "x", "--method", "grad", "--class", "12"), "they count from 0 to 9"),
    ],
)
def test_what_does_not_go_together_is_refused(
    look: Vit, folder: Path, args: tuple[str, ...], said: str
) -> None:
    ended = look("in", "-m", "demo", *args)
    assert (ended.code, said in ended.err) == (2, True), ended.err
    assert not (folder / "x").exists()


def test_a_backbone_and_a_swin_are_told_what_they_lack(
    vit: Vit, look: Vit, tiny_model: Models, folder: Path
) -> None:
    ended = look("in", "-m", tiny_model("dinov2"), "--method", "grad", "--out", "x")
    assert (ended.code, "has no classifier" in ended.err) == (2, True)
    tiny_swin("SwinForImageClassification", folder / "swin")
    base = ("in/a.png", "-m", "swin", "--raw", "--out", "x")
    for args, said in (
        (("--method", "rollout"), "a Swin attends in windows\n  use --method grad or raw"),
        (("--query", "cls"), "has no class token\n  use --query X,Y"),
        (("--layer", "4"), "the model has 3 stages"),
        (("--layer", "1", "--heads", "3"), "--heads 3: there are 2 heads"),
    ):
        ended = look(*base, *args)
        assert (ended.code, said in ended.err) == (2, True), ended.err
    assert not (folder / "x").exists()
    for method, grids in (("raw", [[16, 16], [8, 8], [4, 4]]), ("grad", [[16, 16]])):
        layers = ("--layer", "all") if method == "raw" else ()
        ended = look(*base, "--method", method, *layers, "--overwrite")
        assert ended.code == 0, ended.err
        [row] = rows_of(ended.out)
        made = [np.load(folder / file) for file in row["files"] if file.endswith(".npy")]
        assert [list(maps.shape[1:]) for maps in made] == grids
        assert all(np.isfinite(maps).all() and maps.std() > 0 for maps in made)


def test_shards_into_one_folder_merge_into_the_lines_of_one_run(vit: Vit, folder: Path) -> None:
    run = ("attention", "in", "-m", "demo", "-j", "0", "-b", "1", "--out", "maps")
    assert vit(*run).code == 3
    whole = tree(folder / "maps")
    shutil.rmtree(folder / "maps")
    codes = {vit(*run, "--shard", f"{number}/2").code for number in (1, 2)}
    assert codes <= {0, 3}
    shards = [f"maps/attention-0000{number}-of-00002.jsonl" for number in (1, 2)]
    ended = vit("merge", *shards, "-o", "maps/attention.jsonl")
    assert ended.code == 3, ended.err
    made = tree(folder / "maps")
    assert {n for n in made if n.endswith(".png")} == {n for n in whole if n.endswith(".png")}
    assert all(made[name] == data for name, data in whole.items() if "journal" not in name)
    again = vit(*run, "--resume")
    assert (again.code, "already complete" in again.err) == (3, True)


def test_a_query_beside_the_picture_is_told(look: Vit, folder: Path) -> None:
    ended = look("in/a.png", "in/b.png", "-m", "demo", "--query", "70,900", "--raw", "--out", "x")
    assert [row["query"] for row in rows_of(ended.out)] == [[7, 7]] * 2
    assert "--query is outside of what the model sees of in/a.png: the nearest patch" in ended.err
    ended = look("in/a.png", "-m", "demo", "--query", "79,59", "--out", "y")
    assert "--query" not in ended.err


def test_head_means_heads_unless_it_is_a_file(look: Vit, folder: Path) -> None:
    for word in ("2", "max"):
        ended = look("in/a.png", "-m", "demo", "--head", word, "--out", "x", "--overwrite")
        assert str(rows_of(ended.out)[0]["head"]) == word
    ended = look("in/a.png", "-m", "demo", "--head", "none.pth", "--out", "y")
    assert (ended.code, "none.pth" in ended.err) == (1, True)


def test_a_preview_without_a_terminal_is_told(look: Vit, folder: Path) -> None:
    ended = look("in/a.png", "-m", "demo", "--show")
    assert (ended.code, len(rows_of(ended.out))) == (0, 1)
    assert "--show has no effect: there is no terminal" in ended.err


def test_a_preview_is_drawn_in_half_blocks(vit: Vit, folder: Path) -> None:
    from vitcli.cli.screen.preview import _lines

    text = _lines(np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3))
    assert text.plain == "▀▀▀\n▀▀▀"
    first = text.spans[0].style
    assert first.color.triplet == (0, 1, 2)
    assert first.bgcolor.triplet == (9, 10, 11)
