"""What another process sweeps away between making something temporary and locking it is made again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from attn_deploy import files
from attn_deploy.files import scratch_folder, write_atomic


@pytest.fixture
def swept(monkeypatch, tmp_path):
    """The first two things that are to be locked are swept; gives what they were."""
    seen: list[Path] = []
    original = files._lock

    def lock(handle: int):
        path = Path(f"/proc/self/fd/{handle}").readlink()
        seen.append(path)
        if len(seen) <= 2:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            return False if len(seen) == 1 else original(handle)  # while the other still holds it, and after
        return original(handle)

    monkeypatch.setattr(files, "_lock", lock)
    files._swept.add(tmp_path.absolute())
    return seen


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
def test_a_swept_folder_is_made_again(swept, tmp_path):
    with scratch_folder(beside=tmp_path / "x") as folder:
        assert folder.is_dir()
        assert len(set(swept)) == 3
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are read from /proc")
def test_a_swept_file_is_made_again(swept, tmp_path):
    write_atomic(tmp_path / "a.txt", "whole")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert len(swept) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_is_gone_before_it_is_opened_is_made_again(monkeypatch, tmp_path):
    opened = []
    original = os.open

    def open_(path, flags, *rest, **options):
        if files.TEMPORARY in str(path) and not opened:
            opened.append(path)
            Path(path).rmdir()
        return original(path, flags, *rest, **options)

    monkeypatch.setattr(os, "open", open_)
    with scratch_folder(beside=tmp_path / "x") as folder:
        assert folder.is_dir()
        assert str(folder) != str(opened[0])
