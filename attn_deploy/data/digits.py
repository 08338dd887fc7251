"""The 1,797 handwritten digits of UCI's optdigits test set, embedded, so that accuracy can be measured offline.

Data: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, 1998,
    doi:10.24432/C50P49, CC BY 4.0; by way of scikit-learn, whose copy has the same order. See DIGITS-LICENSE.md.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attn_deploy.data.imageset import Images, ImageSet, Split, stable_order
from attn_deploy.errors import DatasetError

FILE = Path(__file__).with_name("digits.npz")
SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"  # of the pixels, then the labels
COUNT, SIDE, LEVELS = 1797, 8, 16
SCALE = 4  # 8x8 to 32x32
TEST_COUNT = 360
SPLIT_SEED = 0
MEAN, STD = (0.3046, 0.3046, 0.3046), (0.3232, 0.3232, 0.3232)  # of the training images


def load_digits(split: Split, file: Path = FILE) -> ImageSet:
    """The training (1,437) or test images (360), 3x32x32; which image is in which split never changes.

    Raises:
        DatasetError: if the file of the package is damaged.
    """
    pixels, labels = _read(file)
    order = stable_order(COUNT, SPLIT_SEED)
    chosen = np.sort(order[:TEST_COUNT] if split == "test" else order[TEST_COUNT:])
    return ImageSet(
        name="digits",
        split=split,
        source="UCI handwritten digits (optdigits test set) brought to 3x32x32",
        classes=tuple("0123456789"),
        mean=MEAN,
        std=STD,
        images=_enlarged(pixels[chosen]),
        labels=labels[chosen].astype(np.int64),
    )


def _read(file: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            pixels, labels = stored["images"], stored["labels"]
    except Exception as error:  # zipfile, zlib and numpy each raise their own
        raise DatasetError(
            f"{file} cannot be read: {str(error) or type(error).__name__}. Install attn-deploy again."
        ) from error
    digest = hashlib.sha256(pixels.tobytes() + labels.tobytes()).hexdigest()
    if pixels.shape != (COUNT, SIDE, SIDE) or digest != SHA256:
        raise DatasetError(
            f"{file} is damaged: expected {COUNT} images with sha256 {SHA256[:12]}..., got {len(pixels)} with "
            f"{digest[:12]}.... Install attn-deploy again."
        )
    return pixels, labels


def _enlarged(pixels: NDArray[np.uint8]) -> Images:
    """8x8 levels 0..16 as 3x32x32 of 0..255: bilinear, in integers, so that every machine makes the same bytes."""
    weights = _bilinear_weights(SIDE, SCALE)
    weighed = weights @ pixels.astype(np.int64) @ weights.T
    whole = LEVELS * (2 * SCALE) ** 2
    grey = ((weighed * 255 + whole // 2) // whole).astype(np.uint8)
    return np.repeat(grey[:, None], 3, axis=1)


def _bilinear_weights(side: int, scale: int) -> NDArray[np.int64]:
    """The matrix of a bilinear enlargement with half-pixel centres, in units of ``1 / (2 * scale)``."""
    weights = np.zeros((side * scale, side), np.int64)
    for row in range(side * scale):
        doubled = 2 * row + 1 - scale  # twice the scaled source position, counted from the first centre
        left, part = divmod(doubled, 2 * scale)
        weights[row, min(max(left, 0), side - 1)] += 2 * scale - part
        weights[row, min(max(left + 1, 0), side - 1)] += part
    return weights
