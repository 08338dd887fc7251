"""`attn_deploy.evaluate`: how often a trained model is right, in the runtime that will run it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.accuracy.predict import BATCH, PLAIN, run_dataset
from attn_deploy.accuracy.result import AccuracyResult
from attn_deploy.accuracy.served import Served, served_by
from attn_deploy.data import ImageSet, load_dataset
from attn_deploy.data.imageset import Split
from attn_deploy.errors import CheckpointError, GraphError, InvalidRequestError
from attn_deploy.files import scratch_folder
from attn_deploy.machine.environment import command_line, describe_environment, usable_cores
from attn_deploy.parity.files import precision_of_file
from attn_deploy.runtimes.base import Runner
from attn_deploy.runtimes.table import RUNTIMES, choose_runtimes, import_torch
from attn_deploy.runtimes.work import Work

if TYPE_CHECKING:
    from attn_deploy.inputs.tensors import TensorInput
    from attn_deploy.resolve.make import ResolvedModel
    from attn_deploy.resolve.trained import TrainedModel

Progress = Callable[[str], None]
NUMPY_TYPES = {"float": "float32", "float16": "float16", "double": "float64", "uint8": "uint8"}


@dataclass(frozen=True, slots=True)
class _Job:
    """A classifier ready to run."""

    runner: Runner
    input_name: str
    dtype: str = "float32"
    fixed_batch: int | None = None
    precision: str = "fp32"  # of the work, not of the inputs
    served: Served = PLAIN


def evaluate(
    model: str | Path,
    *,
    trained_as: str | None = None,
    dataset: str | None = None,
    runtimes: Sequence[str] | None = None,
    split: Split = "test",
    images: int | None = None,
    reference: str | Path | None = None,
    data_dir: Path | str | None = None,
    threads: int | None = None,
    batch: int = BATCH,
    weights: Path | str | None = None,
    inputs: Sequence[TensorInput] | None = None,
    progress: Progress | None = None,
) -> tuple[AccuracyResult, ...]:
    """Test a trained classifier on a data set, in one or several runtimes on the same images.

    Args:
        model: a run folder or ``model.safetensors`` of `attn_deploy.train`, an ``.onnx`` file or an ``.engine`` file. A
            checkpoint is exported (and the file proven) for runtimes that run files; files need no torch. Also a model by
            name, such as ``net.py:MyNet``, with its ``weights``.
        trained_as: the model of a checkpoint, where that is a file of yours or of a package: ``net.py:MyNet``.
        dataset: cifar10, digits or folder; by default what the checkpoint was trained on.
        runtimes: names in `attn_deploy.runtimes.table`; by default eager for a checkpoint, ort-cpu for an ONNX file.
        split: train or test.
        images: test on the first so many; all by default.
        reference: another such model, or the JSON of an earlier result: what the first runtime's answers are compared
            with. The other runtimes are compared with the first.
        data_dir: see `attn_deploy.data.load_dataset`.
        threads: within an operator; by default the usable cores.
        batch: images at a time.
        weights: a checkpoint for a model by name.
        inputs: the input of a model of the user's own, for runtimes that run files.
        progress: called with a few words.

    Returns:
        One result for each runtime, with the prediction for every image.

    Raises:
        InvalidRequestError: if a request cannot be used: no data set named, classes that differ ...
        CheckpointError, GraphError: if the model cannot be read.
        DatasetError: if the images cannot be had.
        EngineMismatchError: if an engine is not for the library and the GPU here.
        NoDeviceError: if an engine is to run and there is no device for it.
        ParityError: if an output is NaN or infinite.
    """
    report = progress or (lambda _: None)
    for name, count in (("--batch", batch), ("--threads", threads)):
        if count is not None and count < 1:
            raise InvalidRequestError(f"{name} is {count}, and must be at least 1.")
    cores = threads or usable_cores()
    subject = _subject(model, weights, inputs, trained_as)
    names = tuple(runtimes) if runtimes is not None else _default_runtimes(subject)
    if not isinstance(subject, Path) or subject.suffix != ".engine":
        choose_runtimes(names)
    elif runtimes is not None and not set(names) <= {"tensorrt", "tensorrt-rtx"}:
        raise InvalidRequestError(f"{subject} is an engine, which runs in its own library: leave out --runtime.")
    trained_on = None if isinstance(subject, Path) else subject.dataset
    if dataset is None and trained_on is None:
        raise InvalidRequestError(f"{model} does not say what it was trained on; name the data set: --dataset cifar10.")
    loaded = load_dataset(dataset or str(trained_on), split, data_dir=data_dir, progress=report).head(images)
    prepared = loaded if isinstance(subject, Path) else subject.prepared(loaded)
    before = _reference(reference, prepared, dataset, split, images, data_dir, cores, batch, report)
    results: list[AccuracyResult] = []
    with scratch_folder() as folder:
        for name in names:
            with _opened(subject, name, Path(folder), cores, batch, report) as job:
                result = run_dataset(
                    job.runner,
                    prepared,
                    model=str(model),
                    input_name=job.input_name,
                    dtype=job.dtype,
                    batch=batch,
                    fixed_batch=job.fixed_batch,
                    served=job.served,
                    progress=report,
                )
            result = replace(result, info=replace(result.info, precision=job.precision))
            compared = before or (results[0] if results else None)
            agreement = result.compared_with(compared) if compared is not None else None
            environment = json.loads(
                json.dumps({"environment": describe_environment().to_dict(), "argv": command_line()})
            )
            results.append(replace(result, agreement=agreement, record=environment))
            before = None
    return tuple(results)


@dataclass(frozen=True, slots=True)
class _Named:
    """A model by name; nobody knows what it was trained on, and images are normalised as their data set says."""

    resolved: ResolvedModel
    name: str
    weights: Path | str | None
    inputs: Sequence[TensorInput] | None
    dataset: str | None = None

    def prepared(self, images: ImageSet) -> ImageSet:
        """The images as they are."""
        return images


def _named(model: str, weights: Path | str | None, inputs: Sequence[TensorInput] | None) -> _Named:
    from attn_deploy.resolve.checkpoints import load_weights
    from attn_deploy.resolve.resolve import resolve_seeded

    resolved = resolve_seeded(model, weights=weights)
    if weights is not None:
        load_weights(resolved.module, weights, model)
    elif resolved.spec is not None:
        raise InvalidRequestError(
            f"{model} has random weights, whose accuracy says nothing: give a checkpoint with --weights, or the folder of a "
            "training run."
        )
    return _Named(resolved, model, weights, inputs)


def _subject(
    model: str | Path,
    weights: Path | str | None,
    inputs: Sequence[TensorInput] | None,
    trained_as: str | None = None,
) -> TrainedModel | _Named | Path:
    """The file, or the model behind the name."""
    path = Path(model)
    if weights is not None and (path.exists() or path.suffix.lower() in (".onnx", ".engine")):
        raise InvalidRequestError(f"{model} holds its weights; leave --weights out, or name the model.")
    if path.suffix.lower() in (".onnx", ".engine"):
        if trained_as is not None:
            raise InvalidRequestError(f"{path} holds its model; --model belongs to the folder of a training run.")
        if not path.is_file():
            raise GraphError(f"there is no file {path}.", exit_code=2)
        return path
    import_torch()
    from attn_deploy.resolve.names import parse_name
    from attn_deploy.resolve.trained import load_trained

    if not path.exists() and (path.suffix == ".safetensors" or (len(path.parts) > 1 and ".py:" not in path.name)):
        raise CheckpointError(
            f"there is no {path}; expected the folder of a training run, a .safetensors, .onnx or .engine file.",
            exit_code=2,
        )
    name = parse_name(str(model))
    if not path.exists():
        return _named(str(model), weights, inputs)
    if name.checkpoint is None:
        raise CheckpointError(
            f"{path} is neither the folder of a training run nor a .safetensors, .onnx or .engine file.", exit_code=2
        )
    return load_trained(name, trained_as)


def _default_runtimes(subject: TrainedModel | _Named | Path) -> tuple[str, ...]:
    if not isinstance(subject, Path):
        return ("eager",)
    return ("tensorrt",) if subject.suffix == ".engine" else ("ort-cpu",)


def _reference(
    reference: str | Path | None,
    images: ImageSet,
    dataset: str | None,
    split: Split,
    count: int | None,
    data_dir: Path | str | None,
    threads: int,
    batch: int,
    progress: Progress,
) -> AccuracyResult | None:
    if reference is None:
        return None
    path = Path(reference)
    if path.suffix == ".json" and path.name != "record.json":
        return AccuracyResult.read(path)
    results = evaluate(
        reference,
        dataset=dataset or images.name,
        split=split,
        images=count,
        data_dir=data_dir,
        threads=threads,
        batch=batch,
        progress=progress,
    )
    return results[0]


@contextlib.contextmanager
def _opened(
    subject: TrainedModel | _Named | Path, runtime: str, folder: Path, threads: int, batch: int, progress: Progress
) -> Iterator[_Job]:
    job = _job(subject, runtime, folder, threads, batch, progress)
    try:
        yield job
    finally:
        job.runner.close()


def _job(
    subject: TrainedModel | _Named | Path, runtime: str, folder: Path, threads: int, batch: int, progress: Progress
) -> _Job:
    if isinstance(subject, Path):
        if subject.suffix == ".engine":
            return _engine_job(subject, batch)
        if RUNTIMES[runtime].needs != "onnx":
            raise InvalidRequestError(
                f"{runtime} runs a PyTorch model, and {subject} is a file; use --runtime ort-cpu."
            )
        return _file_job(subject, runtime, threads)
    module = subject.resolved.module
    if RUNTIMES[runtime].needs == "module":
        runner = RUNTIMES[runtime].make(Work(module, None, subject.resolved.outputs, threads))
        return _Job(runner, "image")
    from attn_deploy.exporters.pipeline import export

    path = folder / "model.onnx"
    if not path.exists():
        progress(f"exporting {subject.name}")
        weights, inputs = (subject.weights, subject.inputs) if isinstance(subject, _Named) else (None, None)
        export(subject.resolved.name.text, path, weights=weights, inputs=inputs)
    return _file_job(path, runtime, threads)


def _file_job(path: Path, runtime: str, threads: int) -> _Job:
    from attn_deploy.graph.artifact import read_onnx

    artifact = read_onnx(path)
    if len(artifact.inputs) != 1 or len(artifact.inputs[0].shape) != 4:
        shown = ", ".join(map(str, artifact.inputs))
        raise InvalidRequestError(
            f"{path} is not a classifier of images: its inputs are {shown}; expected one N x 3 x H x W."
        )
    taken = artifact.inputs[0]
    dtype = NUMPY_TYPES.get(taken.dtype)
    if dtype is None:
        raise InvalidRequestError(
            f"{path}: its input {taken} is of a type that images are not; expected float or float16."
        )
    served = served_by(artifact.record)
    if dtype == "uint8" and served.images is None:
        raise InvalidRequestError(
            f"{path}: its input {taken} takes bytes, and nothing in the file says of which colours and layout; export the "
            "model with --preprocess."
        )
    runner = RUNTIMES[runtime].make(Work(None, path, None, threads))
    count = taken.shape[0]
    return _Job(runner, taken.name, dtype, count if isinstance(count, int) else None, precision_of_file(path), served)


def _engine_job(path: Path, batch: int) -> _Job:
    from attn_deploy.accuracy.engines import open_classifier

    runner, size = open_classifier(path, batch)
    taken = runner.artifact.inputs[0]
    if taken.dtype == "uint8":
        runner.close()
        raise InvalidRequestError(
            f"{path}: its input {taken} takes bytes, and an engine does not say of which colours; evaluate its ONNX file."
        )
    return _Job(runner, taken.name, taken.dtype, size, runner.artifact.precision)
