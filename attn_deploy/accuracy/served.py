"""Classifiers that take raw images or give answers in place of scores: files exported with pre- or post-processing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.conversion.preprocess import Preprocess, raw_images
from attn_deploy.data import ImageSet
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import Arrays

_NEVER = -1e9  # the score of a class that is not among the answers


@dataclass(frozen=True, slots=True)
class Served:
    """What stands around a classifier in its file.

    Attributes:
        images: how images go in; None where the caller normalises them.
        choice: argmax or topk; empty where the file gives scores.
    """

    images: Preprocess | None = None
    choice: str = ""

    def batches(self, images: ImageSet, size: int, dtype: str) -> Iterator[tuple[NDArray[Any], NDArray[Any]]]:
        """Images as the file takes them and labels in order, ``size`` at a time; the last batch may be smaller."""
        if self.images is None:
            yield from images.batches(size)
            return
        nhwc = self.images.layout == "nhwc"
        for start in range(0, len(images), size):
            pixels = images.images[start : start + size]
            yield self.images.apply(pixels, nhwc=nhwc, dtype=dtype), images.labels[start : start + size]

    def scores(self, outputs: Arrays, classes: int, owner: str) -> NDArray[np.float64]:
        """A score for each class, N x classes; of classes that are not among the answers a very low one.

        Raises:
            InvalidRequestError: if an answer is no class of the data set, or too few are given for the top five.
        """
        values = list(outputs.values())
        if not self.choice:
            return values[0].astype(np.float64)
        ids = values[-1].astype(np.int64)
        ids = ids.reshape(len(ids), -1)
        if ids.max(initial=0) >= classes or ids.min(initial=0) < 0:
            raise InvalidRequestError(
                f"{owner}: it answers with the class {ids.max()}, and the data set has {classes} classes."
            )
        table = np.full((len(ids), classes), _NEVER)
        ranks = -np.arange(ids.shape[1], dtype=np.float64)
        np.put_along_axis(table, ids, np.broadcast_to(ranks, ids.shape), 1)
        return table


def served_by(record: Mapping[str, Any]) -> Served:
    """What stands around the model of an export's record."""
    choice = str((record.get("postprocess") or {}).get("choice", ""))
    if choice not in ("", "argmax", "topk"):
        raise InvalidRequestError(f"the file answers with {choice}, which is no class; evaluate takes classifiers.")
    return Served(raw_images(record), choice)
