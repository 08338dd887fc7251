"""Calibration data: real inputs in batches that a graph takes, some to measure ranges on and some held out to judge by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attn_deploy.data import DATASETS, ImageSet, load_dataset
from attn_deploy.errors import DatasetError, InvalidRequestError
from attn_deploy.files import sha256_of
from attn_deploy.inputs.samples import example_arrays, verification_sizes
from attn_deploy.inputs.tensors import Arrays, TensorInput

BATCH = 8
DEFAULT_IMAGES = 512
HELD_OUT = 1000  # images, at most: accuracy in steps of a tenth of a point
_LABELS = "labels"


@dataclass(frozen=True, slots=True)
class CalibrationData:
    """Inputs of a graph.

    Attributes:
        batches: arrays by input name, on which ranges are measured.
        held_out: others, on which the result is judged; the same ones where there are too few to part.
        labels: the right class for each held-out sample, one array a batch; None where they are not known.
        identity: what the data are: name, SHA-256 and the number of samples.
    """

    batches: tuple[Arrays, ...]
    held_out: tuple[Arrays, ...]
    labels: tuple[NDArray[np.int64], ...] | None
    identity: Mapping[str, str]

    def whole(self) -> CalibrationData:
        """All samples to measure on: for what judges nothing by samples that it has not seen."""
        if self.held_out is self.batches:
            return self
        batches = (*self.batches, *self.held_out)
        count = sum(len(next(iter(b.values()))) for b in batches)
        identity = {k: v for k, v in self.identity.items() if k != "held_out"} | {"samples": str(count)}
        return CalibrationData(batches, batches, None, identity)


def load_calibration(
    source: str | Path | ImageSet | None,
    inputs: Sequence[TensorInput],
    symbols: Sequence[str],
    *,
    images: int | None = None,
    size: int | None = None,
    data_dir: Path | str | None = None,
    seed: int = 0,
) -> CalibrationData:
    """Calibration data from what the user names.

    Args:
        source: ``cifar10`` or ``digits``; a folder of images, or of a folder of images for each class; an ``.npz`` with
            an array for each input, and ``labels`` if they are known; a set of images; or None for ramped noise, which
            says little of the ranges on real data.
        inputs: of the graph; the first axis of each is its batch.
        symbols: those that move.
        images: how many to measure ranges on; None for all of a file, and 512 of a set.
        size: side of the images of a folder, where the graph takes any.
        data_dir: see `attn_deploy.data.load_dataset`.
        seed: of the choice of images.

    Raises:
        InvalidRequestError: if the source cannot be read, or does not fit the inputs.
        DatasetError: if images are missing or damaged.
    """
    if source is None:
        return _noise(inputs, symbols)
    if isinstance(source, ImageSet):
        return _from_images(source, inputs, symbols, images, seed)
    if str(source) in DATASETS and str(source) != "folder":
        return _from_images(load_dataset(str(source), "train", data_dir=data_dir), inputs, symbols, images, seed)
    path = Path(source)
    if path.is_dir():
        from attn_deploy.data.folder import load_any_images

        limit = (DEFAULT_IMAGES if images is None else images) + HELD_OUT
        photos = load_any_images(path, side=_side(path, inputs, size), limit=limit)
        return _from_images(photos, inputs, symbols, images, seed)
    if not path.exists():
        choices = ", ".join(n for n in DATASETS if n != "folder")
        raise InvalidRequestError(
            f"calibration data {str(source)!r} not found: give {choices}, a folder of images, or an .npz with an array "
            "for each input."
        )
    return read_calibration(path, inputs, symbols, images=images)


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
    arrays = _arrays(path)
    missing = [i.name for i in inputs if i.name not in arrays]
    if missing:
        raise InvalidRequestError(
            f"{path} holds {', '.join(arrays) or 'nothing'}, and the graph's input {missing[0]!r} is not among them: save "
            f"one array for each input, as np.savez({path.name!r}, {missing[0]}=samples)."
        )
    chosen = {i.name: _fitting(path, arrays[i.name], i, symbols) for i in inputs}
    labels = arrays.get(_LABELS) if _LABELS not in chosen else None
    if labels is not None:
        labels = _checked_labels(path, labels)
    counts = {len(a) for a in (*chosen.values(), *([labels] if labels is not None else []))}
    if len(counts) > 1:
        raise InvalidRequestError(f"{path}: the arrays hold {sorted(counts)} samples; give the same number of each.")
    [count] = counts
    size = _batch_size(inputs, symbols, count)
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
    images: ImageSet, inputs: Sequence[TensorInput], symbols: Sequence[str], count: int | None, seed: int
) -> CalibrationData:
    """A balanced sample of images, and another one that is held out."""
    image = inputs[0]
    if len(inputs) != 1 or len(image.dims) != 4 or image.dims[1] != 3 or not image.dtype.startswith("float"):
        signature = ", ".join(f"{i.name} {i.dtype}[{', '.join(map(str, i.dims))}]" for i in inputs)
        raise InvalidRequestError(
            f"images of {images.name} fit a graph with one input N x 3 x H x W, and this one takes {signature}; give an .npz "
            "with an array for each input instead."
        )
    count = min(DEFAULT_IMAGES, len(images)) if count is None else count
    rest = len(images) - count
    order = images.balanced_sample(min(len(images), count + min(HELD_OUT, max(rest, 0))), seed)
    size = _batch_size(inputs, symbols, count)
    if count < size:
        raise InvalidRequestError(f"--images is {count}, and the graph takes {size} at a time.")
    mixed = np.random.default_rng(seed).permutation(len(order))
    arrays = {image.name: _fitting(Path(images.name), order.normalised(mixed), image, symbols)}
    labels = order.labels[mixed] if len(set(order.labels.tolist())) > 1 else None
    identity = {"data": images.name, "split": images.split, "source": images.source, "sha256": images.digest}
    return _parted(arrays, labels, size, count, identity, moves=image.dims[0] in symbols)


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


def _batch_size(inputs: Sequence[TensorInput], symbols: Sequence[str], count: int) -> int:
    first = inputs[0]
    return min(BATCH, count) if first.dims[0] in symbols else first.shape()[0]


def _side(folder: Path, inputs: Sequence[TensorInput], wish: int | None) -> int:
    """The side of the images that a graph takes."""
    image = inputs[0]
    fixed = {d for d in image.dims[2:] if isinstance(d, int)} if len(image.dims) == 4 else set()
    if len(fixed) > 1:
        raise InvalidRequestError(
            f"the graph takes images of {image.dims[2]}x{image.dims[3]}, and those of {folder} are cut square; give an "
            ".npz with an array of the right shape instead."
        )
    if wish is not None and wish < 1:
        raise InvalidRequestError(f"--size must be at least 1, not {wish}.")
    if fixed and wish is not None and wish not in fixed:
        raise InvalidRequestError(f"--size is {wish}, and the graph takes images of side {fixed.pop()}.")
    if not fixed and wish is None:
        raise InvalidRequestError(
            f"the graph takes images of any size, so give the side to which the images of {folder} are resized: --size 224."
        )
    return fixed.pop() if fixed else int(wish or 0)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except Exception as error:  # numpy, zip and zlib each have errors of their own
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InvalidRequestError(f"{path} cannot be read as an .npz of arrays: {reason[:300]}.") from error


def _fitting(path: Path, array: NDArray[Any], target: TensorInput, symbols: Sequence[str]) -> NDArray[Any]:
    _refuse_kind(path, target.name, array, target.dtype)
    wanted = target.shape()
    fits = array.ndim == len(wanted) and all(
        extent == n or any(s in str(dim) for s in symbols)
        for extent, n, dim in zip(array.shape[1:], wanted[1:], target.dims[1:], strict=True)
    )
    if not fits:
        raise InvalidRequestError(
            f"{path}: {target.name!r} has the shape {array.shape}, and the graph takes ({', '.join(map(str, target.dims))})."
        )
    if not np.isfinite(array.astype(np.float64)).all():
        raise DatasetError(
            f"{path}: {target.name!r} holds a NaN or an infinite value; ranges cannot be measured on it."
        )
    with np.errstate(over="ignore", invalid="ignore"):
        converted = array.astype(target.dtype)
    exact = np.isfinite(converted).all() if converted.dtype.kind == "f" else np.array_equal(converted, array)
    if not exact:
        raise InvalidRequestError(
            f"{path}: {target.name!r} is an array of {array.dtype} with values that {target.dtype}, which the graph takes, "
            "cannot hold."
        )
    return converted


# The kinds of numpy's types that become the graph's without a change of meaning.
_KINDS = {"f": "fiu", "i": "iu", "u": "iu", "b": "b"}


def _refuse_kind(path: Path, name: str, array: NDArray[Any], dtype: str) -> None:
    kind = np.dtype(dtype).kind if dtype != "bfloat16" else "f"
    if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS.get(kind, "") or array.dtype.names:
        raise InvalidRequestError(
            f"{path}: {name!r} is an array of {array.dtype} of shape {array.shape}, and {dtype} is needed; it is not "
            "converted, for that would change its meaning. Save it as numbers of that kind."
        )


def _checked_labels(path: Path, labels: NDArray[Any]) -> NDArray[Any]:
    _refuse_kind(path, _LABELS, labels, "int64")
    if labels.ndim != 1:
        raise InvalidRequestError(f"{path}: {_LABELS!r} has the shape {labels.shape}; give one label for each sample.")
    if labels.size and int(labels.min()) < 0:
        raise InvalidRequestError(f"{path}: {_LABELS!r} holds {int(labels.min())}; labels are at least 0.")
    return labels
