"""What every data set becomes: images, labels, class names and normalisation constants."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, TypedDict

import numpy as np
from numpy.typing import NDArray

from attn_deploy.errors import DatasetError, InvalidRequestError

Split = Literal["train", "test"]
Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


class DatasetNote(TypedDict):
    """What a record says of a set of images; ``size`` is height and width, ``sha256`` the digest of pixels and labels."""

    name: str
    split: str
    source: str
    images: int
    size: list[int]
    classes: list[str]
    mean: list[float]
    std: list[float]
    sha256: str


@dataclass(frozen=True, slots=True, eq=False)
class ImageSet:
    """One split of a data set.

    Attributes:
        name: cifar10, digits or folder.
        split: train or test.
        source: what these images are, in words that stand beside every number measured on them.
        classes: class names; a label is an index into them.
        mean, std: of each channel, of images scaled to 0..1; what models are trained and tested with.
        images: (N, 3, H, W), uint8.
        labels: (N,), int64.
    """

    name: str
    split: Split
    source: str
    classes: tuple[str, ...]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    images: Images
    labels: Labels

    def __post_init__(self) -> None:
        what = f"{self.name} ({self.split})"
        if self.images.dtype != np.uint8 or self.images.ndim != 4 or self.images.shape[1] != 3:
            raise DatasetError(
                f"{what}: expected uint8 images of shape (N, 3, H, W), got {self.images.dtype} {self.images.shape}."
            )
        if self.labels.shape != (len(self.images),) or self.labels.dtype.kind not in "iu":
            raise DatasetError(
                f"{what}: {len(self.images)} images, and labels of {self.labels.dtype} of shape {self.labels.shape}; give a "
                "whole number for each image."
            )
        if len(self.images) == 0:
            raise DatasetError(f"{what}: there are no images.")
        wrong = np.flatnonzero((self.labels < 0) | (self.labels >= len(self.classes)))
        if wrong.size:
            first = int(wrong[0])
            raise DatasetError(
                f"{what}: image {first} has the label {int(self.labels[first])}; expected 0 to {len(self.classes) - 1}."
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return int(self.images.shape[2]), int(self.images.shape[3])

    @property
    def digest(self) -> str:
        """SHA-256 of the pixels and labels: two runs with one digest saw the same images."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        digest.update(np.ascontiguousarray(self.labels).data)
        return digest.hexdigest()

    def normalised(self, chosen: slice | NDArray[np.intp] | None = None) -> NDArray[np.float32]:
        """Images as a model takes them: float32, scaled to 0..1, minus the mean, over the deviation."""
        images = self.images if chosen is None else self.images[chosen]
        mean = np.asarray(self.mean, np.float32).reshape(3, 1, 1)
        std = np.asarray(self.std, np.float32).reshape(3, 1, 1)
        scaled: NDArray[np.float32] = (images.astype(np.float32) / np.float32(255) - mean) / std
        return scaled

    def batches(self, size: int) -> Iterator[tuple[NDArray[np.float32], Labels]]:
        """Normalised images and labels in order, ``size`` at a time; the last batch may be smaller."""
        for start in range(0, len(self), size):
            chosen = slice(start, start + size)
            yield self.normalised(chosen), self.labels[chosen]

    def head(self, count: int | None) -> ImageSet:
        """The first ``count`` images, or all.

        Raises:
            InvalidRequestError: if the count is below 1, or above what there is.
        """
        if count is None or count == len(self):
            return self
        if not 1 <= count <= len(self):
            raise InvalidRequestError(f"{self.name}: {count} images were asked for; there are {len(self)}.")
        return self._with(np.arange(count))

    def balanced_sample(self, count: int, seed: int = 0) -> ImageSet:
        """``count`` images drawn without repetition, as evenly over the classes as the set allows: for calibration.

        Raises:
            InvalidRequestError: if the count is below 1, or above what there is.
        """
        if not 1 <= count <= len(self):
            raise InvalidRequestError(f"{self.name}: {count} images were asked for; there are {len(self)}.")
        order = stable_order(len(self), seed)
        turn = np.empty(len(self), np.int64)  # how many of its class come before an image
        seen = np.zeros(len(self.classes), np.int64)
        for index in order:
            turn[index] = seen[self.labels[index]]
            seen[self.labels[index]] += 1
        chosen = order[np.argsort(turn[order], kind="stable")][:count]
        return self._with(np.sort(chosen))

    def described(self) -> DatasetNote:
        """What a record says of the set: JSON-ready."""
        return {
            "name": self.name,
            "split": self.split,
            "source": self.source,
            "images": len(self),
            "size": list(self.size),
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "sha256": self.digest,
        }

    def _with(self, chosen: NDArray[np.intp]) -> ImageSet:
        return ImageSet(
            self.name,
            self.split,
            self.source,
            self.classes,
            self.mean,
            self.std,
            self.images[chosen],
            self.labels[chosen],
        )


def stable_order(count: int, seed: int) -> NDArray[np.intp]:
    """A permutation of ``count`` that is the same with every version of every library: indices sorted by a hash."""
    keys = [hashlib.sha256(f"{seed}:{index}".encode()).digest() for index in range(count)]
    return np.array(sorted(range(count), key=keys.__getitem__), np.intp)
