"""Data sets: what loads, and how each kind of damage is told. The server of the downloads is a thread of the test."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.server
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.data import cifar10, digits, load_dataset
from attn_deploy.data.archive import unpack_files
from attn_deploy.data.cifar10 import FOLDER, RECORD_BYTES, RECORDS, load_cifar10
from attn_deploy.data.download import download
from attn_deploy.data.imageset import ImageSet, stable_order
from attn_deploy.errors import DatasetError, InvalidRequestError
from export_tests.conftest import SHARED

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


def tar_of(members: dict[str, bytes], compression: str = "gz") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=f"w:{compression}") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves one file with ranges; ``cut`` ends the first answers after so many bytes."""

    def __init__(self, content, cuts, asked, *args):
        self.content, self.cuts, self.asked = content, cuts, asked
        super().__init__(*args)

    def do_GET(self):
        wanted = self.headers.get("Range")
        self.asked.append(wanted)
        start = int(re.match(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
        if start >= len(self.content):
            self.send_error(416)
            return
        body = self.content[start:]
        self.send_response(206 if wanted else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = self.cuts.pop(0) if self.cuts else None
        with contextlib.suppress(ConnectionError):
            self.wfile.write(body[:cut])

    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(content: bytes, cuts=()):
    asked: list[str | None] = []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, content, list(cuts), asked))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/archive.tar.gz", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# cifar10


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


# downloads


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


# digits


def test_digits():
    train, test = load_dataset("digits", "train"), load_dataset("digits", "test")
    assert (len(train), len(test), train.size) == (1437, 360, (32, 32))
    assert set(map(int, test.labels)) == set(range(10))
    together = {i.tobytes() for i in train.images} & {i.tobytes() for i in test.images}
    assert not together, "an image is in both splits"
    assert test.digest == "f8a34140c66fc037155bad289581b0e14c5e98880bed56fc7dee1cfa2ea95718"
    scaled = train.images.astype(np.float64) / 255
    np.testing.assert_allclose(scaled.mean((0, 2, 3)), digits.MEAN, atol=1e-4)
    np.testing.assert_allclose(scaled.std((0, 2, 3)), digits.STD, atol=1e-4)
    assert abs(float(train.normalised().mean())) < 1e-3


def test_digits_are_enlarged_as_torch_would():
    import torch

    pixels, _ = digits._read(digits.FILE)
    small = torch.from_numpy(pixels[:20].astype(np.float64))[:, None] * (255 / 16)
    expected = torch.nn.functional.interpolate(small, scale_factor=4, mode="bilinear").numpy()
    made = digits._enlarged(pixels[:20])
    assert np.abs(made - expected).max() <= 0.5 + 1e-9
    assert np.array_equal(made[:, 0], made[:, 2])


def test_a_damaged_file_of_the_package(tmp_path):
    content = bytearray(digits.FILE.read_bytes())
    (tmp_path / "short.npz").write_bytes(content[:1000])
    with pytest.raises(DatasetError, match="cannot be read"):
        digits.load_digits("test", tmp_path / "short.npz")
    with np.load(digits.FILE) as stored:
        pixels, labels = stored["images"].copy(), stored["labels"]
    pixels[0, 0, 0] += 1
    np.savez(tmp_path / "changed.npz", images=pixels, labels=labels)
    with pytest.raises(DatasetError, match="is damaged"):
        digits.load_digits("test", tmp_path / "changed.npz")


# folders


@pytest.fixture
def pictures(tmp_path) -> Path:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed: pip install 'attn-deploy[data]'")
    for index in range(20):
        for name, colour in (("cats", (255, 0, 0)), ("dogs", (0, 0, index))):
            (tmp_path / name).mkdir(exist_ok=True)
            image.new("RGB", (40 + index, 50), colour).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_a_folder_of_class_folders(pictures):
    train, test = (load_dataset("folder", s, data_dir=pictures) for s in ("train", "test"))
    assert train.classes == test.classes == ("cats", "dogs")
    assert len(train) + len(test) == 40
    assert 2 <= len(test) <= 16
    assert test.size == (32, 32)
    assert (train.images[train.labels == 0] == np.array([255, 0, 0]).reshape(1, 3, 1, 1)).all()


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text there")
def test_names_of_files_that_are_no_text(pictures, tmp_path_factory):
    root = tmp_path_factory.mktemp("odd") / "images"
    shutil.copytree(pictures, root)
    for place in [p for p in root.rglob("*") if p.is_file()]:
        place.rename(os.fsdecode(os.fsencode(place.with_suffix("")) + b"\xff" + os.fsencode(place.suffix)))
    parts = [load_dataset("folder", s, data_dir=root) for s in ("train", "test")]
    assert sum(map(len, parts)) == sum(len(load_dataset("folder", s, data_dir=pictures)) for s in ("train", "test"))


def test_a_folder_split_by_its_owner(pictures, tmp_path):
    root = tmp_path / "own"
    for split, keep in (("train", range(15)), ("val", range(15, 20))):
        for name in ("cats", "dogs"):
            (root / split / name).mkdir(parents=True)
            for index in keep:
                (root / split / name / f"{index}.png").write_bytes((pictures / name / f"{index}.png").read_bytes())
    assert (len(load_dataset("folder", "train", data_dir=root)), len(load_dataset("folder", data_dir=root))) == (30, 10)
    (root / "val" / "fish").mkdir()
    with pytest.raises(DatasetError, match="differ in the classes fish"):
        load_dataset("folder", "train", data_dir=root)


def test_folders_that_cannot_be_used(pictures, tmp_path):
    with pytest.raises(InvalidRequestError, match="--data-dir"):
        load_dataset("folder")
    with pytest.raises(DatasetError, match="is not a folder"):
        load_dataset("folder", data_dir=tmp_path / "nothing")
    with pytest.raises(DatasetError, match="has 0 folders in it"):
        load_dataset("folder", data_dir=pictures / "cats")
    (pictures / "cats" / "0.png").write_bytes(b"not an image")
    with pytest.raises(DatasetError, match=r"0\.png cannot be read as an image"):
        [load_dataset("folder", s, data_dir=pictures) for s in ("train", "test")]
    (pictures / "fish").mkdir()
    with pytest.raises(DatasetError, match=r"fish holds no image"):
        load_dataset("folder", data_dir=pictures)


# what all have in common


def image_set(count=8, **changed):
    settings = {
        "name": "made", "split": "test", "source": "a test", "classes": ("a", "b"), "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5), "images": np.full((count, 3, 4, 4), 255, np.uint8), "labels": np.arange(count) % 2,
    }  # fmt: skip
    return ImageSet(**{**settings, **changed})


def test_sets_refuse_what_does_not_fit():
    with pytest.raises(DatasetError, match=r"expected uint8 images of shape \(N, 3, H, W\)"):
        image_set(images=np.zeros((8, 1, 4, 4), np.uint8))
    with pytest.raises(DatasetError, match=r"8 images, and labels of int64 of shape \(7,\)"):
        image_set(labels=np.zeros(7, np.int64))
    with pytest.raises(DatasetError, match="image 2 has the label -1; expected 0 to 1"):
        image_set(labels=np.array([0, 1, -1, 0, 0, 0, 0, 0]))
    with pytest.raises(DatasetError, match="there are no images"):
        image_set(0)
    with pytest.raises(InvalidRequestError, match="9 images were asked for; there are 8"):
        image_set().head(9)
    with pytest.raises(InvalidRequestError, match="no data set 'cifar'; did you mean 'cifar10'"):
        load_dataset("cifar")
    with pytest.raises(InvalidRequestError, match="there is no split 'val'"):
        load_dataset("digits", "val")


def test_batches_samples_and_digests():
    given = load_dataset("digits")
    assert [len(x) for x, _ in given.batches(100)] == [100, 100, 100, 60]
    assert np.concatenate([x for x, _ in given.batches(100)]).tobytes() == given.normalised().tobytes()
    assert image_set().normalised().max() == 1.0
    sample = given.balanced_sample(95, seed=3)
    assert np.bincount(sample.labels, minlength=10).min() >= 9
    assert sample.digest == given.balanced_sample(95, seed=3).digest
    assert sample.digest != given.balanced_sample(95, seed=4).digest
    changed = image_set(images=np.full((8, 3, 4, 4), 254, np.uint8))
    assert changed.digest != image_set().digest
    assert given.head(10).labels.tolist() == given.labels[:10].tolist()


def test_the_order_never_changes():
    assert stable_order(8, 0).tolist() == [7, 4, 3, 2, 6, 0, 5, 1]
    assert sorted(stable_order(50, 1)) == list(range(50))


def test_data_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from attn_deploy.data import load_dataset as f; print(len(f('digits')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "360"
