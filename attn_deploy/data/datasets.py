"""The data sets by name: a further one is one entry in `DATASETS`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from attn_deploy.data.imageset import ImageSet, Split
from attn_deploy.errors import InvalidRequestError

DATA_VARIABLE = "ATTN_DEPLOY_DATA"

Progress = Callable[[str], None]
Loader = Callable[[Split, Path | None, Progress], ImageSet]


@dataclass(frozen=True, slots=True)
class DatasetEntry:
    """One entry: its loader, which takes the split, the user's folder and a progress function, and what it is."""

    name: str
    load: Loader
    summary: str


def _cifar10(split: Split, folder: Path | None, progress: Progress) -> ImageSet:
    from attn_deploy.data.cifar10 import load_cifar10

    return load_cifar10(split, folder, progress)


def _digits(split: Split, folder: Path | None, progress: Progress) -> ImageSet:
    from attn_deploy.data.digits import load_digits

    return load_digits(split)


def _folder(split: Split, folder: Path | None, progress: Progress) -> ImageSet:
    from attn_deploy.data.folder import load_folder

    if folder is None:
        raise InvalidRequestError("the data set 'folder' needs to know which: --data-dir path/to/images.")
    return load_folder(split, folder)


DATASETS = {
    e.name: e
    for e in (
        DatasetEntry("cifar10", _cifar10, "60,000 colour images of 10 classes, 32x32; downloaded once"),
        DatasetEntry("digits", _digits, "1,797 handwritten digits brought to 3x32x32; part of this package"),
        DatasetEntry("folder", _folder, "your own: a folder of class folders, or train/ and test/ with them"),
    )
}


def load_dataset(
    name: str, split: Split = "test", *, data_dir: Path | str | None = None, progress: Progress | None = None
) -> ImageSet:
    """One split of a data set.

    Args:
        name: cifar10, digits or folder.
        split: train or test.
        data_dir: where the files are; by default the folder in the environment variable ``ATTN_DEPLOY_DATA``, else
            the user's cache, to which CIFAR-10 is downloaded once.
        progress: called with a few words while something takes long.

    Raises:
        InvalidRequestError: if there is no such data set or split.
        DatasetError: if files are missing, short or damaged, or a download fails.
        MissingDependencyError: if a package of the extra ``data`` is needed and not installed.
    """
    require_dataset(name)
    require_split(split)
    folder = data_dir if data_dir is not None else os.environ.get(DATA_VARIABLE)
    return DATASETS[name].load(split, Path(folder) if folder else None, progress or (lambda _: None))


def require_dataset(name: str) -> None:
    """Refuse a name that is not a data set's.

    Raises:
        InvalidRequestError: with the names that are.
    """
    if name not in DATASETS:
        close = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise InvalidRequestError(f"there is no data set {name!r}{hint} Data sets are {', '.join(DATASETS)}.")


def require_split(split: str) -> Split:
    """Refuse a word that is not a split's.

    Raises:
        InvalidRequestError: with the words that are.
    """
    if split == "train":
        return "train"
    if split == "test":
        return "test"
    raise InvalidRequestError(f"there is no split {split!r}; splits are train and test.")
