"""Calibration data: real inputs in batches that a graph takes, some to measure ranges on and some held out to judge by."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.conversion.images import assumed_preprocess, image_size, prepared_images
from attn_deploy.conversion.preprocess import Preprocess, PreprocessOptions, of_images
from attn_deploy.data import DATASETS, ImageSet, load_dataset, require_seed
from attn_deploy.data.folder import require_images
from attn_deploy.errors import DatasetError, InvalidRequestError
from attn_deploy.files import sha256_of
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.inputs.user_samples import load_arrays, require_arrays
from attn_deploy.parity.given import as_type

BATCH = 8
_MOST_BYTES = 1 << 30  # of calibration images
_USUAL_ELEMENTS = 3 * 256 * 256  # of a sample, of which a batch holds eight
DEFAULT_IMAGES = 512
HELD_OUT = 1000  # images, at most: accuracy in steps of a tenth of a point
_LABELS = "labels"
NO_OPTIONS = PreprocessOptions()


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Inputs of a graph.

    Attributes:
        batches: arrays by input name, on which ranges are measured.
        held_out: others, on which the result is judged; the same ones where there are too few to part.
        labels: the right class for each held-out sample, one array a batch; None where they are not known.
        identity: what the data are: name, SHA-256, the number of samples, and how images were prepared.
        preprocess: how images were prepared; None for other data.
        classes: of a data set with labels; None where only the labels are known.
    """

    batches: tuple[Arrays, ...]
    held_out: tuple[Arrays, ...]
    labels: tuple[NDArray[np.int64], ...] | None
    identity: Mapping[str, str]
    preprocess: Preprocess | None = None
    classes: int | None = None

    def whole(self) -> CalibrationData:
        """All samples to measure on: for what judges nothing by samples that it has not seen."""
        if self.held_out is self.batches:
            return self
        batches = (*self.batches, *self.held_out)
        count = sum(len(next(iter(b.values()))) for b in batches)
        identity = {k: v for k, v in self.identity.items() if k != "held_out"} | {"samples": str(count)}
        return CalibrationData(batches, batches, None, identity, self.preprocess)


def load_calibration(
    source: str | Path | ImageSet | None,
    inputs: Sequence[TensorInput],
    symbols: Sequence[str],
    *,
    images: int | None = None,
    size: int | tuple[int, int] | None = None,
    data_dir: Path | str | None = None,
    seed: int = 0,
    options: PreprocessOptions = NO_OPTIONS,
    usual: Preprocess | None = None,
) -> CalibrationData:
    """Calibration data from what the user names.

    Args:
        source: ``cifar10`` or ``digits``; a folder of images, or of a folder of images for each class; an ``.npz`` with
            an array for each input, and ``labels`` if they are known; a set of images; or None for ramped noise, which
            says little of the ranges on real data.
        inputs: of the graph; the first axis of each is its batch.
        symbols: those that move.
        images: how many to measure ranges on; None for all of a file, and 512 of a set.
        size: side, or height and width, of the images of a folder, where the graph takes any.
        data_dir: see `attn_deploy.data.load_dataset`.
        seed: of the choice of images.
        options: what the user says of how images are prepared.
        usual: how they are where nothing is said, if the model's package or record says; else ImageNet's values for a
            folder, and a data set's own.

    Raises:
        InvalidRequestError: if the source cannot be read, or does not fit the inputs.
        DatasetError: if images are missing or damaged.
    """
    if source is None:
        options.refuse_without_images("ranges are measured on noise")
        return _noise(inputs, symbols)
    if isinstance(source, ImageSet):
        return _from_images(source, inputs, symbols, images, seed, options.over(usual or of_images(source)))
    if str(source) in DATASETS and str(source) != "folder":
        dataset = load_dataset(str(source), "train", data_dir=data_dir)
        return _from_images(dataset, inputs, symbols, images, seed, options.over(usual or of_images(dataset)))
    path = Path(source)
    if path.is_dir():
        from attn_deploy.data.folder import load_any_images

        preprocess = options.over(usual or assumed_preprocess())
        side = image_size(path, inputs, size, preprocess)
        usual_count, held_out = _counts(side)
        limit = (usual_count if images is None else images) + held_out
        photos = load_any_images(path, side=side, limit=limit, resize=preprocess.resize)
        return _from_images(photos, inputs, symbols, images, seed, preprocess)
    check_calibration(path)
    options.refuse_without_images(f"{path} holds arrays, which go in as they are")
    return read_calibration(path, inputs, symbols, images=images)


def check_calibration(source: Path | str) -> None:
    """Refuse calibration data that are no data set, and neither a folder nor an archive on the disk; none is unpacked.

    Raises:
        InvalidRequestError: with the closest data set and what can be given, or why the file cannot be read.
    """
    names = [n for n in DATASETS if n != "folder"]
    path = Path(source)
    if str(source) in names:
        return
    if path.is_dir():
        require_images(path)
        return
    if path.exists():
        require_arrays(path)
        return
    close = difflib.get_close_matches(str(source), names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    raise InvalidRequestError(
        f"calibration data {str(source)!r} not found{hint} Give {', '.join(names)}, a folder of images, or an .npz with an "
        "array for each input."
    )


def read_calibration(
    path: Path, inputs: Sequence[TensorInput], symbols: Sequence[str], *, images: int | None = None
) -> CalibrationData:
    """Read an ``.npz`` that holds an array for each input, whose first axis runs over the samples.

    Args:
        path: the file.
        inputs: of the graph; the first axis of each is its batch.
        symbols: those that move.
        images: how many samples to measure ranges on; three quarters where that leaves none to judge by.

    Raises:
        InvalidRequestError: if the file cannot be read, or an array does not fit its input.
    """
    arrays = load_arrays(path)
    missing = [i.name for i in inputs if i.name not in arrays]
    if missing:
        raise InvalidRequestError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, and the graph's input {missing[0]!r} is not among them: save "
            f"one array for each input, as np.savez({path.name!r}, {missing[0]}=samples)."
        )
    chosen = {i.name: _fitting(path, arrays[i.name], i, symbols) for i in inputs}
    labels = _labels(path, arrays[_LABELS]) if _LABELS in arrays and _LABELS not in chosen else None
    counts = {len(a) for a in (*chosen.values(), *([labels] if labels is not None else []))}
    if len(counts) > 1:
        raise InvalidRequestError(f"{path}: the arrays hold {sorted(counts)} samples; give the same number of each.")
    [count] = counts
    size = _batch_size(inputs, symbols, count, sum(a[0].size for a in chosen.values()) if count else 0)
    if count < size or count == 0:
        raise InvalidRequestError(f"{path} holds {count} samples, and the graph takes {size} at a time.")
    identity = {"data": path.name, "sha256": sha256_of(path)}
    moves = inputs[0].dims[0] in symbols
    return _parted(chosen, labels, size, min(count, images or count), identity, moves=moves)


def _noise(inputs: Sequence[TensorInput], symbols: Sequence[str]) -> CalibrationData:
    sizes = [{}, *verification_sizes(inputs, symbols)]
    batches = tuple(example_arrays(inputs, s, seed) for seed, s in enumerate(sizes))
    others = tuple(example_arrays(inputs, s, 1000 + 17 * seed) for seed, s in enumerate(sizes))
    return CalibrationData(batches, others, None, {"data": "ramped noise"})


def _from_images(
    images: ImageSet,
    inputs: Sequence[TensorInput],
    symbols: Sequence[str],
    count: int | None,
    seed: int,
    preprocess: Preprocess,
) -> CalibrationData:
    """A balanced sample of images, and another one that is held out."""
    prepared_images(images.images[:1], images.name, inputs, preprocess)  # refuses before anything is drawn
    usual_count, held_out = _counts(images.size)
    count = min(usual_count, len(images)) if count is None else count
    rest = len(images) - count
    require_seed(seed)
    order = images.balanced_sample(min(len(images), count + min(held_out, max(rest, 0))), seed)
    size = _batch_size(inputs, symbols, count, images.images[0].size)
    if count < size:
        raise InvalidRequestError(f"--images is {count}, and the graph takes {size} at a time.")
    mixed = np.random.default_rng(seed).permutation(len(order))
    pixels, prepared = prepared_images(order.images[mixed], images.name, inputs, preprocess)
    arrays = {inputs[0].name: _fitting(Path(images.name), pixels, inputs[0], symbols)}
    labels = order.labels[mixed] if len(set(order.labels.tolist())) > 1 else None
    identity = {
        "data": images.name,
        "split": images.split,
        "source": images.source,
        "sha256": images.digest,
        "prepared": prepared,
    }
    parted = _parted(arrays, labels, size, count, identity, moves=inputs[0].dims[0] in symbols)
    return replace(parted, preprocess=preprocess if inputs[0].dtype != "uint8" else None, classes=len(images.classes))


def _counts(size: tuple[int, int]) -> tuple[int, int]:
    """How many images to measure on, and how many to hold out, so that all fit in `_MOST_BYTES` as floats."""
    fitting = _MOST_BYTES // (4 * 3 * size[0] * size[1])
    share = min(1.0, fitting / (DEFAULT_IMAGES + HELD_OUT))
    return max(BATCH, int(DEFAULT_IMAGES * share)), max(BATCH, int(HELD_OUT * share))


def _parted(
    arrays: Mapping[str, NDArray[Any]],
    labels: NDArray[Any] | None,
    size: int,
    count: int,
    identity: Mapping[str, str],
    *,
    moves: bool,
) -> CalibrationData:
    """The first ``count`` samples to measure on, the others held out, in batches of ``size``."""
    total = len(next(iter(arrays.values())))
    if count == total and total >= 2 * size:
        count = max(size, (3 * total // 4) // size * size)
    measured, judged = _spans(0, count, size, moves), _spans(count, total, size, moves)
    batches = tuple(_batch(arrays, s) for s in measured)
    chosen = judged or measured
    identity = {
        **identity,
        "samples": str(sum(s.stop - s.start for s in measured)),
        "held_out": str(sum(s.stop - s.start for s in judged)) if judged else "none: judged on the same samples",
    }
    return CalibrationData(
        batches,
        tuple(_batch(arrays, s) for s in judged) if judged else batches,
        None if labels is None else tuple(np.asarray(labels[s], np.int64) for s in chosen),
        identity,
    )


def _spans(start: int, stop: int, size: int, moves: bool) -> list[slice]:
    """Batches of ``size``; what is left over is one more, where the graph takes that."""
    spans = [slice(s, min(s + size, stop)) for s in range(start, stop, size)]
    return [s for s in spans if moves or s.stop - s.start == size]


def _batch(arrays: Mapping[str, NDArray[Any]], span: slice) -> Arrays:
    return {n: np.ascontiguousarray(a[span]) for n, a in arrays.items()}


def _batch_size(inputs: Sequence[TensorInput], symbols: Sequence[str], count: int, elements: int) -> int:
    first = inputs[0]
    if first.dims[0] not in symbols:
        return first.shape()[0]
    # So many large samples as small ones fill eight: what a run keeps in memory grows with the batch.
    return max(1, min(BATCH, count, BATCH * _USUAL_ELEMENTS // max(1, elements)))


def _fitting(path: Path, array: NDArray[Any], target: TensorInput, symbols: Sequence[str]) -> NDArray[Any]:
    wanted = target.shape()
    fits = array.ndim == len(wanted) and all(
        extent == n or any(s in str(dim) for s in symbols)
        for extent, n, dim in zip(array.shape[1:], wanted[1:], target.dims[1:], strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            f"{path}: {target.name!r} has the shape {array.shape}, and the graph takes ({', '.join(map(str, target.dims))})."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DatasetError(
            f"{path}: {target.name!r} holds a NaN or an infinite value; ranges cannot be measured on it."
        )
    return as_type(array, np.dtype(target.dtype), f"{path}: {target.name!r}")


def _labels(path: Path, labels: NDArray[Any]) -> NDArray[np.int64]:
    if (
        labels.ndim != 1
        or labels.dtype.kind not in "iuf"
        or not np.array_equal(labels, np.floor(labels))
        or (labels < 0).any()
    ):
        raise InvalidRequestError(
            f"{path}: 'labels' is {labels.dtype} of shape {labels.shape}; one whole number from 0 for each sample is needed."
        )
    return labels.astype(np.int64)
