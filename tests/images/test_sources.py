"""What was typed becomes image refs: in order, lazily, and never more than was meant."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from vitcli.errors import InputError
from vitcli.images import sources
from vitcli.images.kinds import suffixes
from vitcli.images.path_list import READ_BYTES
from vitcli.images.scan import Omissions, Scan
from vitcli.images.sources import Source, count, iter_refs, open_sources
from vitcli.records import FoundImage, ImageRef

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test types its paths relative to a folder of its own."""
    monkeypatch.chdir(tmp_path)


def touch(*names: str) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def listed(*inputs: str, **options: object) -> list[str]:
    return [ref.path for ref in iter_refs(open_sources(inputs, **options))]  # type: ignore[arg-type]


def from_list(data: bytes, *, null: bool = False) -> list[str]:
    Path("list").write_bytes(data)
    return listed(files_from="list", null=null)


# Directories


def test_a_directory_is_in_the_order_of_its_whole_paths() -> None:
    names = ["a-b.jpg", "a.jpg", "a/b.jpg", "a/c/d.jpg", "a0.jpg", "B.jpg", "é.jpg", "z/1.png"]
    touch(*(f"d/{name}" for name in names))
    found = listed("d")
    assert found == sorted((f"d/{name}" for name in names), key=os.fsencode)
    assert found[:4] == ["d/B.jpg", "d/a-b.jpg", "d/a.jpg", "d/a/b.jpg"]


def test_only_images_are_listed_whatever_the_case_of_their_suffix() -> None:
    touch("d/a.JPG", "d/b.Png", "d/c.txt", "d/d", "d/e.jpg.txt", "d/.jpg", "d/f.psd", "d/g.tga")
    assert listed("d") == ["d/a.JPG", "d/b.Png", "d/g.tga"]


def test_a_scan_may_look_for_other_suffixes() -> None:
    touch("d/a.jpg", "d/b.HEIC")
    assert listed("d", scan=Scan(frozenset({".heic"}))) == ["d/b.HEIC"]


def test_hidden_files_and_folders_are_skipped_unless_named() -> None:
    touch("d/a.jpg", "d/.b.jpg", "d/.git/c.jpg")
    assert listed("d") == ["d/a.jpg"]
    assert listed("d/.git", "d/.b.jpg") == ["d/.git/c.jpg", "d/.b.jpg"]


def test_a_symlink_loop_is_entered_once() -> None:
    touch("d/a.jpg", "d/e/b.jpg")
    Path("d/e/up").symlink_to("..")
    Path("d/e/here").symlink_to(".")
    assert listed("d") == ["d/a.jpg", "d/e/b.jpg"]


def test_two_links_to_one_folder_are_two_folders() -> None:
    touch("real/a.jpg", "d/own.jpg")
    Path("d/one").symlink_to("../real")
    Path("d/two").symlink_to("../real")
    assert listed("d") == ["d/one/a.jpg", "d/own.jpg", "d/two/a.jpg"]


def test_a_scan_lists_dangling_links_but_no_pipes_and_no_folders_with_a_suffix() -> None:
    touch("d/a.jpg", "d/folder.jpg/b.jpg")
    Path("d/gone.jpg").symlink_to("nowhere")
    Path("d/zero.jpg").symlink_to("/dev/zero")
    os.mkfifo("d/fifo.jpg")
    assert listed("d") == ["d/a.jpg", "d/folder.jpg/b.jpg", "d/gone.jpg"]


def test_what_is_named_like_an_image_but_is_no_file_is_reported() -> None:
    touch("d/a.jpg", "d/note.txt")
    os.mkfifo("d/fifo.jpg")
    os.mkfifo("d/fifo.txt")
    Path("d/zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("d/socket.gif")
        omissions = Omissions()
        sources = open_sources(["d"], scan=Scan(suffixes("common"), omissions))
        assert omissions.skipped == []  # looking whether there is anything reports nothing
        assert count(sources) == 1
        assert [ref.path for ref in iter_refs(sources)] == ["d/a.jpg"]
    assert sorted(omissions.skipped) == ["d/fifo.jpg", "d/socket.gif", "d/zero.png"]


def test_a_million_names_in_one_folder_would_take_a_hundred_megabytes_at_most() -> None:
    """Peak of what Python allocates: 20,000 names in one folder, walked and counted."""
    files = 20_000
    touch("d/seed.txt")
    for index in range(files):
        os.link("d/seed.txt", f"d/photograph-{index:012}.jpg")

    def peak(use: Callable[[list[Source]], object]) -> int:
        tracemalloc.start()
        use(open_sources(["d"]))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(count)  # what is imported and cached the first time
    assert peak(lambda sources: next(iter_refs(sources))) < 100 * files
    assert peak(count) < 100_000
    assert peak(lambda sources: None) < 100_000  # the check looks for one image only


def test_a_tree_is_held_one_folder_at_a_time() -> None:
    for folder in range(100):
        touch(f"d/{folder:02}/seed.jpg")
        for index in range(100):
            os.link(f"d/{folder:02}/seed.jpg", f"d/{folder:02}/{index:030}.jpg")
    tracemalloc.start()
    assert sum(1 for _ in iter_refs(open_sources(["d"]))) == 10_100
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 200_000


def test_no_file_is_asked_for_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The listing says what is a folder; a million calls of stat would be minutes on a server."""
    touch("d/a.jpg", "d/b.txt", "d/e/f.png")
    asked: list[object] = []
    stat = os.stat
    monkeypatch.setattr(os, "stat", lambda path, **rest: asked.append(path) or stat(path, **rest))
    assert listed("d") == ["d/a.jpg", "d/e/f.png"]
    assert not [path for path in asked if b"." in os.fsencode(path)]  # type: ignore[arg-type]


def test_a_directory_without_images_says_what_is_there_instead() -> None:
    touch("d/a.psd", "d/b.PSD", "d/e/c.psd", "d/e/f.txt", "d/e/g.txt", "d/README")
    with pytest.raises(InputError) as caught:
        listed("d")
    found = "6 other files: .psd 3, .txt 2, no suffix 1"
    assert caught.value.message == f"no images in d ({found})"
    assert caught.value.hint == (
        "3 image files were not looked at: 3 .psd (an image editor reads them)"
    )


def test_an_empty_directory_is_an_error() -> None:
    Path("d").mkdir()
    with pytest.raises(InputError, match=r"no images in d \(it is empty\)"):
        listed("d")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_folder_that_cannot_be_read_is_noted_and_the_rest_is_listed() -> None:
    script = (
        "import os, sys\n"
        "from vitcli.errors import VitError\n"
        "from vitcli.images.kinds import suffixes\n"
        "from vitcli.images.sources import *\n"
        "from vitcli.images.scan import *\n"
        "os.chdir(sys.argv[1])\n"
        "os.setgroups([]); os.setgid(65534); os.setuid(65534)\n"
        "notes = []\n"
        "sources = open_sources(['d'], scan=Scan(suffixes('common'), Omissions(notes.append)))\n"
        "print([ref.path for ref in iter_refs(sources)], notes)\n"
        "try: open_sources(['d/private'])\n"
        "except VitError as error: print(error.message)\n"
    )
    with tempfile.TemporaryDirectory() as folder:  # pytest's own is closed to others
        os.chmod(folder, 0o755)  # noqa: PTH101
        os.chdir(folder)
        touch("d/a.jpg", "d/private/b.jpg", "d/z.jpg")
        Path("d/private").chmod(0o700)
        ended = subprocess.run(
            [sys.executable, "-c", script, folder], capture_output=True, text=True, cwd=ROOT
        )
        os.chdir("/")
    assert ended.stdout.splitlines() == [
        "['d/a.jpg', 'd/z.jpg'] ['cannot list d/private: Permission denied']",
        "no images in d/private: cannot list d/private: Permission denied",
    ], ended


# What is named


@pytest.mark.parametrize(
    "typed", ["./a//b.jpg", "a/../a/b.jpg", "missing.jpg", "text.txt", "a/b.jpg", ""]
)
def test_a_named_file_is_always_tried_under_the_name_given(typed: str) -> None:
    touch("a/b.jpg", "text.txt")
    assert listed(typed) == [typed]


@pytest.mark.parametrize(
    ("typed", "printed"),
    [("a", "a/b.jpg"), ("a/", "a/b.jpg"), ("./a", "./a/b.jpg"), (".", "./a/b.jpg")],
)
def test_paths_below_a_directory_begin_with_what_was_typed(typed: str, printed: str) -> None:
    touch("a/b.jpg")
    assert listed(typed) == [printed]


def test_inputs_come_in_the_order_given_and_are_numbered_through() -> None:
    touch("z.jpg", "d/1.jpg", "d/2.jpg")
    refs = list(iter_refs(open_sources(["z.jpg", "d", "z.jpg"])))
    assert refs == [
        ImageRef(0, "z.jpg"),
        ImageRef(1, "d/1.jpg"),
        ImageRef(2, "d/2.jpg"),
        ImageRef(3, "z.jpg"),
    ]


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    for name in (b"caf\xe9.jpg", b"a\nb.jpg", b"\xff\xfe.jpg", b"x\x1b[31m.jpg"):
        Path("d").mkdir(exist_ok=True)
        Path(os.fsdecode(b"d/" + name)).touch()
    expected = [b"d/a\nb.jpg", b"d/caf\xe9.jpg", b"d/x\x1b[31m.jpg", b"d/\xff\xfe.jpg"]
    assert [os.fsencode(path) for path in listed("d")] == expected


# Globs


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("d/*.jpg", ["d/a.jpg", "d/b.jpg"]),
        ("d/?.txt", ["d/c.txt"]),
        ("d/[ab].jpg", ["d/a.jpg", "d/b.jpg"]),
        ("d/**/*.jpg", ["d/a.jpg", "d/b.jpg", "d/e/f.jpg"]),
        ("d/**", ["d/a.jpg", "d/b.jpg", "d/c.txt", "d/e/f.jpg", "d/e/g.txt"]),
        ("*", ["d/a.jpg", "d/b.jpg", "d/e/f.jpg"]),  # a directory that matches is scanned
        ("*/", ["d/a.jpg", "d/b.jpg", "d/e/f.jpg"]),
        ("d/*", ["d/a.jpg", "d/b.jpg", "d/c.txt", "d/e/f.jpg"]),
        ("d/*/", ["d/e/f.jpg"]),
        ("**/e", ["d/e/f.jpg"]),
        ("**/*.txt", ["d/c.txt", "d/e/g.txt"]),
        ("**/**/e/*.jpg", ["d/e/f.jpg"]),
        ("./*/[!a].jpg", ["./d/b.jpg"]),
        ("d//*.jpg", ["d//a.jpg", "d//b.jpg"]),
        ("d/.h*", ["d/.hidden.jpg"]),
        ("*/e/*.jpg", ["d/e/f.jpg"]),
    ],
)
def test_a_pattern_lists_what_matches_in_order(pattern: str, expected: Sequence[str]) -> None:
    touch("d/b.jpg", "d/a.jpg", "d/c.txt", "d/e/f.jpg", "d/e/g.txt", "d/.hidden.jpg")
    assert listed(pattern) == expected
    assert count(open_sources([pattern])) == len(expected)


def test_a_pattern_enters_a_symlink_loop_once() -> None:
    touch("d/a.jpg", "d/e/b.jpg")
    Path("d/e/up").symlink_to("..")
    Path("d/e/here").symlink_to(".")
    assert listed("d/**/*.jpg") == listed("d/**") == ["d/a.jpg", "d/e/b.jpg"]


def test_a_pattern_lists_in_the_order_of_the_whole_paths() -> None:
    names = ["a-b.jpg", "a.jpg", "a/b.jpg", "a/c/d.jpg", "a0.jpg", "B.jpg", "é.jpg", "z/1.jpg"]
    touch(*(f"d/{name}" for name in names))
    in_order = sorted((f"d/{name}" for name in names), key=os.fsencode)
    assert listed("d/**/*.jpg") == listed("*") == in_order


def test_a_pattern_tries_whatever_it_matches() -> None:
    """It names them: a pipe is a row that fails, not one that is missing."""
    Path("d").mkdir()
    os.mkfifo("d/fifo.jpg")
    Path("d/gone.txt").symlink_to("nowhere")
    assert listed("d/*") == ["d/fifo.jpg", "d/gone.txt"]


def test_a_file_whose_name_is_a_pattern_is_that_file() -> None:
    touch("[a].jpg", "a.jpg")
    assert listed("[a].jpg") == ["[a].jpg"]


def test_a_pattern_without_matches_is_an_error() -> None:
    with pytest.raises(InputError, match=r"no file matches nothing/\*\.jpg"):
        listed("nothing/*.jpg")


# Lists of paths


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"\n\r\n\n", []),
        (b"a.jpg\nb.jpg\n", ["a.jpg", "b.jpg"]),
        (b"a.jpg\nb.jpg", ["a.jpg", "b.jpg"]),
        (b"a.jpg\r\nb.jpg\r\n", ["a.jpg", "b.jpg"]),
        (b"\n\na.jpg\n\n", ["a.jpg"]),
        (b" a.jpg \n", [" a.jpg "]),
        (b"a.jpg\na.jpg\n", ["a.jpg", "a.jpg"]),
        (b"*.jpg\n", ["*.jpg"]),
        (b"-\n", ["-"]),
        (b"caf\xe9.jpg\n", ["caf\udce9.jpg"]),
        (b"a\0b.jpg\n", ["a\0b.jpg"]),
    ],
)
def test_a_list_has_one_path_a_line(data: bytes, expected: list[str]) -> None:
    assert from_list(data) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"a.jpg\0b.jpg\0", ["a.jpg", "b.jpg"]),
        (b"a.jpg\0b.jpg", ["a.jpg", "b.jpg"]),
        (b"a\nb.jpg\0 c.jpg \r\0", ["a\nb.jpg", " c.jpg \r"]),
        (b"\0\0a.jpg\0", ["a.jpg"]),
    ],
)
def test_a_nul_separated_list_is_not_trimmed(data: bytes, expected: list[str]) -> None:
    assert from_list(data, null=True) == expected


def test_lines_may_be_longer_than_what_is_read_at_once() -> None:
    long = "x" * (READ_BYTES - 1)
    lines = ["a.jpg", long, "y" * 100_000, "é" * READ_BYTES, "b.jpg"]
    assert from_list("\n".join(lines).encode()) == lines


def test_a_directory_in_a_list_is_scanned() -> None:
    touch("d/b.jpg", "d/c.txt")
    assert from_list(b"a.jpg\nd\n") == ["a.jpg", "d/b.jpg"]


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_list_that_cannot_be_read_is_an_error(name: str) -> None:
    with pytest.raises(
        InputError, match=r"no such list of paths: missing|cannot read \.: Is a directory"
    ):
        listed(files_from=name)


@pytest.mark.parametrize("asked", ["['-']", "[], files_from='-'"])
@pytest.mark.parametrize(
    ("stdin", "expected"),
    [(b"a.jpg\nb.jpg", "['a.jpg', 'b.jpg']"), (b"", "[]"), (None, "cannot read standard input")],
)
def test_a_dash_is_a_list_on_standard_input(stdin: bytes | None, expected: str, asked: str) -> None:
    script = (
        "from vitcli.images.kinds import suffixes\n"
        "from vitcli.images.sources import *\n"
        "from vitcli.images.scan import *\n"
        f"sources = open_sources({asked})\n"
        "assert count(sources) is None\n"
        "try: print([ref.path for ref in iter_refs(sources)])\n"
        "except InputError as error: print(error)\n"
    )
    closed = "exec 0<&-; " if stdin is None else ""
    ended = subprocess.run(
        ["/bin/sh", "-c", f'{closed}exec "$0" -c "$1"', sys.executable, script],
        input=stdin,
        capture_output=True,
        cwd=ROOT,
    )
    assert expected in ended.stdout.decode(), ended


def test_a_list_is_read_as_it_comes() -> None:
    """The first paths are there before the last ones are written."""
    reader, writer = os.pipe()
    os.write(writer, b"a.jpg\nb.j")
    refs = iter_refs(open_sources([], files_from=f"/dev/fd/{reader}"))
    assert next(refs) == ImageRef(0, "a.jpg")
    os.write(writer, b"pg")
    os.close(writer)
    assert [ref.path for ref in refs] == ["b.jpg"]
    os.close(reader)


def test_counting_counts_what_is_listed() -> None:
    touch("d/a.jpg", "d/e/b.jpg", "d/c.txt")
    Path("list").write_bytes(b"x\ny\n")
    assert count(open_sources(["d", "d/*.jpg", "z"], files_from="list")) == 6
    assert count(open_sources(["-"])) is None
    assert count([]) == 0


def test_the_default_scan_looks_for_the_common_formats() -> None:
    touch(*(f"d/x{suffix}" for suffix in suffixes("common")), "d/y.eps", "d/y.pdf")
    assert len(listed("d")) == len(suffixes("common"))


def test_a_source_is_a_class_and_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class Drawers(sources.Source):
        url: str
        scan: Scan

        def images(self, *, stamped: bool = False) -> Iterator[FoundImage]:
            names = (f"{self.url}/{n}.jpg" for n in range(2))
            return (FoundImage(name, stamp=(7, 7) if stamped else None) for name in names)

    row = (lambda text: text.startswith("drawer:"), Drawers)
    monkeypatch.setattr(sources, "SOURCES", [row, *sources.SOURCES])
    touch("d/a.jpg")
    opened = open_sources(["drawer:1", "d"])
    paths = ["drawer:1/0.jpg", "drawer:1/1.jpg", "d/a.jpg"]
    assert [(ref.index, ref.path) for ref in iter_refs(opened)] == list(enumerate(paths))
    assert [ref.stamp for ref in iter_refs(opened, stamped=True)] == [(7, 7), (7, 7), None]
    assert count(opened) is None


# Folders of the system


def test_system_folders_are_left_out_of_every_scan_but_not_where_they_are_named() -> None:
    touch("d/a.jpg", "d/@eaDir/a.jpg/SYNOFILE_THUMB_M.jpg", "d/b/@eaDir/x.jpg", "d/b/b.jpg")
    touch("d/__MACOSX/c.jpg", "d/#recycle/c.jpg", "d/$RECYCLE.BIN/c.jpg", "d/lost+found/c.jpg")
    scan = Scan(suffixes("common"), members=suffixes("common"))
    left = scan.omissions.system
    assert listed("d", scan=scan) == ["d/a.jpg", "d/b/b.jpg"]
    assert sorted(left) == [
        f"d/{name}"
        for name in sorted(
            ("@eaDir", "b/@eaDir", "__MACOSX", "#recycle", "$RECYCLE.BIN", "lost+found")
        )
    ]
    assert listed("d/**/*.jpg") == ["d/a.jpg", "d/b/b.jpg"]
    assert listed("d/*/*.jpg") == ["d/b/b.jpg"]
    assert from_list(b"d\n") == ["d/a.jpg", "d/b/b.jpg"]
    assert listed("d/b/@eaDir") == listed("d/b/@eaDir/x.jpg") == ["d/b/@eaDir/x.jpg"]
    assert listed("d/*/@eaDir/*.jpg") == ["d/b/@eaDir/x.jpg"]
    assert count(open_sources(["d"])) == 2


def test_system_folders_in_archives_are_left_out() -> None:
    names = ("a.jpg", "__MACOSX/._a.jpg", "__MACOSX/a.jpg", "b/@eaDir/a.jpg", "b/@eaDir/b.jpg")
    scan = Scan(suffixes("common"), members=suffixes("common"))
    left = scan.omissions.system
    with zipfile.ZipFile("x.zip", "w") as packed, tarfile.open("x.tar", "w") as tar:
        for name in names:
            packed.writestr(name, b"x")
            tar.addfile(tarfile.TarInfo(name))
    for archive in ("x.zip", "x.tar"):
        left.clear()
        assert listed(archive, scan=scan) == [f"{archive}/a.jpg"]
        assert left == [f"{archive}/__MACOSX", f"{archive}/b/@eaDir"]


def test_a_list_without_ends_of_lines_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long"
    path.write_bytes(b"a.jpg\n" + b"x" * (2 << 20))
    (source,) = open_sources([], files_from=str(path))
    with pytest.raises(InputError, match="holds an entry of more than 1,048,576 bytes"):
        list(source.images())


@pytest.mark.parametrize("null", [False, True])
def test_a_device_that_never_ends_is_no_list(null: bool) -> None:
    (source,) = open_sources([], files_from="/dev/zero", null=null)
    with pytest.raises(InputError, match="/dev/zero is a device, not a list"):
        list(source.images())
    assert list(open_sources([], files_from="/dev/null", null=null)[0].images()) == []
