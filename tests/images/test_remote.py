"""Objects in a store (moto's S3, on this machine) and over HTTP, with faults on the way."""

from __future__ import annotations

import http.client
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from tests.conftest import Vit
from tests.fixtures.photos import many_photos
from vitcli.errors import InputError
from vitcli.images import remote
from vitcli.images.decode import decode
from vitcli.images.scan import Scan
from vitcli.images.sources import iter_refs, open_sources
from vitcli.records import Failure, ImageRef, Limits, Preprocess

COMMON = ("-m", "demo", "-j", "0", "-b", "4")
PLAN = Preprocess(size=(32, 48), resize=(32, 48))
IMAGES = frozenset((".jpg",))
SCAN = Scan(IMAGES | {".tar"}, members=IMAGES)


class Way:
    """The way to the store, on which things happen: by path, what becomes of its next requests."""

    def __init__(self, behind: int) -> None:
        self.faults: dict[str, list[str]] = {}
        self.asked: Counter[str] = Counter()
        way = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                name = self.path.partition("?")[0].rpartition("/")[2]
                faults = way.faults.get(name, [])
                way.asked[name] += self.command == "GET"
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
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Way, Path]]:
    """A bucket `bkt` with 12 photographs, one broken, under `p/` and in `t.tar`."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    port = moto.get_host_and_port()[1]
    keys = {"aws_access_key_id": "x", "aws_secret_access_key": "y", "region_name": "us-east-1"}
    client: Any = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
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
    data = (folder / "t.tar").read_bytes()
    client.put_object(Bucket="bkt", Key="t.tar", Body=data, ACL="public-read")
    way = Way(port)
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
    monkeypatch.setattr(remote, "WAIT", 0.01)
    way.faults.clear()
    way.asked.clear()
    remote.listing.cache_clear()
    return way


@pytest.mark.slow
def test_the_rows_are_those_of_files(
    vit: Vit, vit_process: Vit, store: tuple[Way, Path], tmp_path: Path
) -> None:
    """A prefix, a pattern, a tar, over S3 and HTTP, with an error and a dropped connection each."""
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
        }.items()
    ):
        way.faults.update({"img-00002.jpg": ["500"], "img-00003.jpg": ["drop"]})
        way.faults["t.tar"] = ["drop", "503"]
        out = f"{number}.npy"
        ended = vit("embed", url, *COMMON, "-o", out)
        assert ended.code == 3, ended.err
        assert not (
            way.faults["img-00002.jpg"] if url.endswith(("/", "g")) else way.faults["t.tar"]
        )
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
    (ref,) = iter_refs(open_sources(["s3://bkt/none.tar"], scan=SCAN))
    assert isinstance(got := decode(ref, (), Limits()), Failure) and got.type == "NotFound"
