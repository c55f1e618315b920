"""Objects in a store (moto's S3, on this machine) and over HTTP, with faults on the way."""

from __future__ import annotations

import io
import json
import ssl
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import trustme

from tests.conftest import Vit
from tests.fixtures.store import Way, forget
from vitcli.errors import InputError
from vitcli.images.decode import decode
from vitcli.images.scan import Scan
from vitcli.images.sources import iter_refs, open_sources
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample

COMMON = ("-m", "demo", "-j", "0", "-b", "4")
SEVEN = Path(__file__).parents[2] / "examples" / "digit-7-0007.png"
PLAN = Preprocess(size=(32, 48), resize=(32, 48))
IMAGES = frozenset((".jpg",))
SCAN = Scan(IMAGES | {".tar"}, members=IMAGES)


@pytest.fixture(autouse=True)
def _reached(reached: Way) -> None:
    """In all of these tests."""


@pytest.mark.slow
def test_the_rows_are_those_of_files(
    vit: Vit, vit_process: Vit, store: tuple[Way, Path], tmp_path: Path
) -> None:
    """A prefix, a pattern, a tar, a zip, a table, over S3 and HTTP, with an error and a dropped
    connection each."""
    way, folder = store
    assert vit("embed", folder / "p", *COMMON, "-o", "files.npy").code == 3
    expected = (tmp_path / "files.npy").read_bytes()
    names = [path.name for path in sorted((folder / "p").iterdir())]
    for number, (url, prefix) in enumerate(
        {
            "s3://bkt/p/": "s3://bkt/p/",
            "s3://bkt/p/*.jpg": "s3://bkt/p/",
            "s3://bkt/t.tar": "s3://bkt/t.tar/",
            f"{way.url}/bkt/t.tar": f"{way.url}/bkt/t.tar/",
            "s3://bkt/t.zip": "s3://bkt/t.zip/",
            "s3://bkt/t.parquet": "s3://bkt/t.parquet/",
        }.items()
    ):
        way.faults.update({"img-00002.jpg": ["500"], "img-00003.jpg": ["drop"]})
        whole = "none" if url.endswith(("/", "g")) else url.rpartition("/")[2]
        way.faults[whole] = ["drop", "503"]
        out = f"{number}.npy"
        ended = vit("embed", url, *COMMON, "-o", out)
        assert ended.code == 3, ended.err
        assert not way.faults["img-00002.jpg" if whole == "none" else whole]
        assert (tmp_path / out).read_bytes() == expected
        index = [json.loads(line) for line in (tmp_path / f"{number}.index.jsonl").open()]
        assert [row["path"] for row in index] == [prefix + name for name in names]
    way.faults["img-00004.jpg"] = ["500", "drop"]
    words = ("s3://bkt/p/", "-m", "demo", "-j", "2", "-b", "4", "-o", "workers.npy")
    assert vit_process("embed", *words).code == 3
    assert not way.faults["img-00004.jpg"]
    assert (tmp_path / "workers.npy").read_bytes() == expected
    again = vit("embed", url, *COMMON, "-o", out, "--resume")
    assert "already complete" in again.err, again.err


def test_one_object_that_cannot_be_had_is_a_row(reached: Way) -> None:
    reached.faults.update({"img-00001.jpg": ["403"] * 99, "img-00002.jpg": ["500"] * 99})
    said = {}
    for name in ("img-00000", "img-00001", "img-00002", "none"):
        for url in (f"s3://bkt/p/{name}.jpg", f"{reached.url}/bkt/p/{name}.jpg"):
            got = decode(ImageRef(0, url), (PLAN,), Limits())
            said[url] = f"{got.type}: {got.message}" if isinstance(got, Failure) else "good"
    kinds = [text.partition(" after")[0][:26] for text in said.values()]
    denied, absent = "Unreadable: access is deni", "NotFound: no such object ("
    assert kinds[:4] == ["good", "good", denied, denied]
    assert kinds[6:] == [absent, absent]
    failing = list(said.values())[4:6]
    assert all(t.startswith("Unreadable: ") and t.endswith("after 5 tries") for t in failing), (
        failing
    )


def test_a_web_page_is_a_folder_where_it_ends_in_a_slash(reached: Way) -> None:
    """An image is not fetched to find that out."""
    url = f"{reached.url}/bkt/p/img-00000.jpg"
    assert [ref.path for ref in iter_refs(open_sources([url], scan=SCAN))] == [url]
    assert not reached.asked


def test_a_prefix_that_cannot_be_listed_ends_the_run(reached: Way) -> None:
    for url, why in (
        ("s3://bkt/q/", "no images in s3://bkt/q/"),
        ("s3://bkt/nowhere/", "no images in s3://bkt/nowhere/"),
        ("s3://nobody/p/", "cannot list s3://nobody/p/|no images in s3://nobody/p/"),
        ("nothing://bkt/p/", "nothing://bkt/p/: Protocol not known"),
    ):
        with pytest.raises(InputError, match=why):
            open_sources([url], scan=SCAN)


def test_ranges_of_a_zip_are_read(reached: Way) -> None:
    """Its directory, and the piece of each image, which may have a long extra field before it."""
    image = SEVEN.read_bytes()
    info = zipfile.ZipInfo("a.png")
    info.extra = b"\xff\xff" + (60_000).to_bytes(2, "little") + bytes(60_000)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(info, image)
        archive.writestr("b.png", image)
        archive.writestr("large.bin", bytes(9 << 20))
    reached.client.put_object(Bucket="bkt", Key="long.zip", Body=buffer.getvalue())
    scan = Scan(IMAGES, members=frozenset((".png",)))
    refs = list(iter_refs(open_sources(["s3://bkt/long.zip"], scan=scan)))
    assert [ref.path for ref in refs] == ["s3://bkt/long.zip/a.png", "s3://bkt/long.zip/b.png"]
    for ref in refs:
        got, plain = (decode(r, (PLAN,), Limits()) for r in (ref, ImageRef(0, str(SEVEN))))
        assert isinstance(got, Sample) and isinstance(plain, Sample), got
        np.testing.assert_array_equal(got.pixels[0], plain.pixels[0])
    reached.client.delete_object(Bucket="bkt", Key="long.zip")
    assert isinstance(gone := decode(refs[0], (), Limits()), Failure) and gone.type == "NotFound"


@pytest.mark.parametrize("name", ["none.zip", "none.tar", "none.parquet"])
def test_an_archive_that_is_not_there_is_a_row(reached: Way, name: str) -> None:
    (ref,) = iter_refs(open_sources([f"s3://bkt/{name}"], scan=SCAN))
    assert isinstance(got := decode(ref, (), Limits()), Failure) and got.type == "NotFound"


def test_a_changed_object_is_done_again(vit: Vit, reached: Way, store: tuple[Way, Path]) -> None:
    """By the details of the listing, without a request for each object; of one that is named by
    itself, over S3 and HTTP, by one request."""
    photos = [(store[1] / "p" / f"img-0000{n}.jpg").read_bytes() for n in (0, 1)]
    first, second = (data.ljust(max(map(len, photos)), b"\0") for data in photos)  # of one size
    put = partial(reached.client.put_object, Bucket="bkt", ACL="public-read")
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        put(Key=f"c/{name}", Body=first)
    single = f"{reached.url}/bkt/c/b.jpg"
    words = ("embed", "s3://bkt/c/", single, *COMMON, "-o", "c.npy")
    assert vit(*words).code == 0
    assert [key for key in reached.asked if key.startswith("HEAD")] == ["HEAD b.jpg"]
    reached.asked.clear()
    forget()
    ended = vit(*words, "--resume")
    assert "already complete" in ended.err and not reached.asked & Counter(("a.jpg", "b.jpg"))
    put(Key="c/b.jpg", Body=second)
    forget()
    ended = vit(*words, "--resume")
    assert "4 images, 2 of them before" in ended.err, ended.err
    assert reached.asked["b.jpg"] == 2 and not reached.asked["a.jpg"]


@pytest.mark.slow
def test_https_with_a_certificate_of_ones_own(
    vit_process: Vit, store: tuple[Way, Path], tmp_path: Path
) -> None:
    """Its authority is named where OpenSSL and AWS look for it. Who is not trusted is not read."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    way, folder = Way(store[0].behind, tls), store[1]
    urls = (f"{way.url}/bkt/p/img-00000.jpg", f"{way.url}/bkt/t.tar", "s3://bkt/p/img-00001.jpg")
    way.faults.update({"img-00000.jpg": ["500", "drop"], "t.tar": ["drop"]})
    paths = (folder / "p" / "img-00000.jpg", folder / "t.tar", folder / "p" / "img-00001.jpg")
    assert vit_process("embed", *paths, *COMMON, "-o", "files.npy").code == 3
    trusted = {name: str(tmp_path / "ca.pem") for name in ("SSL_CERT_FILE", "AWS_CA_BUNDLE")}
    env = {"AWS_ENDPOINT_URL": way.url, **trusted}
    ended = vit_process("embed", *urls, *COMMON, "-o", "urls.npy", env=env)
    assert ended.code == 3, ended.err
    assert (tmp_path / "urls.npy").read_bytes() == (tmp_path / "files.npy").read_bytes()
    assert not any(way.faults.values())
    ended = vit_process("classify", urls[0], *COMMON)
    error = json.loads(ended.out)["error"]
    assert error["type"] == "Unreadable"
    assert (
        error["message"] == "its certificate is not trusted (name its authority in SSL_CERT_FILE)"
    )
    way.server.shutdown()
