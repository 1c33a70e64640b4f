"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from gradsift.errors import DiskFullError
from gradsift.files import atomic_text, full_disk_explained, write_text


def test_a_full_disk_leaves_the_old_text_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "results.json"
    write_text(path, "old")

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskFullError, match="nothing of it was written: free space and run again"):
        write_text(path, "new")
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_an_error_while_writing_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_text(tmp_path / "file") as file:
            file.write("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_whatever_a_library_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class OtherError(Exception):
        pass

    def failing(error: Exception) -> None:
        with full_disk_explained(tmp_path):
            raise error

    with pytest.raises(DiskFullError, match="expected room to write, got a full disk"):
        failing(OSError(errno.ENOSPC, "no room"))
    with pytest.raises(OtherError):
        failing(OtherError("something else"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    with pytest.raises(DiskFullError, match="what was finished before is intact"):
        failing(OtherError("cannot serialise"))


def test_every_directory_that_is_made_is_synced_in_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda fd: synced.append(os.readlink(f"/proc/self/fd/{fd}")))
    write_text(tmp_path / "a" / "b" / "file", "x")
    assert synced[:2] == [str(tmp_path), str(tmp_path / "a")]
    assert synced[-1] == str(tmp_path / "a" / "b")
    synced.clear()
    write_text(tmp_path / "a" / "b" / "file", "y")
    assert synced[1:] == [str(tmp_path / "a" / "b")]


def test_directories_are_made_and_text_is_utf8(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "Γ\n")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "Γ\n".encode()
