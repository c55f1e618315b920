"""Headers at a glance: whatever is in a tar, what is found is what tarfile finds."""

from __future__ import annotations

import io
import random
import tarfile
from pathlib import Path

import pytest

from vitcli.images import tar_headers
from vitcli.images.archives import iter_members
from vitcli.records import FoundImage

SUFFIXES = frozenset((".jpg", ".png"))
NAMES = [
    "a.jpg",
    "a/b.json",
    "folder/",
    "caf\xe9/鳥.png",
    "d" * 99 + "/" + "e" * 95 + ".jpg",
    "f" * 300 + ".jpg",
    "g.jpg",
]
ODD = b"\0 01789-_gxLKS\x80\xff/=\n"
FORMATS = (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)


def packed(format: int, mtime: float, pax_headers: dict[str, str] | None = None) -> bytes:
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w", format=format, pax_headers=pax_headers) as tar:
        for number, name in enumerate(NAMES):
            if format == tarfile.USTAR_FORMAT and len(name) > 255:
                continue
            info = tarfile.TarInfo(name)
            info.mtime = abs(mtime) if format == tarfile.USTAR_FORMAT else mtime
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
            else:
                info.size = 500 * number
            tar.addfile(info, io.BytesIO(bytes(info.size)))
    return held.getvalue()


def found(archive: Path, monkeypatch: pytest.MonkeyPatch, *, by_tarfile: bool) -> list[FoundImage]:
    with monkeypatch.context() as patch:
        if by_tarfile:
            patch.setattr(tar_headers, "_by_pattern", lambda blocks, offset: None)
        return list(iter_members(str(archive), SUFFIXES))


@pytest.mark.parametrize("mtime", [0, 1_700_000_000, 1_700_000_000.25, -7.5])
@pytest.mark.parametrize("format", FORMATS)
def test_any_way_to_pack(
    format: int, mtime: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(packed(format, mtime))
    ours = found(archive, monkeypatch, by_tarfile=False)
    assert ours == found(archive, monkeypatch, by_tarfile=True)
    names = [name for name in NAMES if name.endswith((".jpg", ".png"))]
    skipped = ["f" * 300 + ".jpg"] if format == tarfile.USTAR_FORMAT else []
    assert [path.removeprefix(f"{archive}/") for path, *_ in ours] == [
        name for name in names if name not in skipped
    ]


def test_a_global_header_holds_for_all_that_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "x.tar"
    archive.write_bytes(packed(tarfile.PAX_FORMAT, 0, {"path": "one.jpg"}))
    ours = found(archive, monkeypatch, by_tarfile=False)
    assert ours == found(archive, monkeypatch, by_tarfile=True)
    assert f"{archive}/one.jpg" in {path for path, *_ in ours}


def resummed(header: bytes) -> bytes:
    """With the checksum that it should have."""
    total = sum(header[:148]) + 8 * ord(" ") + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("is_summed", [False, True])
def test_any_byte_of_a_header(
    format: int, is_summed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five hundred tars with a byte or two that are not as they were, some of them in numbers."""
    archive, draw, differing = tmp_path / "x.tar", random.Random(0), 0
    whole = packed(format, 1.5)
    for _ in range(500):
        data = bytearray(whole)
        block = draw.choice((0, 512, 1024, 1536)) if format == tarfile.PAX_FORMAT else 0
        places = (range(512), range(100, 160), range(100, 160))[draw.randrange(3)]
        for place in draw.choices(places, k=draw.randint(1, 2)):
            data[block + place] = draw.choice((*ODD, draw.randrange(256)))
        if is_summed:
            data[block : block + 512] = resummed(bytes(data[block : block + 512]))
        archive.write_bytes(data)
        ours = found(archive, monkeypatch, by_tarfile=False)
        assert ours == found(archive, monkeypatch, by_tarfile=True), bytes(data[:2048])
        archive.write_bytes(whole)
        differing += ours != found(archive, monkeypatch, by_tarfile=False)
    assert differing > 50  # it was no test of harmless bytes alone


@pytest.mark.parametrize(
    "record",
    [
        b"19 mtime=123456.25\n",
        b"20 mtime=123456.25\n",
        b"18 mtime=123456.25\n",
        b"17 path=one.jpg\n\n",
        b"16 path=one.jpg\n",
        b"12 size=513\n",
        b"19 mtime=123456.25\n12 size=513\n",
        b"19 mtime=123456.25\n\0012 size=513\n",
        b"0 mtime=1\n",
        b"22 hdrcharset=BINARY\n",
        b"",
    ],
)
@pytest.mark.parametrize("told", [0, 1])
def test_what_a_pax_header_says(
    record: bytes, told: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also what stands behind its end, which tarfile reads."""
    archive = tmp_path / "x.tar"
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 19 if told else len(record)
    member = tarfile.TarInfo("a.jpg")
    member.size = 512
    archive.write_bytes(
        header.tobuf(tarfile.USTAR_FORMAT)
        + record.ljust(512, b"\0")
        + member.tobuf(tarfile.USTAR_FORMAT)
        + bytes(512 * 4)
    )
    ours = found(archive, monkeypatch, by_tarfile=False)
    assert ours == found(archive, monkeypatch, by_tarfile=True)


def test_those_that_libraries_write_need_no_tarfile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the first: as GNU tar, bsdtar and WebDataset's writer, with its fractional times."""
    archive = tmp_path / "x.tar"
    bsd = tarfile.TarInfo("b.jpg").tobuf(tarfile.USTAR_FORMAT)
    numbers = b"000644 |000765 |000024 |00000001750 14371624203 ".replace(b"|", b"\0")
    bsd = bsd[:100] + numbers + bsd[148:]
    gnu = packed(tarfile.GNU_FORMAT, 1)[:512] * 3
    webdataset = packed(tarfile.PAX_FORMAT, 1.5)[: 512 * 3] * 3
    archive.write_bytes(gnu + webdataset + resummed(bsd) + bytes(1024 + 1024))
    seen: list[int] = []
    whole = tarfile.TarFile.next

    def counted(tar: tarfile.TarFile) -> tarfile.TarInfo | None:
        seen.append(tar.offset)
        return whole(tar)

    monkeypatch.setattr(tarfile.TarFile, "next", counted)
    members = list(iter_members(str(archive), SUFFIXES))
    assert [Path(path).name for path, *_ in members] == ["a.jpg"] * 6 + ["b.jpg"]
    assert members[-1][1] is not None and members[-1][1].size == 1000
    assert len(seen) == 3  # to open it, the first once more, and the end
