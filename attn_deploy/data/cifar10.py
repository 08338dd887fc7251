"""CIFAR-10 from its official binary layout: no pickle.

Data: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009,
    https://www.cs.toronto.edu/~kriz/cifar.html. Six files of 10,000 records: a label byte, then 3,072 pixel bytes, the
    red, green and blue planes of a 32x32 image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attn_deploy.data.archive import unpack_files
from attn_deploy.data.download import cache_folder, download
from attn_deploy.data.imageset import ImageSet, Split
from attn_deploy.errors import DatasetError

URL = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"
MD5 = "c32a1d4ab5d03f1284b67883e8d87530"  # of the archive, as the data set's page gives it
FOLDER = "cifar-10-batches-bin"
RECORDS, RECORD_BYTES = 10_000, 1 + 3 * 32 * 32
FILES: dict[Split, tuple[str, ...]] = {
    "train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
    "test": ("test_batch.bin",),
}
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of the training images

# Copies with altered pixels are about; accuracies measured on them are not those of CIFAR-10. SHA-256 of the first 1,017
# records of a file tells which edition it belongs to.
HEAD_RECORDS = 1017
PUBLISHED = "CIFAR-10"
JPEG_COPY = "JPEG copy of CIFAR-10"
ALTERED = "altered copy of CIFAR-10 (its pixels are not the published ones)"
EDITIONS = {
    "ea2c7a46f23371a3f814ce8e198838201147e8e6d1f8a84baa3583ebbec03247": PUBLISHED,
    "57dc4e8db7ddc925938d1f2821ee0b499020fa077bedd98d88e6459c7cacb2ab": PUBLISHED,
    "be335161c2afa9c985a48c2dec47238b9438dd6686773cc9725a5bfc8217e3f2": PUBLISHED,
    "34046a49d60fa18b42147571ad4e995a81c77fb47b46fef2e0798d19c0a30303": PUBLISHED,
    "e04d47eac99eb22c5406c696680423d9d7ff080be029363b6c6b947c5165f985": PUBLISHED,
    "c77ad46116beb3508f55d38aa34893560beae9515f9aca4a4dd0ea3617ac289e": PUBLISHED,
    "81ea57af309969990c4e4d143b10506b77f56a801292f896abf20494c149abb4": JPEG_COPY,
    "82033493ac75d9e96be57cf21d8a73f378c2a58c412b9cdf6dc118e6fb374101": JPEG_COPY,
    "cf119d2be3e815c010adb7194d6f09b1aa661d3b631c4487f90fa598a619ac58": JPEG_COPY,
    "8dbcca60d4667644f8fcbf94afdaad260b7f592f4251712f4cad7b0c43492fc3": JPEG_COPY,
    "4b96d5c8d3b8525e6a17fa501d16b8c83182e586a79be7097154856b354d8174": JPEG_COPY,
    "d3cd71f9f4a28f228c1baa51e5c693bd6d83bb8c1fde732180f80eff68498949": JPEG_COPY,
}


def load_cifar10(
    split: Split,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    *,
    url: str = URL,
    md5: str = MD5,
) -> ImageSet:
    """One split: 50,000 training or 10,000 test images.

    Args:
        split: train or test.
        folder: holds ``cifar-10-batches-bin``, or is it; by default the cache, to which the archive is downloaded.
        progress: called with a few words while that happens.
        url: of the archive.
        md5: of the archive.

    Raises:
        DatasetError: if a file is missing, short or damaged, or the download fails.
        MissingDependencyError: if pooch is needed and not installed.
    """
    home = _home(folder, progress, url, md5)
    labels, images, editions = [], [], set()
    for name in FILES[split]:
        records = _read(home / name)
        editions.add(edition_of(records))
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, 32, 32))
    return ImageSet(
        name="cifar10",
        split=split,
        source=editions.pop() if len(editions) == 1 else ALTERED,
        classes=CLASSES,
        mean=MEAN,
        std=STD,
        images=np.concatenate(images),
        labels=np.concatenate(labels),
    )


def edition_of(records: NDArray[np.uint8]) -> str:
    """What a file's records are: the published pixels, or a copy that altered them."""
    return EDITIONS.get(hashlib.sha256(np.ascontiguousarray(records[:HEAD_RECORDS]).data).hexdigest(), ALTERED)


def _home(folder: Path | None, progress: Callable[[str], None], url: str, md5: str) -> Path:
    if folder is not None:
        for candidate in (folder / FOLDER, folder):
            if all((candidate / name).is_file() for names in FILES.values() for name in names):
                return candidate
        wanted = ", ".join(name for names in FILES.values() for name in names)
        location = folder / FOLDER if (folder / FOLDER).is_dir() else folder
        missing = [n for names in FILES.values() for n in names if not (location / n).is_file()]
        if location.is_dir() and len(missing) < 6:
            raise DatasetError(f"cifar10: {location} lacks {', '.join(missing)}; the set needs {wanted}.")
        raise DatasetError(
            f"cifar10: there is no {FOLDER} in {folder}; expected a folder with {wanted}. Leave --data-dir (and "
            "ATTN_DEPLOY_DATA) out to have it downloaded."
        )
    home = cache_folder() / FOLDER
    if not home.is_dir():
        archive = download(url, f"md5:{md5}", "cifar-10-binary.tar.gz", progress)
        progress(f"unpacking {archive.name}")
        wanted_files = {f"{FOLDER}/{name}": name for names in FILES.values() for name in names}
        unpack_files(archive, wanted_files, home)
        archive.unlink()  # the files it held are 13 MB larger than it; both are not needed
    return home


def _read(path: Path) -> NDArray[np.uint8]:
    try:
        content = np.fromfile(path, np.uint8)
    except OSError as error:
        raise DatasetError(f"cifar10: {path} cannot be read: {error.strerror or error}.") from error
    expected = RECORDS * RECORD_BYTES
    if content.size != expected:
        raise DatasetError(
            f"cifar10: {path} has {content.size:,} bytes; expected {expected:,}, which is {RECORDS:,} records of "
            f"{RECORD_BYTES:,}. Remove the folder to have it downloaded again."
        )
    return content.reshape(RECORDS, RECORD_BYTES)
