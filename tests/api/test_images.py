"""Images in memory have the rows that the same images have as files."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import vitcli
from tests.fixtures.photos import Corpus, photo
from vitcli.errors import UsageError
from vitcli.records import Classified, Failure

Models = Callable[[str], Path]


@pytest.fixture(scope="module")
def model(tiny_model: Models) -> Any:
    return vitcli.load(str(tiny_model("vit")))


def as_rows(images: Any, model: Any, **options: object) -> list[tuple[str, object]]:
    """Each image in order: its name, and its embedding as bytes, or why it has none."""
    found = vitcli.embed(images, model=model, **{"workers": 0, **options})
    rows: dict[str, object] = {f.ref.path: (f.type, f.message) for f in found.failures}
    rows |= zip(found.paths, (row.tobytes() for row in found.embeddings), strict=True)
    return list(rows.items())


def test_a_pil_image_has_the_row_of_its_file(photos: Corpus, model: Any) -> None:
    """Every mode that files have, all EXIF orientations, and the first of several frames."""
    expected = as_rows(photos.good, model)
    assert len(expected) == len(photos.good)
    assert as_rows([Image.open(path) for path in photos.good], model) == expected
    loaded = [Image.open(path) for path in photos.good]
    for image in loaded:
        image.load()
    assert as_rows(loaded, model) == expected


def test_bytes_and_open_files_have_the_rows_of_their_files(photos: Corpus, model: Any) -> None:
    paths = (*photos.good, *photos.bad)
    expected = dict(as_rows(paths, model))
    assert len(expected) == len(paths)
    found = dict(as_rows((path.read_bytes() for path in paths), model))
    assert [found[f"image {n}"] for n in range(len(paths))] == [expected[str(p)] for p in paths]
    with contextlib.ExitStack() as opened:
        files = [opened.enter_context(path.open("rb")) for path in paths]
        assert dict(as_rows(files, model)) == expected


def test_images_are_turned_only_if_files_are(photos: Corpus, tiny_model: Models) -> None:
    turned = [path for path in photos.good if path.name.startswith("turned")]
    unturned = vitcli.load(str(tiny_model("vit")), exif=False)
    expected = as_rows(turned, unturned)
    assert len({row for _, row in expected}) > 4
    assert as_rows([Image.open(path) for path in turned], unturned) == expected


def test_a_failed_pil_image_keeps_its_place(photos: Corpus, model: Any) -> None:
    [cut] = [path for path in photos.bad if path.name == "cut-half.jpg"]
    rows = vitcli.classify([Image.open(cut), Image.open(photos.good[0])], model=model, workers=0)
    expected = vitcli.classify([cut, photos.good[0]], model=model, workers=0)
    assert [type(row) for row in rows] == [Failure, Classified]
    assert [(r.ref.path, r.ref.index) for r in rows] == [
        (r.ref.path, r.ref.index) for r in expected
    ]
    assert isinstance(rows[0], Failure) and isinstance(expected[0], Failure)
    assert (rows[0].type, rows[0].message) == (expected[0].type, expected[0].message)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_an_array_and_a_tensor_have_the_row_of_a_png(mode: str, tmp_path: Path, model: Any) -> None:
    image = photo("a", 70, 50).convert(mode)
    image.save(tmp_path / "a.png")
    [(_, expected)] = as_rows(tmp_path / "a.png", model)
    array = np.asarray(image)
    chw = np.atleast_3d(array).transpose(2, 0, 1)
    tensors = [torch.from_numpy(chw.copy()), torch.from_numpy(np.asfortranarray(chw))]
    if mode == "L":
        tensors.append(torch.from_numpy(array.copy()))
    backwards = np.asarray(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))[:, ::-1]
    several = [array, np.asfortranarray(array), backwards, *tensors]
    assert as_rows(several, model) == [(f"image {n}", expected) for n in range(len(several))]
    assert as_rows(array, model) == [("image 0", expected)]
    assert as_rows(tensors[0], model) == [("image 0", expected)]


def test_a_batch_is_several_images(model: Any) -> None:
    batch = np.stack([np.asarray(photo(name, 40, 30)) for name in "abc"])
    expected = as_rows(list(batch), model)
    assert [name for name, _ in expected] == ["image 0", "image 1", "image 2"]
    assert as_rows(batch, model) == expected
    assert as_rows(torch.from_numpy(batch).permute(0, 3, 1, 2), model) == expected


def test_deep_grey_of_any_byte_order_and_clear_images_are_as_in_files(
    tmp_path: Path, model: Any
) -> None:
    values = np.linspace(0, 65535, 48 * 32).astype(np.uint16).reshape(32, 48)
    deep = Image.fromarray(values)
    deep.save(tmp_path / "deep.png")
    swapped = Image.frombytes("I;16B", (48, 32), values.astype(">u2").tobytes())
    [(_, expected)] = as_rows(tmp_path / "deep.png", model)
    assert [row for _, row in as_rows([deep, swapped], model)] == [expected, expected]
    clear = photo("clear").convert("RGBA").convert("RGBa")
    [(_, row)] = as_rows(clear, model)
    assert row == as_rows(clear.convert("RGB"), model)[0][1]


def test_a_mixed_sequence_keeps_its_order(photos: Corpus, tmp_path: Path, model: Any) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for path in photos.good[:2]:
        (folder / path.name).symlink_to(path)
    bad = next(iter(photos.bad))
    array = np.asarray(photo("x"))

    def images() -> Iterator[object]:
        yield array
        yield folder
        yield None
        yield bad
        yield str(photos.good[2])
        yield photo("x")

    names = [str(folder / path.name) for path in photos.good[:2]]
    for given in (images(), list(images())):
        found = vitcli.classify(given, model=model, workers=2)
        expected = ["image 0", *names, "image 3", str(bad), str(photos.good[2]), "image 6"]
        assert [row.ref.path for row in found] == expected
        assert [row.ref.index for row in found] == list(range(7))
        assert [isinstance(row, Failure) for row in found] == [n in (3, 4) for n in range(7)]
        assert found[0].predictions == found[6].predictions


REFUSED = [
    (
        np.zeros((4, 4, 3), np.float32),
        "array of float32, (4, 4, 3): values are uint8, from 0 to 255",
    ),
    (np.zeros((4, 4, 4), np.uint8), "array of uint8, (4, 4, 4): an image is (H, W, 3), or (H, W)"),
    (np.zeros((3, 4, 4), np.uint8), "array of uint8, (3, 4, 4): an image is (H, W, 3), or (H, W)"),
    (np.zeros((0, 4, 3), np.uint8), "array of uint8, (0, 4, 3): an image is (H, W, 3), or (H, W)"),
    (np.zeros(7, np.uint8), "array of uint8, (7,): an image is (H, W, 3), or (H, W) if grey"),
    (torch.zeros(3, 4, 4), "tensor of float32, (3, 4, 4): values are uint8, from 0 to 255"),
    (torch.zeros(4, 4, 3, dtype=torch.uint8), "tensor of uint8, (4, 4, 3): an image is (3, H, W),"),
    (Image.new("I", (4, 4)), "integers of 32 bits without a known black and white: convert it to"),
    (io.StringIO("text"), "a file of text: open it with the mode 'rb'"),
    (b"", "empty file"),
    (["a list"], "list is not an image: an image is a path, bytes, an open file, a PIL.Image, a"),
]


@pytest.mark.parametrize(("image", "words"), REFUSED, ids=[words[:30] for _, words in REFUSED])
def test_what_is_no_image_says_what_it_is(image: object, words: str, model: Any) -> None:
    [failure] = vitcli.classify([image], model=model, workers=0)
    assert isinstance(failure, Failure)
    assert failure.message.startswith(words)


def test_an_open_file_is_read_from_where_it_stands(photos: Corpus, model: Any) -> None:
    data = photos.good[0].read_bytes()
    file = io.BytesIO(b"head" + data)
    file.seek(4)
    assert as_rows(file, model) == as_rows(data, model)
    [failure] = vitcli.classify(file, model=model, workers=0)
    assert isinstance(failure, Failure)
    assert failure.message == "an open file that is at its end: call seek(0)"
    file.close()
    [failure] = vitcli.classify(file, model=model, workers=0)
    assert isinstance(failure, Failure)
    assert (failure.type, failure.message) == ("Unreadable", "I/O operation on closed file.")


def test_images_in_memory_stay_unchanged(photos: Corpus, model: Any) -> None:
    """Their metadata, too."""
    [path] = [path for path in photos.good if path.name == "turned-6.jpg"]
    image = Image.open(path)
    before, info = image.copy().tobytes(), dict(image.info)
    as_rows(image, model)
    assert (image.tobytes(), image.info) == (before, info)


def test_rows_do_not_keep_the_bytes_of_images(model: Any) -> None:
    array = np.asarray(photo("x"))
    [row] = vitcli.classify(array, model=model, workers=0)
    [attended] = vitcli.attention(array, model=model, workers=0)
    for found in (row, attended):
        assert found.ref.member is not None and not found.ref.member.held


def test_attention_and_search_take_images_in_memory(
    photos: Corpus, tmp_path: Path, tiny_model: Models
) -> None:
    spec, image = str(tiny_model("vit")), Image.open(photos.good[0]).convert("RGB")
    [row] = vitcli.attention(image, model=spec, out=tmp_path / "maps", workers=0)
    assert row.files == (str(tmp_path / "maps" / "image 0.png"),)
    assert Path(row.files[0]).is_file()
    from vitcli.cli import main

    index = tmp_path / "feats.npy"
    paths = list(map(str, photos.good[:3]))
    assert main(["embed", *paths, "-m", spec, "-o", str(index), "-q", "-j", "0"]) == 0
    [found] = vitcli.search(index, image, k=1, workers=0)
    assert (found.query, found.kind) == ("image 0", "image")
    assert (found.hits[0].path, round(found.hits[0].score, 5)) == (paths[0], 1.0)


@pytest.mark.parametrize("images", [5, None, {"a": 1}, object()])
def test_what_cannot_be_several_images_is_refused(images: Any, model: Any) -> None:
    name = type(images).__name__
    with pytest.raises(UsageError, match=f"^{name} is neither an image nor several"):
        vitcli.classify(images, model=model)


def test_images_in_memory_are_not_shared_between_devices(tiny_model: Models) -> None:
    with pytest.raises(UsageError, match="some of these images are in memory"):
        vitcli.classify([photo("x")], model=str(tiny_model("vit")), devices=["cpu", "cpu"])


def test_images_are_taken_as_they_are_needed(tmp_path: Path, model: Any) -> None:
    """A folder that an iterator names has to have images, when it is reached."""
    taken: list[int] = []

    def images() -> Iterator[Image.Image | Path]:
        for number in range(5):
            taken.append(number)
            yield photo(str(number), 16, 16)
        yield tmp_path

    with pytest.raises(vitcli.VitError, match="no images in"):
        vitcli.embed(images(), model=model, workers=0, batch_size=2)
    assert taken == list(range(5))
