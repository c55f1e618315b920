"""All images of Pillow's own test suite in one run: hundreds of valid, odd and hostile files."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from tests.faults.rules import DEMO, watched
from tests.fixtures.extras import Lazy, needs
from tests.fixtures.forks import ForkServer
from vitcli.images.archives import is_archive
from vitcli.images.decode import decode
from vitcli.images.kinds import allowed_formats
from vitcli.records import ImageRef, Limits, Preprocess, Sample

SECONDS_TO_FETCH = 300
LIMITS = Limits()
pillow_heif = Lazy("pillow_heif", "heif")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images in the source release of the Pillow that is installed; it is kept in a cache."""
    name = f"pillow-{PIL.__version__}"
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitcli-tests"
    source = cache / f"{name}.tar.gz"
    if not source.exists():
        fetch(name, cache)
    folder = tmp_path_factory.mktemp("pillow")
    with tarfile.open(source) as archive:
        inside = f"{name}/Tests/images/"
        members = [m for m in archive.getmembers() if m.isfile() and m.name.startswith(inside)]
        archive.extractall(folder, members, filter="data")
    return folder / inside


def fetch(name: str, cache: Path) -> None:
    options = ("--no-binary", ":all:", "--no-deps", "--retries", "1", "--timeout", "20")
    download = [sys.executable, "-m", "pip", "download", "-q", *options, "-d", str(cache)]
    try:
        subprocess.run(
            [*download, name.replace("-", "==")],
            capture_output=True,
            text=True,
            check=True,
            timeout=SECONDS_TO_FETCH,
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or ["no reason given"])[-1]
        pytest.skip(f"Pillow's source release cannot be fetched: {reason}")
    except (OSError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Pillow's source release cannot be fetched: {error}")


@pytest.fixture(scope="module")
def files(corpus: Path) -> list[Path]:
    """All but the tars, whose members would be the inputs."""
    found = sorted(
        (p for p in corpus.rglob("*") if p.is_file() and not is_archive(str(p))), key=os.fsencode
    )
    assert len(found) > 900
    return found


def by_pillow(path: Path) -> Image.Image | None:
    """The upright-as-stored RGB picture that Pillow makes of a file within the limits."""
    saved, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, LIMITS.max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pillow_heif.register_heif_opener()
            with Image.open(path, formats=[*allowed_formats("common"), "HEIF"]) as image:
                image.load()
                rgb = image.convert("RGB")
                rgb.info = {"deep": image.mode[0] in "IF" or image.format == "TIFF"}
                return rgb
    except Exception:  # Pillow raises a dozen kinds
        return None
    finally:
        Image.MAX_IMAGE_PIXELS = saved


@pytest.mark.slow
@needs("heif")
def test_the_corpus_has_a_row_each_where_pillow_reads_it_a_good_one(
    vits: ForkServer, corpus: Path, files: list[Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """One run over all of it: no crash, no hang, bounded memory, and only Pillow's own failures.

    What Pillow reads, `decode` has pixel for pixel, but for deep images and TIFFs.
    """
    listed = b"".join(os.fsencode(path) + b"\0" for path in files)
    ended = watched(vits, "classify", "-0", "-", *DEMO, cwd=corpus, stdin=listed, inputs=files)
    assert ended.code == 3
    assert max(ended.peaks.values()) < 1200, f"{ended.peaks} MB"

    good = {row["path"] for row in ended.rows if "predictions" in row}
    compared = 0
    for path in files:
        expected = by_pillow(path)
        is_good = str(path) in good
        if expected is None:  # 12 bits are unpacked by us
            assert not is_good or path.name == "12bit.cropped.tif", path
        elif not expected.info["deep"]:  # of numbers without a range: refused
            assert is_good, path
        if expected is None or str(path) not in good:
            continue
        size = (expected.height, expected.width)
        found = decode(ImageRef(0, str(path)), [Preprocess(size, size, exif=False)], LIMITS)
        assert isinstance(found, Sample), (path, found)
        if not expected.info["deep"]:
            np.testing.assert_array_equal(found.pixels[0], np.asarray(expected), str(path))
            compared += 1
    assert compared > 500
    capfd.readouterr()  # what libtiff says of broken files
