"""Images in tars and zips: the same rows as of files, whatever is wrong with the archive."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import os
import struct
import subprocess
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import Vit
from tests.fixtures.photos import Corpus, many_photos
from vitcli.errors import InputError
from vitcli.images import archives, members
from vitcli.images.braces import expanded
from vitcli.images.decode import decode
from vitcli.images.kinds import suffixes
from vitcli.images.members import StreamedMember, TarMember, UnreadableMember
from vitcli.images.scan import Omissions, Scan
from vitcli.images.sources import count, iter_refs, open_sources
from vitcli.records import Failure, FoundImage, ImageRef, Limits, Preprocess, Sample

IMAGES = suffixes("common")
SCAN = Scan(IMAGES | {".tar", ".zip"}, members=IMAGES)
PLAN = Preprocess(size=(32, 48), resize=(32, 48))


def refs(*inputs: str | Path, scan: Scan = SCAN) -> list[ImageRef]:
    sources = open_sources(list(map(str, inputs)), scan=scan)
    found = list(iter_refs(sources))
    assert count(sources) == len(found)
    return found


def results(*inputs: str | Path) -> dict[str, str]:
    """What becomes of each image: `good`, or the error and its message."""
    decoded = {ref.path: decode(ref, (PLAN,), Limits()) for ref in refs(*inputs)}
    return {
        path: f"{got.type}: {got.message}" if isinstance(got, Failure) else "good"
        for path, got in decoded.items()
    }


def pack(archive: Path, files: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> Path:
    """A tar or zip of these files."""
    if archive.suffix.lower() == ".zip":
        with zipfile.ZipFile(archive, "w", method) as zipped:
            for name, data in files.items():
                zipped.writestr(name, data)
        return archive
    with tarfile.open(archive, "w", errors="surrogateescape") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return archive


@pytest.fixture(scope="module")
def jpeg(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("one")
    many_photos(folder, 1)
    return next(folder.iterdir()).read_bytes()


@pytest.mark.parametrize("name", ["x.tar", "x.zip", "X.ZIP"])
def test_every_image_is_as_its_file(name: str, photos: Corpus, tmp_path: Path) -> None:
    files = [*photos.good, *photos.bad]
    packed = {f"a/{path.name}": path.read_bytes() for path in files if path.is_file()}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        archive = pack(tmp_path / name, {**packed, "a/x.json": b"{}"}, method)
        found = refs(
            archive, scan=Scan(SCAN.suffixes, members=IMAGES | {".eps", ".txt", ".mystery"})
        )
        assert len(found) >= 40
        for ref in found:
            path = next(p for p in files if f"{archive}/a/{p.name}" == ref.path)
            ours = decode(ref, (PLAN,), Limits())
            alone = decode(ImageRef(ref.index, str(path)), (PLAN,), Limits())
            assert type(ours) is type(alone), ref.path
            if isinstance(ours, Failure) and isinstance(alone, Failure):
                assert (ours.type, ours.message) == (alone.type, alone.message)
            elif isinstance(ours, Sample) and isinstance(alone, Sample):
                assert ours.size == alone.size
                np.testing.assert_array_equal(ours.pixels[0], alone.pixels[0])


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
def test_names_are_kept_and_filtered(name: str, jpeg: bytes, tmp_path: Path) -> None:
    odd = ["b.JPG", "a/caf\xe9.png", "./c.left.jpg", "../up.jpg", "/etc/d.jpg", "new\nline.jpg"]
    rest = ["a/b.json", "b.cls", ".hidden.jpg", "__MACOSX/._b.jpg", ".git/x.jpg", "jpg"]
    archive = pack(tmp_path / name, dict.fromkeys([*odd, *rest], jpeg))
    found = refs(archive)
    assert [ref.path for ref in found] == [f"{archive}/{inner}" for inner in odd]
    keys = (
        ["b", "a/caf\xe9", "./c", "../up", "/etc/d", "new\nline"] if name == "x.tar" else [""] * 6
    )
    assert [ref.key for ref in found] == keys
    assert {ref.file for ref in found} == {str(archive)}


def test_a_large_member_is_read_as_it_is_wanted(
    photos: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = pack(tmp_path / "x.tar", {path.name: path.read_bytes() for path in photos.good})
    whole = [decode(ref, (PLAN,), Limits()) for ref in refs(archive)]
    monkeypatch.setattr(members, "MAX_BYTES_AT_ONCE", 0)
    for ref, alone in zip(refs(archive), whole, strict=True):
        ours = decode(ref, (PLAN,), Limits())
        assert isinstance(ours, Sample) and isinstance(alone, Sample)
        np.testing.assert_array_equal(ours.pixels[0], alone.pixels[0])


def test_names_that_are_not_utf8_keep_their_bytes(jpeg: bytes, tmp_path: Path) -> None:
    raw = b"caf\xe9.jpg"
    tar = pack(tmp_path / "x.tar", {os.fsdecode(raw): jpeg})
    zipped = tmp_path / "x.zip"
    pack(zipped, {"cafe.jpg": jpeg})
    zipped.write_bytes(zipped.read_bytes().replace(b"cafe.jpg", raw))
    for archive in (tar, zipped):
        assert [os.fsencode(ref.path) for ref in refs(archive)] == [
            os.fsencode(archive) + b"/" + raw
        ]
        assert set(results(archive).values()) == {"good"}


def test_archives_come_from_everywhere(
    jpeg: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("d/e").mkdir(parents=True)
    for number in (8, 9, 10):
        pack(Path(f"d/t-{number:03}.tar"), {f"{number}.jpg": jpeg})
    pack(Path("d/e/z.zip"), {"z.jpg": jpeg, "z.png": jpeg})
    Path("d/a.jpg").write_bytes(jpeg)
    Path("list").write_text("d/t-009.tar\nd/a.jpg\nd/e\n")
    tars = [f"d/t-{number:03}.tar/{number}.jpg" for number in (8, 9, 10)]
    zips = ["d/e/z.zip/z.jpg", "d/e/z.zip/z.png"]
    assert [ref.path for ref in refs("d")] == ["d/a.jpg", *zips, *tars]
    assert [ref.path for ref in refs("d/t-{008..010}.tar")] == tars
    assert [ref.path for ref in refs("d/*.tar", "d/e/z.zip")] == [*tars, *zips]
    listed = open_sources([], files_from="list", scan=SCAN)
    assert [ref.path for ref in iter_refs(listed)] == [tars[1], "d/a.jpg", *zips]
    assert count(listed) == 4
    assert [ref.path for ref in refs("d", scan=Scan(IMAGES))] == ["d/a.jpg"]
    assert results("d/t-{010,011}.tar") == {
        "d/t-010.tar/10.jpg": "good",
        "d/t-011.tar": "NotFound: no such file",
    }


@pytest.mark.parametrize(
    "pattern",
    [
        "t-{000..003}.tar",
        "{9..11}",
        "{08..11}",
        "{3..1}",
        "{0..9..3}b",
        "{a,b}{1..2}",
        "a{,b}",
        "{a,{b,c}}x",
        "{a}",
        "x{",
        "{a,b",
        "{x}{1,2}",
        "{{a,b}}",
        "p{1..2}/{a,b{1..2}}.tar",
    ],
)
def test_braces_are_those_of_the_shell(pattern: str) -> None:
    bash = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True
    )
    assert list(expanded(pattern)) == bash.stdout.splitlines()


def test_a_file_that_is_called_so_is_meant(tmp_path: Path) -> None:
    (tmp_path / "{a,b}").touch()
    assert list(expanded(str(tmp_path / "{a,b}"))) == [str(tmp_path / "{a,b}")]


def entry(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = "") -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, link
    return info.tobuf(tarfile.GNU_FORMAT)


END = bytes(1024)


def test_what_is_no_plain_file_is_told_and_never_followed(jpeg: bytes, tmp_path: Path) -> None:
    secret = tmp_path / "secret.jpg"
    secret.write_text("outside")
    archive = tmp_path / "x.tar"
    archive.write_bytes(
        entry("link.jpg", tarfile.SYMTYPE, link=str(secret))
        + entry("hard.jpg", tarfile.LNKTYPE, link="../secret.jpg")
        + entry("null.jpg", tarfile.CHRTYPE)
        + entry("pipe.jpg", tarfile.FIFOTYPE)
        + entry("folder.jpg", tarfile.DIRTYPE)
        + entry(str(secret), size=len(jpeg))
        + jpeg.ljust(-(-len(jpeg) // 512) * 512, b"\0")
        + END
    )
    assert results(archive) == {
        f"{archive}/link.jpg": f"Unreadable: a link to {secret}, which is not followed",
        f"{archive}/hard.jpg": "Unreadable: a link to ../secret.jpg, which is not followed",
        f"{archive}/null.jpg": "Unreadable: not a regular file",
        f"{archive}/pipe.jpg": "Unreadable: not a regular file",
        f"{archive}/{secret}": "good",
    }


LOST = "everything after b.jpg is lost"


def longest(size: int) -> bytes:
    return entry("././@LongLink", tarfile.GNUTYPE_LONGNAME, size)


@pytest.mark.parametrize(
    ("tail", "last", "why"),
    [
        (
            entry("c.jpg", size=900) + bytes(100),
            "c.jpg",
            "truncated tar: everything after c.jpg",
        ),
        (entry("c.jpg", size=1 << 60), "c.jpg", "truncated tar: everything after c.jpg"),
        (entry("c.json", size=1 << 60), "", "truncated tar: everything after c.json"),
        (b"", "", f"truncated tar: {LOST}"),
        (bytes(100), "", f"truncated tar: {LOST}"),
        (b"\xff" * 2048, "", f"damaged tar: {LOST}"),
        (longest(1 << 40) + END, "", f"damaged tar: {LOST}"),
        (entry("-.jpg", size=-1024) + END, "", f"damaged tar: {LOST}"),
    ],
)
def test_a_tar_that_ends_too_soon_is_told(
    tail: bytes, last: str, why: str, jpeg: bytes, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "x.tar", {"a.jpg": jpeg, "b.jpg": jpeg})
    with tarfile.open(archive) as tar:
        tar.getmembers()
        end = tar.offset
    archive.write_bytes(archive.read_bytes()[:end] + tail)
    told: list[str] = []
    scan = Scan(IMAGES, Omissions(told.append), members=IMAGES)
    sources = open_sources([str(archive)], scan=scan)
    got = [decode(ref, (PLAN,), Limits()) for ref in iter_refs(sources)]
    cut = [f"{archive}/{last}"] if last else []
    paths = [f"{archive}/a.jpg", f"{archive}/b.jpg", *cut, str(archive)]
    assert [item.ref.path for item in got] == paths
    assert [isinstance(item, Sample) for item in got] == [True, True, *[False] * (len(got) - 2)]
    assert isinstance(got[-1], Failure) and got[-1].message.startswith(why)
    assert told == [f"cannot list {archive}: {got[-1].message}"]


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("x.tar", b"", "NotAnImage: empty file"),
        ("x.tar", b"<html>" * 200, "NotAnImage: not an image (starts with '<html>"),
        ("x.zip", b"<html>" * 200, "NotAnImage: not an image (starts with '<html>"),
        ("x.tgz", b"\x1f\x8b\x08" + bytes(1000), "DecodeError: damaged compressed tar"),
        ("x.zip", b"PK\x03\x04" + bytes(1000), "DecodeError: damaged zip: "),
    ],
)
def test_what_is_no_archive_has_one_row(name: str, data: bytes, why: str, tmp_path: Path) -> None:
    archive = tmp_path / name
    archive.write_bytes(data)
    (path, said), *more = results(archive).items()
    assert (path, more) == (str(archive), [])
    assert said.startswith(why)


def test_an_archive_without_images_is_an_error(tmp_path: Path) -> None:
    for name in ("x.tar", "x.zip"):
        archive = pack(tmp_path / name, {"a.json": b"{}"})
        with pytest.raises(InputError, match=rf"no images in .*{name}"):
            refs(archive)


def _flag(data: bytes) -> bytes:
    """Encrypted, says the directory."""
    at = data.index(b"PK\x01\x02") + 8
    return data[:at] + struct.pack("<H", 1) + data[at + 2 :]


def _huge(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02") + 24
    return data[:at] + struct.pack("<I", 0xF0000000) + data[at + 4 :]


def _flipped(data: bytes) -> bytes:
    return data[:400] + bytes((data[400] ^ 1,)) + data[401:]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (_flag, "Unreadable: encrypted"),
        (_huge, "TooLarge: 4.03 GB, limit 1.07 GB (--max-pixels)"),
        (_flipped, "DecodeError: "),
        (lambda d: d.replace(b"PK\x03\x04", b"PK\x07\x08"), "DecodeError: damaged zip: no image"),
    ],
)
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_zip_that_is_damaged_or_closed(
    change: Callable[[bytes], bytes], why: str, method: int, jpeg: bytes, tmp_path: Path
) -> None:
    archive = pack(tmp_path / "x.zip", {"a.jpg": jpeg}, method)
    archive.write_bytes(change(archive.read_bytes()))
    assert results(archive)[f"{archive}/a.jpg"].startswith(why)


def test_a_member_without_a_name_is_no_image(jpeg: bytes, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr("x", b"")
        file.writestr("a.jpg", jpeg)
    data = (tmp_path / "a.zip").read_bytes()
    at = data.index(b"PK\1\2")
    nameless = data[at : at + 28] + b"\0\0" + data[at + 30 : at + 46] + data[at + 47 :]
    ending = nameless.index(b"PK\5\6")
    size = struct.pack("<I", ending)
    nameless = nameless[: ending + 12] + size + nameless[ending + 16 :]
    (tmp_path / "a.zip").write_bytes(data[:at] + nameless)
    assert [ref.path for ref in refs(tmp_path / "a.zip")] == [f"{tmp_path}/a.zip/a.jpg"]


def test_a_bomb_in_a_zip_is_cut_off_at_what_it_claims(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a.jpg": bytes(50_000_000)}, zipfile.ZIP_DEFLATED)
    data = archive.read_bytes()
    at = data.index(b"PK\x01\x02") + 24
    archive.write_bytes(data[:at] + struct.pack("<I", 1000) + data[at + 4 :])
    tracemalloc.start()
    assert results(archive) == {
        f"{archive}/a.jpg": "DecodeError: damaged zip: the image is not what its CRC-32 says"
    }
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_list_of_a_tar_is_not_held(tmp_path: Path) -> None:
    block = b"".join(entry(f"{number:09}.jpg") for number in range(1000))
    archive = tmp_path / "x.tar"
    archive.write_bytes(block * 20 + END)
    tracemalloc.start()
    assert sum(1 for _ in iter_refs(open_sources([str(archive)], scan=SCAN))) == 20_000
    assert tracemalloc.get_traced_memory()[1] < 500_000
    tracemalloc.stop()


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """30 photographs, three of them broken, as files and in three tars."""
    many_photos(tmp_path / "files", 30, broken=(3, 17, 29))
    paths = sorted((tmp_path / "files").iterdir())
    for number in range(3):
        part = {path.name: path.read_bytes() for path in paths[number * 10 : number * 10 + 10]}
        pack(tmp_path / f"s-{number}.tar", part)
    return tmp_path


def test_the_rows_are_those_of_files(vit: Vit, shards: Path) -> None:
    """Byte for byte but for the path and the key, alone, in shards that are merged, and resumed."""
    common = ("-m", "demo", "-b", "4", "-j", "0")
    assert vit("embed", "files", *common, "-o", "files.npy").code == 3
    assert vit("embed", "s-{0..2}.tar", *common, "-o", "tars.npy").code == 3
    assert (shards / "files.npy").read_bytes() == (shards / "tars.npy").read_bytes()
    indexes = [
        [json.loads(line) for line in (shards / f"{name}.index.jsonl").open()]
        for name in ("files", "tars")
    ]
    for alone, packed in zip(*indexes, strict=True):
        name = alone["path"].removeprefix("files/")
        assert packed.pop("__key__") == name.partition(".")[0]
        assert packed == {**alone, "path": packed["path"]}
        assert packed["path"].endswith(f".tar/{name}")

    rows = [vit("classify", files, *common).out for files in ("files", "s-{0..2}.tar")]
    assert rows[0] == b"".join(
        b'{"path":"files/' + line.partition(b".tar/")[2].replace(b'"__key__":"%s",' % key, b"")
        for line in rows[1].splitlines(keepends=True)
        for key in [json.loads(line)["__key__"].encode()]
    )

    for number in (1, 2):
        assert vit("embed", "s-*.tar", *common, "-o", "p.npy", "--shard", f"{number}/2").code in (
            0,
            3,
        )
    assert vit("merge", "p-00001-of-00002.npy", "p-00002-of-00002.npy", "-o", "p.npy").code == 3
    assert (shards / "p.index.jsonl").read_bytes() == (shards / "tars.index.jsonl").read_bytes()

    whole = gzip.compress((shards / "s-0.tar").read_bytes())
    (shards / "z.tgz").write_bytes(whole)
    (shards / "s-0.tar").rename(shards / "z.tar")
    assert vit("embed", "z.tar", *common, "-o", "alone.npy").code == 3
    assert vit("embed", "z.tgz", *common, "-o", "z.npy", "--on-error", "stop").code == 1
    assert vit("embed", "z.tgz", *common, "-o", "z.npy", "--resume").code == 3
    assert (shards / "z.npy").read_bytes() == (shards / "alone.npy").read_bytes()
    (shards / "z.tar").rename(shards / "s-0.tar")

    again = vit("embed", "s-{0..2}.tar", *common, "-o", "tars.npy", "--resume")
    assert "already complete" in again.err
    retried = vit("embed", "s-{0..2}.tar", *common, "-o", "tars.npy", "--resume", "--retry-failed")
    assert "30 images done, 3 failed, 27 of them before" in retried.err
    pack(shards / "s-3.tar", {"new.jpg": (shards / "files/img-00000.jpg").read_bytes()})
    grown = vit("embed", "s-{0..3}.tar", *common, "-o", "tars.npy", "--resume")
    assert "31 images done, 3 failed, 30 of them before" in grown.err


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_a_compressed_tar_is_read_as_a_stream(kind: str, jpeg: bytes, tmp_path: Path) -> None:
    """The same members, whether their sizes fill blocks or not; truncated it is told."""
    names = ["a.jpg", "b.json", "c.jpg", "d.txt", "e.jpg"]
    sizes = (0, 1, 511, 512, 513)
    files = {
        name: jpeg + bytes((n - len(jpeg)) % 512) for name, n in zip(names, sizes, strict=True)
    }
    plain = pack(tmp_path / "x.tar", files)
    packed = tmp_path / f"x.tar.{kind}"
    compress = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}[kind]
    packed.write_bytes(compress(plain.read_bytes()))
    found = refs(packed)
    assert [ref.path for ref in found] == [f"{packed}/{name}" for name in names[::2]]
    assert [ref.key for ref in found] == ["a", "c", "e"]
    data = [ref.member.data for ref in found if isinstance(ref.member, StreamedMember)]
    assert data == [
        plain.read_bytes()[ref.member.start :][: ref.member.size]
        for ref in refs(plain)
        if isinstance(ref.member, TarMember)
    ]
    assert set(results(packed).values()) == {"good"}
    middle = refs(plain)[1].member
    assert isinstance(middle, TarMember)
    packed.write_bytes(compress(plain.read_bytes()[: middle.start + 600]))
    cut = results(packed)
    assert cut[f"{packed}/a.jpg"] == "good"
    assert cut[f"{packed}/c.jpg"] == "DecodeError: truncated: the tar ends within it"
    assert cut[str(packed)] == "DecodeError: truncated tar: everything after c.jpg is lost"
    packed.write_bytes(packed.read_bytes()[: packed.stat().st_size // 2])
    assert results(packed)[str(packed)].startswith("DecodeError: ")


def test_attention_draws_members_below_its_folder(vit: Vit, jpeg: bytes, tmp_path: Path) -> None:
    pack(tmp_path / "x.tar", {"../../up.jpg": jpeg})
    ended = vit("attention", "x.tar", "-m", "demo", "--out", "maps", "-j", "2", "--html", "m.html")
    assert ended.code == 0, ended.err
    (row,) = map(json.loads, ended.out.splitlines())
    assert (row["path"], row["__key__"]) == ("x.tar/../../up.jpg", "../../up")
    assert row["files"] == ["maps/x.tar/__/__/up.jpg.png"]
    assert (tmp_path / row["files"][0]).exists()


def test_an_archive_stays_open_until_it_is_another(jpeg: bytes, tmp_path: Path) -> None:
    """One descriptor for all of its images; one that is written anew is opened anew."""
    one = pack(tmp_path / "x.tar", {f"{n}.jpg": jpeg for n in range(20)})
    other = pack(tmp_path / "y.tar", dict.fromkeys(("a.jpg", "b.jpg"), jpeg))

    def held() -> list[str]:
        links = Path("/proc/self/fd").iterdir()
        return [str(link.readlink()) for link in links if os.path.lexists(link)]

    assert set(results(one).values()) == {"good"}
    assert held().count(str(one)) == 1
    assert set(results(other).values()) == {"good"}
    assert held().count(str(one)) == 0
    assert held().count(str(other)) == 1
    listed = refs(one)
    assert isinstance(decode(listed[0], (PLAN,), Limits()), Sample)
    one.unlink()
    missing = decode(listed[1], (PLAN,), Limits())
    assert isinstance(missing, Failure) and missing.message == "no such file"
    pack(one, {"0.jpg": b"other"})
    changed = decode(listed[0], (PLAN,), Limits())
    assert isinstance(changed, Failure)


@pytest.mark.parametrize("name", ["x.tar", "x.zip"])
@pytest.mark.parametrize("how", ["replaced", "rewritten", "appended", "cut"])
def test_an_archive_that_changes_after_it_was_listed_has_no_neighbours_pixels(
    name: str, how: str, jpeg: bytes, tmp_path: Path
) -> None:
    archive = pack(tmp_path / name, {"a.jpg": jpeg, "b.jpg": jpeg})
    found = refs(archive)
    assert isinstance(decode(found[0], (PLAN,), Limits()), Sample)
    whole = archive.read_bytes()
    if how == "replaced":
        pack(tmp_path / f"new-{name}", {"b.jpg": jpeg, "a.jpg": jpeg}).replace(archive)
    else:
        changed = {"rewritten": whole, "appended": whole + bytes(512), "cut": whole[:-512]}[how]
        archive.write_bytes(changed)
        os.utime(archive, (1e9, 1e9))
    for ref in found:
        got = decode(ref, (PLAN,), Limits())
        assert isinstance(got, Failure) and got.type == "Unreadable"
        assert got.message == members.CHANGED


def test_the_stamp_of_a_member_is_of_the_archive_that_was_listed(
    vit: Vit, jpeg: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that --resume does what failed again."""
    archive = pack(tmp_path / "x.tar", {f"{n}.jpg": jpeg for n in range(6)})
    new = pack(tmp_path / "new", {f"{n}.jpg": jpeg for n in reversed(range(6))})
    iter_members = archives.iter_members

    def replaced(*args: object) -> Iterator[FoundImage]:
        for number, found in enumerate(iter_members(*args)):  # type: ignore[arg-type]
            if number == 3 and new.exists():
                new.replace(archive)
            yield found

    words = ("embed", "x.tar", "-m", "demo", "-j", "0", "-b", "1", "-o", "x.npy")
    monkeypatch.setattr("vitcli.images.scan.iter_members", replaced)
    monkeypatch.setattr("vitcli.images.sources.FileSource.check", lambda source: None)
    first = vit(*words)
    assert first.code == 3 and members.CHANGED in first.err, first.err
    again = vit(*words, "--resume")
    assert again.code == 0 and "6 images" in again.err, again.err


def test_a_compressed_member_that_can_be_no_image_is_not_unpacked(tmp_path: Path) -> None:
    data = bytes(20 << 20)
    plain = pack(tmp_path / "x.tar", {"a.png": data, "b.png": b"x"})
    (tmp_path / "x.tar.gz").write_bytes(gzip.compress(plain.read_bytes(), 1))
    pack(tmp_path / "x.zip", {"a.png": data, "b.png": b"x"}, zipfile.ZIP_DEFLATED)
    largest = archives.max_file_bytes(100_000)
    for name in ("x.tar.gz", "x.zip"):
        found = list(archives.iter_members(str(tmp_path / name), IMAGES, largest))
        first, second = (image.member for image in found)
        assert isinstance(first, UnreadableMember) and not isinstance(second, UnreadableMember)
        assert (first.type, first.why) == ("TooLarge", "21 MB, limit 17.6 MB (--max-pixels)")
