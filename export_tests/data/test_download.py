"""Downloads that go on where they ended, and archives that are unpacked with care."""

from __future__ import annotations

import hashlib
import tarfile

import numpy as np
import pytest

from attn_deploy.data.archive import unpack_files
from attn_deploy.data.download import download
from attn_deploy.errors import DatasetError
from export_tests.data.archives import served, tar_of


def test_an_interrupted_download_goes_on_where_it_ended(tmp_path):
    content = np.random.default_rng(0).bytes(1_000_000)
    known = f"sha256:{hashlib.sha256(content).hexdigest()}"
    with served(content, cuts=[300_000, 200_000]) as (url, asked):
        kept = []
        for _ in range(2):
            with pytest.raises(DatasetError, match=r"could not be downloaded .* what has arrived is kept"):
                download(url, known, "a.bin", folder=tmp_path)
            kept.append((tmp_path / "a.bin.part").stat().st_size)
        assert not (tmp_path / "a.bin").exists()
        path = download(url, known, "a.bin", folder=tmp_path)
        assert 200_000 < kept[0] < kept[1] <= 500_000
        assert asked == [None, f"bytes={kept[0]}-", f"bytes={kept[1]}-"]
        assert path.read_bytes() == content
        download(url, known, "a.bin", folder=tmp_path)
        assert len(asked) == 3, "a file that is there was fetched again"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_a_part_that_is_complete_is_used(tmp_path):
    (tmp_path / "a.bin.part").write_bytes(b"whole")
    with served(b"whole") as (url, _):
        path = download(url, f"md5:{hashlib.md5(b'whole').hexdigest()}", "a.bin", folder=tmp_path)
    assert path.read_bytes() == b"whole"


def test_a_wrong_checksum_leaves_nothing(tmp_path):
    with served(b"something else") as (url, _), pytest.raises(DatasetError, match="not the file that was expected"):
        download(url, f"md5:{hashlib.md5(b'whole').hexdigest()}", "a.bin", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_server(tmp_path):
    with pytest.raises(DatasetError, match=r"could not be downloaded .*cannot be reached.*--data-dir"):
        download("http://127.0.0.1:9/a.bin", "md5:00", "a.bin", folder=tmp_path)


# archives


def test_only_what_is_wanted_is_unpacked(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_of({"d/x": b"1", "d/y": b"2", "d/z": b"3"}))
    unpack_files(tmp_path / "a.tar.gz", {"d/x": "x", "d/z": "last"}, tmp_path / "out")
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == {"x": b"1", "last": b"3"}


@pytest.mark.parametrize("path", ["../evil", "/tmp/evil", "d/../../evil"])
def test_a_path_that_climbs_out_is_refused(path, tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_of({"d/x": b"1", path: b"2"}))
    with pytest.raises(DatasetError, match="a path that leaves the archive"):
        unpack_files(tmp_path / "a.tar.gz", {"d/x": "x"}, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_a_link_in_place_of_a_file_is_refused(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        link = tarfile.TarInfo("d/x")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    with pytest.raises(DatasetError, match="should be a plain file"):
        unpack_files(tmp_path / "a.tar", {"d/x": "x"}, tmp_path / "out")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_archive(keep, tmp_path):
    whole = tar_of({"d/x": np.random.default_rng(0).bytes(100_000), "d/y": b"2"})
    (tmp_path / "a.tar.gz").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(DatasetError, match="truncated or damaged"):
        unpack_files(tmp_path / "a.tar.gz", {"d/x": "x", "d/y": "y"}, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["a.tar.gz"]


def test_an_archive_of_something_else(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(tar_of({"other": b"1"}))
    with pytest.raises(DatasetError, match="has no d/x"):
        unpack_files(tmp_path / "a.tar.gz", {"d/x": "x"}, tmp_path / "out")
