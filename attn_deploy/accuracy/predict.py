"""A data set through a Runner."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypedDict

import numpy as np

from attn_deploy.accuracy.metrics import ranks_of_labels
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.accuracy.served import Served
from attn_deploy.data import ImageSet
from attn_deploy.errors import InvalidRequestError, ParityError
from attn_deploy.runtimes.base import Runner

BATCH = 100


PLAIN = Served()


class TestSummary(TypedDict):
    """The few numbers of a result that a training record keeps."""

    correct: int
    images: int
    top1: float
    top5: float
    runtime: str


def run_dataset(
    runner: Runner,
    images: ImageSet,
    *,
    model: str,
    input_name: str,
    dtype: str = "float32",
    batch: int = BATCH,
    fixed_batch: int | None = None,
    served: Served = PLAIN,
    progress: Callable[[str], None] = lambda _: None,
) -> AccuracyResult:
    """The result of a classifier on all images.

    Args:
        runner: the classifier; its first output must be (N, classes).
        images: what it is tested on.
        model: its name in the result.
        input_name: of its one input.
        dtype: element type of that input.
        batch: images at a time.
        fixed_batch: the only batch size that the classifier takes; the last batch is filled up with repetitions, whose
            answers are dropped.
        served: what stands around it in its file.
        progress: called with a few words.

    Raises:
        InvalidRequestError: if the output is not (N, classes).
        ParityError: if an output is NaN or infinite.
    """
    size = fixed_batch or batch
    predictions: list[int] = []
    in_top5, seconds, done = 0, 0.0, 0
    for pixels, labels in served.batches(images, size, dtype):
        count = len(labels)
        if fixed_batch and count < fixed_batch:
            pixels = pixels[np.arange(fixed_batch) % count]
        runner.prepare({input_name: np.ascontiguousarray(pixels, dtype)})
        started = time.perf_counter()
        runner.enqueue()
        runner.synchronize()
        seconds += time.perf_counter() - started
        logits = served.scores(runner.outputs(), len(images.classes), model)
        if logits.shape != (len(pixels), len(images.classes)):
            raise InvalidRequestError(
                f"{model}: the output for {len(pixels)} images has the shape {logits.shape}; expected "
                f"{(len(pixels), len(images.classes))}, one score for each class of {images.name}."
            )
        logits = logits[:count]
        if not np.isfinite(logits).all():
            first = done + int(np.flatnonzero(~np.isfinite(logits).all(1))[0])
            raise ParityError(f"{model} in {runner.info.runtime}: the output for image {first} is NaN or infinite.")
        predictions += logits.argmax(1).tolist()
        in_top5 += int((ranks_of_labels(logits, labels) < 5).sum())
        done += count
        progress(f"{model} in {runner.info.runtime}: {done} of {len(images)} images")
    return AccuracyResult(
        model=model,
        info=runner.info,
        dataset=images.described(),
        labels=tuple(images.labels.tolist()),
        predictions=tuple(predictions),
        in_top5=in_top5,
        seconds=seconds,
    )


def test_summary(result: AccuracyResult) -> TestSummary:
    """The few numbers of a result that a training record keeps."""
    return {
        "correct": result.correct,
        "images": result.count,
        "top1": result.top1,
        "top5": result.top5,
        "runtime": result.info.runtime,
    }
