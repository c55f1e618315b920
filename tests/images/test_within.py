"""What lies below the folder of a table, and what only seems to."""

from __future__ import annotations

from pathlib import Path

import pytest

from vitcli.images.within import is_within


def test_paths_below_a_folder_and_paths_that_leave_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "cats").mkdir(parents=True)
    (tmp_path / "database").mkdir()
    (folder / "out").symlink_to(tmp_path)
    (folder / "in").symlink_to(folder / "cats")
    (folder / "a.png").symlink_to("/etc/passwd")
    for inside in ("cats/a.png", "in/a.png", "cats/../b.png", "gone/a.png"):
        assert is_within(str(folder / inside), str(folder)), inside
    for outside in ("../a.png", "../database/a.png", "out/a.png", "a.png", "/etc/passwd", "a\0b"):
        assert not is_within(str(folder / outside), str(folder)), outside
    assert not is_within(str(folder), str(folder))
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert is_within(str(link / "cats" / "a.png"), str(folder))


def test_a_relative_folder_is_where_the_process_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert is_within("a.png", "") and is_within("a.png", ".")
    assert not is_within("../a.png", "")


def test_urls_are_within_their_own_prefix_alone() -> None:
    assert is_within("s3://bucket/set/a.png", "s3://bucket/set")
    assert is_within("s3://bucket/set/a.png", "s3://bucket/set/")
    for outside in (
        "s3://bucket/settled/a.png",
        "s3://bucket/set/../b.png",
        "https://host/a.png",
        "/etc/passwd",
        "S3://other/a.png",
        "https://h/t/%2e%2e/a.png",
    ):
        assert not is_within(outside, "s3://bucket/set"), outside
    assert not is_within("https://h/t/%2e%2e/a.png", "https://h/t")
    assert not is_within("https://host/a.png", "/data")
    assert not is_within("file:///data/a.png", "/data")
