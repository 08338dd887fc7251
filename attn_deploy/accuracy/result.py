"""What a test on a data set found, with the prediction for every image."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.accuracy.metrics import (
    Integers,
    PairedTest,
    confusion_matrix,
    mcnemar,
    wilson_interval,
)
from attn_deploy.data.imageset import DatasetNote
from attn_deploy.errors import InvalidRequestError
from attn_deploy.files import write_atomic
from attn_deploy.reading import field_error, read_json, require_share, typed
from attn_deploy.runtimes.base import RuntimeInfo

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class PredictionAgreement:
    """Two sets of predictions for the same images.

    Attributes:
        reference: what was compared with.
        same: images with the same prediction; ``count`` all.
        paired: McNemar's test of which is right more often.
    """

    reference: str
    same: int
    count: int
    paired: PairedTest


@dataclass(frozen=True, slots=True)
class AccuracyResult:
    """One model in one runtime on one data set.

    Attributes:
        model: name or file.
        info: what ran, as found.
        dataset: as `ImageSet.described` gives it, with the digest of the images and the words on their source.
        labels, predictions: for each image in order.
        in_top5: images whose label is among the five highest scores (all classes where there are fewer than five).
        seconds: of all forward passes.
        agreement: with a reference, where one was given.
    """

    model: str
    info: RuntimeInfo
    dataset: DatasetNote
    labels: tuple[int, ...]
    predictions: tuple[int, ...]
    in_top5: int
    seconds: float
    agreement: PredictionAgreement | None = None
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Images."""
        return len(self.labels)

    @property
    def right(self) -> NDArray[np.bool_]:
        """For each image, whether its highest score was its label's."""
        right: NDArray[np.bool_] = np.asarray(self.labels) == np.asarray(self.predictions)
        return right

    @property
    def correct(self) -> int:
        """Images whose highest score was their label's."""
        return int(self.right.sum())

    @property
    def top1(self) -> float:
        """Share of those."""
        return self.correct / self.count

    @property
    def top5(self) -> float:
        """Share of images whose label was among the five highest scores."""
        return self.in_top5 / self.count

    @property
    def confusion(self) -> Integers:
        """``[i, j]``: images of class i that were taken for class j."""
        return confusion_matrix(np.asarray(self.labels), np.asarray(self.predictions), len(self.dataset["classes"]))

    def per_class(self) -> dict[str, float | None]:
        """Share of right answers for each class; None for a class without images."""
        table = self.confusion
        totals = table.sum(1)
        return {
            name: float(table[i, i] / totals[i]) if totals[i] else None
            for i, name in enumerate(self.dataset["classes"])
        }

    def compared_with(self, other: AccuracyResult) -> PredictionAgreement:
        """Agreement of this result's predictions with another's.

        Raises:
            InvalidRequestError: if the other saw other images.
        """
        if self.dataset["sha256"] != other.dataset["sha256"]:
            raise InvalidRequestError(
                f"{self.model} and {other.model} were tested on different images (sha256 "
                f"{self.dataset['sha256'][:12]}... and {other.dataset['sha256'][:12]}...); test both on the same."
            )
        same = int((np.asarray(self.predictions) == np.asarray(other.predictions)).sum())
        what = f"{other.model} in {other.info.runtime}"
        return PredictionAgreement(what, same, self.count, mcnemar(self.right, other.right))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data, with the derived numbers for readers without this package."""
        low, high = wilson_interval(self.correct, self.count)
        return {
            "schema_version": SCHEMA_VERSION,
            **asdict(self),
            "labels": list(self.labels),
            "predictions": list(self.predictions),
            "summary": {
                "images": self.count,
                "correct": self.correct,
                "top1": self.top1,
                "top1_interval_95": [low, high],
                "top5": self.top5,
                "per_class": self.per_class(),
                "confusion": self.confusion.tolist(),
            },
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AccuracyResult:
        """The inverse of `to_dict`.

        Raises:
            InvalidRequestError: if the data are of another schema version, or no accuracy result.
        """
        version = data.get("schema_version") if isinstance(data, Mapping) else None
        if version != SCHEMA_VERSION:
            raise InvalidRequestError(
                f"the accuracy result has schema version {version}, this version of attn-deploy "
                f"reads {SCHEMA_VERSION}; test again."
            )
        result = typed(data, cls, signed=("mean", "settings", "record"))
        result.check()
        return result

    def check(self) -> None:
        """Check what the types do not say: an answer for each image, and no class that is not there.

        Raises:
            InvalidRequestError: if something is beyond what it can be; the message names the field.
        """
        classes = len(self.dataset["classes"])
        if self.agreement is not None:
            require_share("agreement.paired.p_value", self.agreement.paired.p_value)
            if not self.agreement.same <= self.agreement.count > 0:
                raise field_error(
                    "agreement.count", self.agreement.count, "at least 1, and at least those that are the same"
                )
        if not self.seconds > 0:
            raise field_error("seconds", self.seconds, "above 0")
        if not self.labels:
            raise field_error("labels", self.labels, "those of at least one image")
        if len(self.predictions) != len(self.labels):
            raise field_error("predictions", f"{len(self.predictions)} answers", f"one for each of {self.count} images")
        if not self.correct <= self.in_top5 <= self.count:
            raise field_error("in_top5", self.in_top5, f"from {self.correct}, which are right, to {self.count}, all")
        for name in ("labels", "predictions"):
            wrong = next((n for n in getattr(self, name) if not 0 <= n < classes), None)
            if wrong is not None:
                raise field_error(name, wrong, f"one of {classes} classes, from 0")
        if not self.correct <= self.in_top5 <= self.count:
            raise field_error("in_top5", self.in_top5, f"from {self.correct} to {self.count}")

    def write(self, path: Path) -> None:
        """Write the result as JSON, whole or not at all."""
        write_atomic(path, json.dumps(self.to_dict(), allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> AccuracyResult:
        """Read what `write` wrote.

        Raises:
            InvalidRequestError: if there is no such file, or it is not an accuracy result.
        """
        try:
            return cls.from_dict(read_json(path))
        except InvalidRequestError as error:
            text = str(error)
            raise InvalidRequestError(
                text if str(path) in text else f"{path} is not an accuracy result: {text}"
            ) from error
