"""Objects in a store (moto's S3, on this machine) and over HTTP, with faults on the way."""

from __future__ import annotations

import http.client
import io
import json
import tarfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import Vit
from tests.fixtures.photos import many_photos
from vitcli import stores
from vitcli.errors import InputError
from vitcli.images import remote
from vitcli.images.decode import decode
from vitcli.images.scan import Scan
from vitcli.images.sources import iter_refs, open_sources
from vitcli.records import Failure, ImageRef, Limits, Preprocess, Sample

KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
COMMON = ("-m", "demo", "-j", "0", "-b", "4")
SEVEN = Path(__file__).parents[2] / "examples" / "digit-7-0007.png"
PLAN = Preprocess(size=(32, 48), resize=(32, 48))
IMAGES = frozenset((".jpg",))
SCAN = Scan(IMAGES | {".tar"}, members=IMAGES)


class Way:
    """The way to the store, on which things happen: by path, what becomes of its next requests."""

    def __init__(self, behind: int) -> None:
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        self.heads: Counter[str] = Counter()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                faults = way.faults.get(name, [])
                (way.asked if self.command == "GET" else way.heads)[name] += 1
                fault = faults.pop(0) if faults and self.command == "GET" else ""
                if fault.isdecimal():
                    self.send_response(int(fault))
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                store = http.client.HTTPConnection("127.0.0.1", behind)
                store.request(self.command, self.path, headers=dict(self.headers))
                answer = store.getresponse()
                data = answer.read()
                self.send_response(answer.status)
                for key, value in answer.getheaders():
                    if key.lower() not in ("transfer-encoding", "connection", "date", "server"):
                        self.send_header(key, value)
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(data[: len(data) // 2] if fault == "drop" else data)
                if fault == "drop":
                    self.close_connection = True

            do_HEAD = do_GET  # noqa: N815

            def log_message(self, *args: object) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.client: Any = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{behind}", **KEYS)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Path]]:
    """A bucket `bkt` with 12 photographs, one broken, under `p/` and in `t.tar`."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    way = Way(port)
    client = way.client
    client.create_bucket(Bucket="bkt", ACL="public-read")
    folder = tmp_path_factory.mktemp("store")
    with tarfile.open(folder / "t.tar", "w") as tar:
        for path in many_photos(folder / "p", 12, broken=(5,)):
            tar.add(path, path.name)
            client.put_object(
                Bucket="bkt", Key=f"p/{path.name}", Body=path.read_bytes(), ACL="public-read"
            )
    for name in ("p/notes.txt", "q/notes.txt"):
        client.put_object(Bucket="bkt", Key=name, Body=b"text")
    with zipfile.ZipFile(folder / "t.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "p").iterdir()):
            archive.write(path, path.name)
    photos = [(path.read_bytes(), path.name) for path in sorted((folder / "p").iterdir())]
    rows = {"image": [{"bytes": data, "path": name} for data, name in photos]}
    pq.write_table(pa.table(rows), folder / "t.parquet", row_group_size=4)
    for name in ("t.tar", "t.zip", "t.parquet"):
        data = (folder / name).read_bytes()
        client.put_object(Bucket="bkt", Key=name, Body=data, ACL="public-read")
    yield way, folder
    way.server.shutdown()
    way.server.server_close()
    moto.stop()


@pytest.fixture(autouse=True)
def reached(
    store: tuple[Way, Path], clean_env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Way:
    """The usual places of credentials; no faults yet, and no long waits."""
    way = store[0]
    for name, value in {
        "AWS_ENDPOINT_URL": way.url,
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "y",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setitem(clean_env, name, value)
    monkeypatch.setattr(stores, "WAIT", 0.01)
    way.faults.clear()
    way.asked.clear()
    way.heads.clear()
    _forget()
    return way


def _forget() -> None:
    """As in a new process."""
    remote.listing.cache_clear()
    remote.stamp.cache_clear()


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
    assert set(reached.heads) == {"b.jpg"}
    reached.asked.clear()
    _forget()
    ended = vit(*words, "--resume")
    assert "already complete" in ended.err and not reached.asked & Counter(("a.jpg", "b.jpg"))
    put(Key="c/b.jpg", Body=second)
    _forget()
    ended = vit(*words, "--resume")
    assert "4 images, 2 of them before" in ended.err, ended.err
    assert reached.asked["b.jpg"] == 2 and not reached.asked["a.jpg"]
