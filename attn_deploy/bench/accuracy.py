"""Accuracy beside latency: the same images through every runtime and precision of a profile."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.accuracy.predict import BATCH, PLAIN, run_dataset
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.accuracy.served import Served, served_by
from attn_deploy.bench.evidence import AccuracyRow
from attn_deploy.bench.group import start_runner
from attn_deploy.bench.images import images_to_test
from attn_deploy.bench.maker import Begun, Maker, accuracy_variants
from attn_deploy.bench.plan import ProfilePlan, Size, Variant
from attn_deploy.bench.row import ProfileRow, line_of_error
from attn_deploy.bench.stand import Bench
from attn_deploy.errors import DatasetError, InvalidRequestError, ParityError
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.inputs.samples import example_arrays

if TYPE_CHECKING:
    from attn_deploy.bench.store import ProfileStore


def answers_of(plan: ProfilePlan, bench: Bench, variant: Variant) -> AccuracyResult:
    """The plan's images through one variant.

    Raises:
        InvalidRequestError: if the model is no classifier of these images.
        DatasetError: if the images cannot be had.
        ParityError: if an output is NaN or infinite.
    """
    images = images_to_test(plan, has_module=bench.subject.module is not None, progress=bench.progress)
    inputs = bench.subject.at(_batch(bench, len(images)), images.size)
    served = _served(plan)
    places = (1,) if served.images is None or served.images.layout != "nhwc" else (3,)
    if len(inputs) != 1 or len(inputs[0].shape()) != 4 or any(inputs[0].shape()[p] != 3 for p in places):
        raise InvalidRequestError(
            f"{bench.subject.name} is not a classifier of images: it takes {', '.join(str(i.shape()) for i in inputs)}."
        )
    bench.progress(f"testing {variant.key} on {images.name}")
    bench.trail(variant.key)
    candidate = start_runner(bench, variant, inputs, example_arrays(inputs, seed=plan.options.seed))
    try:
        return run_dataset(
            candidate.runner,
            images,
            model=bench.subject.name,
            input_name=inputs[0].name,
            dtype=inputs[0].dtype,
            fixed_batch=inputs[0].shape()[0],
            served=served,
            progress=bench.progress,
        )
    finally:
        candidate.runner.close()


def _served(plan: ProfilePlan) -> Served:
    """What stands around the model in the file that the plan names, if it names one."""
    if Path(plan.model).suffix.lower() != ".onnx":
        return PLAIN
    return served_by(read_onnx(plan.model, check=False).record)


def _batch(bench: Bench, count: int) -> int | None:
    """As many images at a time as `attn_deploy.evaluate` takes, where the batch may be chosen."""
    return min(BATCH, count) if any(s[0] == "N" for s in bench.subject.movable) else None


def accuracy_rows(
    plan: ProfilePlan, maker: Maker, begun: Begun, rows: list[ProfileRow], store: ProfileStore | None
) -> list[ProfileRow]:
    """The rows with the accuracy of their runtime and precision, as far as they ran at the size of the images.

    A test that fails costs a row its accuracy, and the row says why; its time was measured and stays. Only answers that
    are NaN or infinite make the time worthless.
    """
    results: dict[Variant, AccuracyResult] = {}
    failed: dict[Variant, Exception] = {}
    size: Size | None = None
    for variant in (variants := accuracy_variants(plan, begun)):
        timed = {(r.runtime, r.precision) for r in rows if r.status == "ok" and size in (None, r.size)}
        if not _wanted(variant, timed) and variant is not variants[0]:
            continue
        result = store.read_accuracy(variant) if store is not None else None
        if result is None:
            try:
                result = maker.accuracy(variant)
            except DatasetError as error:  # the others would need the same images
                failed |= {v: error for v in variants if v not in results}
                break
            except Exception as error:  # as for latency: a runtime raises what it likes
                failed[variant] = error
                continue
            reference = next(iter(results.values()), None)
            result = replace(result, agreement=result.compared_with(reference) if reference is not None else None)
            if store is not None:
                store.write_accuracy(variant, result)
        results[variant] = result
        size = size_of_images(result)
    return [_with_accuracy(row, plan, results, failed, size) for row in rows]


def size_of_images(result: AccuracyResult) -> Size:
    """Height and width of the images that a test was made on."""
    height, width = result.dataset["size"]
    return int(height), int(width)


def _wanted(variant: Variant, timed: set[tuple[str, str]]) -> bool:
    """Whether a row with a number needs this test. A file taken as it is may have turned out to be in any precision."""
    return any(r == variant.runtime and variant.precision in ("", p) for r, p in timed)


def _with_accuracy(
    row: ProfileRow,
    plan: ProfilePlan,
    results: Mapping[Variant, AccuracyResult],
    failed: Mapping[Variant, Exception],
    size: Size | None,
) -> ProfileRow:
    if row.status != "ok":
        return row
    if size is not None and row.size != size:
        name = next(iter(results.values())).dataset["name"]
        return replace(
            row, accuracy_missing=f"the images of {name} are {size[0]}x{size[1]}, and it ran at another size"
        )
    variant = Variant(row.runtime, row.precision if plan.precisions != ("",) else "")
    error = failed.get(variant)
    if isinstance(error, ParityError):
        why = f"its accuracy could not be measured: {line_of_error(error)}"
        return replace(row, status="invalid", reason=why, latency=None, speedup=None, device_time=None, end_to_end=None)
    if error is not None:
        return replace(row, accuracy_missing=line_of_error(error))
    return replace(row, accuracy=accuracy_row(results[variant]))


def accuracy_row(result: AccuracyResult) -> AccuracyRow:
    """The few numbers of a test that stand beside a latency."""
    row = AccuracyRow(
        dataset=str(result.dataset["name"]),
        split=str(result.dataset["split"]),
        sha256=str(result.dataset["sha256"]),
        images=result.count,
        correct=result.correct,
    )
    if result.agreement is None:
        return row
    paired = result.agreement.paired
    return replace(
        row,
        reference=result.agreement.reference,
        same=result.agreement.same,
        only_this=paired.only_first,
        only_reference=paired.only_second,
        p_value=paired.p_value,
    )
