"""Data sets: the embedded digits, folders of images, and what all sets have in common."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from attn_deploy.data import digits, load_dataset
from attn_deploy.data.imageset import ImageSet, stable_order
from attn_deploy.errors import DatasetError, InvalidRequestError


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
