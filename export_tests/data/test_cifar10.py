"""CIFAR-10: the official layout, its edition, and its download."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.data import cifar10, load_dataset
from attn_deploy.data.cifar10 import FOLDER, RECORD_BYTES, RECORDS, load_cifar10
from attn_deploy.errors import DatasetError
from export_tests.conftest import SHARED
from export_tests.data.archives import served, tar_of

NAMES = [*cifar10.FILES["train"], *cifar10.FILES["test"]]


def batch(seed: int) -> bytes:
    """A file of the official layout: random pixels, each label as often as the others."""
    rng = np.random.default_rng(seed)
    records = np.zeros((RECORDS, RECORD_BYTES), np.uint8)
    records[:, 0] = np.arange(RECORDS) % 10
    records[:, 1::16] = rng.integers(0, 256, (RECORDS, 192), np.uint8)
    return records.tobytes()


@pytest.fixture(scope="module")
def batches() -> dict[str, bytes]:
    return {name: batch(i) for i, name in enumerate(NAMES)}


@pytest.fixture(scope="module")
def home(batches, tmp_path_factory) -> Path:
    """A data folder as it stands after unpacking."""
    root = tmp_path_factory.mktemp("cifar")
    (root / FOLDER).mkdir()
    for name, content in batches.items():
        (root / FOLDER / name).write_bytes(content)
    return root


def test_the_official_layout_is_read(home, batches):
    seen = load_dataset("cifar10", "test", data_dir=home)
    assert (len(seen), seen.size, seen.split) == (10_000, (32, 32), "test")
    records = np.frombuffer(batches["test_batch.bin"], np.uint8).reshape(RECORDS, -1)
    assert np.array_equal(seen.labels, records[:, 0])
    assert np.array_equal(seen.images[7, 2, 31, 31], records[7, -1])
    assert seen.images[7, 1, 0, 5] == records[7, 1 + 1024 + 5]
    train = load_cifar10("train", home / FOLDER)  # the folder itself may be named too
    assert len(train) == 50_000
    assert np.array_equal(
        train.images[10_000], np.frombuffer(batches["data_batch_2.bin"], np.uint8)[1:3073].reshape(3, 32, 32)
    )


def test_altered_pixels_are_told(home):
    assert "altered copy" in load_cifar10("test", home).source


def test_the_published_pixels_and_the_jpeg_copy_are_known():
    order = SHARED / "cifar10" / "cifar10-official-order.npz"
    if not order.exists():
        pytest.skip("the first published records of CIFAR-10 (../shared/cifar10) are not on this machine")
    with np.load(order, allow_pickle=False) as stored:
        pixels, labels = stored["lossless"], stored["labels"]
    for heads, given in zip(pixels, labels, strict=True):
        records = np.concatenate([given[: len(heads), None], heads.reshape(len(heads), -1)], axis=1).astype(np.uint8)
        assert cifar10.edition_of(records) == cifar10.PUBLISHED
        records[3, 5] ^= 1
        assert cifar10.edition_of(records) == cifar10.ALTERED


def test_the_environment_names_the_folder(home, monkeypatch):
    monkeypatch.setenv("ATTN_DEPLOY_DATA", str(home))
    assert len(load_dataset("cifar10")) == 10_000


def test_a_missing_folder_and_a_missing_file(home, tmp_path):
    with pytest.raises(DatasetError, match=r"no cifar-10-batches-bin in .*nowhere.*data_batch_1.bin"):
        load_dataset("cifar10", data_dir=tmp_path / "nowhere")
    (tmp_path / "test_batch.bin").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"lacks data_batch_1\.bin, "):
        load_dataset("cifar10", data_dir=tmp_path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda b: b[:-1], "has 30,729,999 bytes; expected 30,730,000"),
        (lambda b: b + b"\0", "has 30,730,001 bytes; expected 30,730,000"),
        (lambda b: b[: 3073 * 4] + b"\x0b" + b[3073 * 4 + 1 :], "image 4 has the label 11; expected 0 to 9"),
    ],
    ids=["short", "long", "label"],
)
def test_a_damaged_file(batches, tmp_path, damage, told):
    for name in NAMES:
        (tmp_path / name).write_bytes(batches[name] if name != "test_batch.bin" else damage(batches[name]))
    with pytest.raises(DatasetError, match=told):
        load_dataset("cifar10", data_dir=tmp_path)


def test_download_unpack_and_the_second_call_needs_no_network(batches, home, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "cache_folder", lambda: tmp_path)
    monkeypatch.setattr("attn_deploy.data.download.cache_folder", lambda: tmp_path)
    archive = tar_of({f"{FOLDER}/{n}": c for n, c in batches.items()} | {f"{FOLDER}/readme.html": b"x"}, "")
    md5 = hashlib.md5(archive).hexdigest()
    told: list[str] = []
    with served(archive) as (url, asked):
        first = load_cifar10("test", progress=told.append, url=url, md5=md5)
    assert asked == [None]
    assert first.digest == load_cifar10("test", home).digest
    assert sorted(p.name for p in tmp_path.iterdir()) == [FOLDER]
    assert sorted(p.name for p in (tmp_path / FOLDER).iterdir()) == sorted(NAMES)
    assert any("184 of 184 MB" in t for t in told)
    assert load_cifar10("test", url="http://127.0.0.1:9/", md5=md5).digest == first.digest
