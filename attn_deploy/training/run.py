"""`attn_deploy.train`: a run that can be stopped at any moment and goes on where its last epoch ended."""

from __future__ import annotations

import contextlib
import copy
import datetime
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from attn_deploy.accuracy.predict import run_dataset, test_summary
from attn_deploy.data import ImageSet, load_dataset, require_seed
from attn_deploy.errors import InvalidRequestError, MissingDependencyError, NoDeviceError
from attn_deploy.machine.environment import command_line, describe_environment
from attn_deploy.resolve.make import ResolvedModel
from attn_deploy.resolve.resolve import resolve
from attn_deploy.runtimes.eager import EagerRunner
from attn_deploy.training.arithmetic import Arithmetic, choose_arithmetic, fitting
from attn_deploy.training.batches import ResidentImages
from attn_deploy.training.checkpoint import TrainingFolder
from attn_deploy.training.memory import freed_memory_kept
from attn_deploy.training.recipe import Recipe, recipe_for
from attn_deploy.training.record import Epoch, TestNote, TrainingRecord
from attn_deploy.training.sizes import check_sizes
from attn_deploy.training.trainer import Trainer

RUNS = Path("runs")


@dataclass(frozen=True, slots=True)
class TrainProgress:
    """Where a run is: ``loss`` of the last step where it is known."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float | None


def train(
    model: str,
    *,
    dataset: str = "cifar10",
    recipe: Recipe | None = None,
    seed: int = 0,
    device: str | None = None,
    amp: bool | None = None,
    compile: bool = False,
    threads: int | None = None,
    output: Path | str | None = None,
    resume: bool = False,
    data_dir: Path | str | None = None,
    progress: Callable[[str], None] = lambda _: None,
    on_step: Callable[[TrainProgress], None] = lambda _: None,
) -> TrainingRecord:
    """Train a classifier, test it once, and leave its weights with a record.

    On a CPU, one seed and one number of threads give the same weights to the bit, whether or not the run was stopped and
    resumed on the way.

    Args:
        model: a backbone, with or without a module in its slots, or the user's own ``net.py:MyNet``.
        dataset: cifar10, digits or folder.
        recipe: how to train; by default that of the data set.
        seed: of weights, order and augmentation.
        device: cpu or cuda; cuda where there is one, by default.
        amp: compute in bfloat16, with weights, their updates and BatchNorm in float32. By default on CUDA, and on a CPU that
            has AMX or AVX512-BF16; the record says which and why.
        compile: use torch.compile.
        threads: of the CPU; by default those that torch has set.
        output: the run's folder; ``runs/MODEL-DATASET-sSEED`` by default.
        resume: go on with the run in that folder; a finished run is returned as it is.
        data_dir: see `attn_deploy.data.load_dataset`.
        progress: called with a few words between steps.
        on_step: called after each step.

    Raises:
        InvalidRequestError: if the model is not a classifier of these images, the folder holds another run, or an
            option cannot be used.
        NoDeviceError: if CUDA is asked for and there is none.
        DatasetError: if the images cannot be had.
        CheckpointError: if the run cannot go on from what is in its folder.
        TrainingError: if the loss is not finite, or the model does not take the smaller images of the first epochs.
    """
    place = _device(device)
    if compile:
        require_compiler(place)
    used_threads = threads or torch.get_num_threads()
    if threads is not None and threads < 1:
        raise InvalidRequestError(f"{threads} threads were asked for; --threads takes at least 1.")
    torch.set_num_threads(used_threads)
    progress(f"loading {dataset}")
    images = load_dataset(dataset, "train", data_dir=data_dir, progress=progress)
    tested = load_dataset(dataset, "test", data_dir=data_dir, progress=progress)
    torch.manual_seed(require_seed(seed))
    resolved = classifier_for(model, images)
    folder = TrainingFolder(Path(output) if output is not None else RUNS / f"{resolved.name.stem}-{dataset}-s{seed}")
    arithmetic = _arithmetic(folder, resume, place, amp, resolved, images)
    record = TrainingRecord(
        model=resolved.name.text,
        parameters=sum(p.numel() for p in resolved.module.parameters()),
        dataset=images.described(),
        recipe=recipe or recipe_for(dataset),
        seed=seed,
        device=str(place) if place.type == "cpu" else torch.cuda.get_device_name(place),
        amp=arithmetic.bfloat16,
        arithmetic=str(arithmetic),
        compiled=compile,
        threads=used_threads,
        environment=describe_environment(),
        argv=command_line(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )
    folder.make()
    with folder.alone():
        earlier = _found(folder, record, resume)
        if earlier is not None and earlier.finished:
            folder.check_weights()
            return earlier
        folder.clean()
        check_sizes(resolved.name.text, resolved.module, images, record.recipe)
        trainer = Trainer(
            resolved.module.to(place),
            ResidentImages(images, record.recipe, place),
            record.recipe,
            seed=seed,
            amp=record.amp,
            compiled=compile,
        )
        if earlier is not None:
            if earlier.state is not None:
                trainer.load(folder.load(earlier.to_dict()))
            record = earlier
        with freed_memory_kept() if place.type == "cpu" else contextlib.nullcontext():
            record = _run_epochs(trainer, folder, record, on_step)
        return _finish(trainer, folder, record, resolved, tested, progress)


def _arithmetic(
    folder: TrainingFolder,
    resume: bool,
    place: torch.device,
    amp: bool | None,
    resolved: ResolvedModel,
    images: ImageSet,
) -> Arithmetic:
    """What was asked for, what the run was begun with, or what the hardware is faster at, in this order."""
    if amp is None and resume and folder.begun:
        return Arithmetic(TrainingRecord.from_dict(folder.read_record()).amp, "as the run was begun")
    example = torch.from_numpy(images.normalised(slice(0, 2)))
    return fitting(choose_arithmetic(place, amp), resolved.module, example, place=place, asked=amp)


def classifier_for(model: str, images: ImageSet) -> ResolvedModel:
    """The model with as many classes as the images have, tried on two of them.

    Raises:
        InvalidRequestError: if it does not give one score for each class.
    """
    from attn_deploy import registry
    from attn_deploy.resolve.names import parse_name

    parsed = parse_name(model)
    classes = len(images.classes)
    arguments = {}
    if parsed.file is None and "num_classes" not in parsed.arguments:
        spec = registry.get(parsed.base)
        if not any(a.name == "num_classes" for a in spec.arguments):
            raise InvalidRequestError(
                f"{model!r} is not a classifier; put it into a backbone, as in resnet8+{spec.name}."
            )
        arguments["num_classes"] = classes
    resolved = resolve(model, arguments)
    try:
        with torch.no_grad():
            scores = copy.deepcopy(resolved.module).eval()(torch.from_numpy(images.normalised(slice(0, 2))))
    except Exception as error:
        raise InvalidRequestError(f"{model}: it cannot be run on images of {images.name}: {error}") from error
    expected = (min(2, len(images)), classes)
    if not isinstance(scores, torch.Tensor) or scores.shape != expected:
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise InvalidRequestError(
            f"{model}: two images of {images.name} give {shape}; a classifier of its {classes} classes gives {expected}."
        )
    return resolved


def _run_epochs(
    trainer: Trainer, folder: TrainingFolder, record: TrainingRecord, on_step: Callable[[TrainProgress], None]
) -> TrainingRecord:
    epochs = record.recipe.epochs
    for epoch in range(len(record.history), epochs):
        started = time.perf_counter()

        def seen(step: int, loss: float | None, epoch: int = epoch) -> None:
            on_step(TrainProgress(step, trainer.steps, epoch + 1, epochs, loss))

        done = trainer.run_epoch(epoch, seen)
        passed = Epoch(done.loss, done.accuracy, time.perf_counter() - started)
        record = replace(record, history=(*record.history, passed))
        record = replace(record, state=folder.save(trainer.state(), record.to_dict(), epoch + 1)["state"])
    return record


def _finish(
    trainer: Trainer,
    folder: TrainingFolder,
    record: TrainingRecord,
    resolved: ResolvedModel,
    tested: ImageSet,
    progress: Callable[[str], None],
) -> TrainingRecord:
    """Test the averaged weights and write them; the record that says so is the last thing written."""
    progress("testing")
    runner = EagerRunner(_plain(trainer.average), threads=record.threads)
    result = run_dataset(runner, tested, model=record.model, input_name="image", progress=progress)
    header = {
        "model": record.model,
        "arguments": {"num_classes": len(tested.classes)} if "num_classes" in resolved.arguments else {},
        "dataset": record.dataset["name"],
        "classes": list(tested.classes),
        "mean": list(tested.mean),
        "std": list(tested.std),
        "seed": record.seed,
        "epochs": record.recipe.epochs,
    }
    weights = {k: v.detach().cpu().contiguous() for k, v in trainer.average.state_dict().items()}
    written = folder.finish(weights, header)
    test: TestNote = {**test_summary(result), "source": tested.source, "sha256": tested.digest}
    record = replace(record, weights=written, test=test, state=None)
    folder.write_record(record.to_dict())
    folder.drop_state()
    return record


def _plain(module: nn.Module) -> nn.Module:
    copied = copy.deepcopy(module).cpu()
    copied.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # torch's stubs forget this form
    return copied


def _found(folder: TrainingFolder, wanted: TrainingRecord, resume: bool) -> TrainingRecord | None:
    """The run that is in the folder, if it is to go on.

    Raises:
        InvalidRequestError: if there is one and it is not to go on, or it is another run than the one asked for.
    """
    if not folder.begun:
        return None
    if not resume:
        raise InvalidRequestError(
            f"{folder.path} already holds a training run; continue it with --resume, or name another folder with --output."
        )
    earlier = TrainingRecord.from_dict(folder.read_record())
    for name in ("model", "recipe", "seed", "device", "amp", "compiled", "threads"):
        was, now = getattr(earlier, name), getattr(wanted, name)
        if was != now:
            raise InvalidRequestError(
                f"{folder.path} holds a run with {name} {was}, and {now} was asked for; resume with the former, or name "
                "another folder with --output."
            )
    if earlier.dataset["sha256"] != wanted.dataset["sha256"]:
        raise InvalidRequestError(
            f"{folder.path} holds a run on other images ({earlier.dataset['source']}, sha256 "
            f"{earlier.dataset['sha256'][:12]}...) than those given ({wanted.dataset['source']}, "
            f"{wanted.dataset['sha256'][:12]}...)."
        )
    return earlier


def _device(name: str | None) -> torch.device:
    try:
        place = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError as error:
        raise InvalidRequestError(f"there is no device {name!r}; devices are cpu and cuda.") from error
    if place.type not in ("cpu", "cuda"):
        raise InvalidRequestError(f"training on {name!r} is not supported; devices are cpu and cuda.")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise NoDeviceError("training on CUDA was asked for, and torch finds no CUDA device; use --device cpu.")
    return place


def require_compiler(place: torch.device) -> None:
    """What torch.compile needs: Triton on a GPU, a C++ compiler on a CPU.

    Raises:
        MissingDependencyError: if it is not there.
    """
    if place.type == "cuda":
        import importlib.util

        if importlib.util.find_spec("triton") is None:
            raise MissingDependencyError(
                "torch.compile on CUDA needs triton: pip install triton, or leave out --compile."
            )
        return
    wanted = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if not any(shutil.which(name) for name in wanted):
        raise MissingDependencyError(
            f"torch.compile on a CPU needs a C++ compiler, and there is none ({', '.join(wanted)} not found); install "
            "g++, or leave out --compile."
        )
