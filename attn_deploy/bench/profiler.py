"""`attn_deploy.profile`: what a model costs in each runtime, with the evidence that each computed the same."""

from __future__ import annotations

import contextlib
import datetime
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from attn_deploy.bench.group import blank_row
from attn_deploy.bench.make import InlineMaker
from attn_deploy.bench.maker import Begun, Maker
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import AccuracyPlan, ProfilePlan, Shape, Size
from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.bench.request import plan_profile, with_threads
from attn_deploy.bench.store import ProfileStore
from attn_deploy.errors import InvalidRequestError
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.machine.conditions import available_memory
from attn_deploy.machine.devices import DeviceProfile
from attn_deploy.machine.environment import command_line, describe_environment, load_average
from attn_deploy.runtimes.table import REFERENCE

if TYPE_CHECKING:
    from torch import nn

EXECUTORS = ("inline", "processes")
Progress = Callable[[str], None]
Steps = Callable[[int, int, str], None]


def profile(
    model: str | Path | nn.Module,
    *,
    runtimes: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    batch: Sequence[int] | None = None,
    size: Size | Sequence[Size] | None = None,
    cuda_graph: bool | Sequence[bool] = False,
    threads: int | None = None,
    torch_device: str = "auto",
    tf32: bool = False,
    options: BenchOptions | None = None,
    opset: int | None = None,
    dynamic: Sequence[str] | None = None,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
    weights: Path | str | None = None,
    onnx: Path | str | None = None,
    calibration: Path | str | None = None,
    accuracy: AccuracyPlan | str | None = None,
    data_dir: Path | str | None = None,
    save: Path | str | None = None,
    resume: bool = False,
    executor: str | None = None,
    memory: bool = True,
    timeout: float = 1800.0,
    memory_limit: int | None = None,
    device: DeviceProfile | Path | str | None = None,
    progress: Progress | None = None,
    on_step: Steps | None = None,
) -> ProfileRecord:
    """Time a model in several runtimes with one clock, and check that all of them compute the same.

    Every runtime gets the same inputs and threads. ONNX runtimes run a file that is exported for the occasion, verified
    at shapes that were not traced, in its deployed form (see `attn_deploy.export`); eager runs the module as it is. At
    each timed shape, outputs are compared with eager's in fp32 before a number is believed. A runtime that fails, is not
    installed, disagrees or ran elsewhere becomes a row with a reason, and the others go on. The runtimes and precisions
    of one shape are timed in turn, so that what disturbs one disturbs all.

    In this process nothing protects a profile from a library that crashes or hangs; that is the default for modules,
    which cannot be given to another process, and for calls that keep nothing. With ``save`` each shape is made in a
    process of its own, with a time limit, and so is the first run of each row, whose peak memory is measured there.

    Args:
        model: a name (see `attn_deploy.resolve.names`), a module, or the path of an ``.onnx`` file, for which torch is not
            needed and eager cannot be had.
        runtimes: names in `attn_deploy.runtimes.table`; None for eager and ONNX Runtime on the CPU.
        precisions: of fp32, fp16, bf16 and int8; None for the model as it is.
        batch: batch sizes; None for that of ``inputs``, or 1.
        size: height and width, or several; None for those of ``inputs``, or 32x32 where the model allows it.
        cuda_graph: replay captured CUDA graphs; both for rows with and without.
        threads: threads within an operator for all; over ``options.threads``.
        torch_device: of eager and compile: cpu, cuda, or auto: the GPU where there is one and a runtime uses it.
        tf32: whether fp32 products may round their inputs to TF32, in every runtime on a GPU.
        options: how to measure.
        opset: of the exported file.
        dynamic: axis symbols that move in the exported file; None for all that a registry model allows, and for the
            batch alone in a user's own model.
        inputs: the inputs of a module, of a user's model given by name, or of a file with unknown extents.
        arguments: constructor arguments when ``model`` is a name.
        weights: a checkpoint for the model.
        onnx: a file already made from the model, to be timed instead of a new one.
        calibration: what int8 ranges are measured on, as in `attn_deploy.quantize`; None for what the model was trained
            on or is tested on, and noise where that is not known.
        accuracy: images to test every runtime and precision on, or the name of a data set. Rows of another size than the
            images' have none, and say so; a test that fails costs the accuracy and not the time.
        data_dir: where the images are, for accuracy and calibration; see `attn_deploy.data.load_dataset`.
        save: a folder for the run: plan, rows of each shape as they come, files, record.
        resume: go on with the run in that folder.
        executor: ``inline``, in this process, or ``processes``, in some of their own; None: the latter where ``save`` is
            given and ``model`` is not a module. For a cluster see `attn_deploy.comparison.fleet`.
        memory: in processes of their own, start each row once in one more, and measure peak memory and imports there.
        timeout: seconds that the start of one row may take in a process of its own.
        memory_limit: bytes of such a process; None for what is free.
        device: whose speed of light the rows are put against: a name of `attn_deploy.machine.devices`, a TOML file of one's own,
            or a profile; None for the one that fits this machine. It is kept in the record.
        progress: called with a few words at each step.
        on_step: called with the step, their number, and the shape that is made.

    Returns:
        The record. After Ctrl-C, where ``save`` is given, the record of the shapes that were finished.

    Raises:
        InvalidRequestError: if the request cannot be used: unknown runtime, fixed axis, unknown shape ...
        GraphError: if a file that was given cannot be read.
        MissingDependencyError: if no runtime that was asked for is installed.
    """
    module = model if not isinstance(model, (str, Path)) else None
    plan = with_threads(
        plan_profile(
            model,
            runtimes=runtimes,
            precisions=precisions,
            batch=batch,
            size=size,
            cuda_graph=cuda_graph,
            threads=threads,
            torch_device=torch_device,
            tf32=tf32,
            options=options,
            opset=opset,
            dynamic=dynamic,
            inputs=inputs,
            arguments=arguments,
            weights=weights,
            onnx=onnx,
            calibration=calibration,
            accuracy=accuracy,
            data_dir=data_dir,
            timeout=timeout,
            memory_limit=memory_limit,
            device=device,
        )
    )
    if resume and save is None:
        raise InvalidRequestError("to resume a run, give its folder: --save DIR (in Python: save=...).")
    chosen = executor or ("processes" if save is not None and module is None else "inline")
    if chosen not in EXECUTORS:
        raise InvalidRequestError(
            f"the executor {chosen!r} is unknown; use {', '.join(EXECUTORS)}, or --executor ray for a cluster (in Python: "
            "attn_deploy.comparison.fleet.profile_fleet)."
        )
    if chosen == "processes" and module is not None:
        raise InvalidRequestError("a module cannot be given to another process; give its name, or executor='inline'.")
    report = progress or (lambda _: None)
    with contextlib.ExitStack() as stack:
        store = ProfileStore(Path(save), plan, resume=resume, progress=report) if save is not None else None
        folder = store.files if store is not None else Path(stack.enter_context(_scratch()))
        maker: Maker = InlineMaker(plan, folder, model=module, progress=report)
        if chosen == "processes":
            from attn_deploy.bench.isolated import ChildMaker

            maker = ChildMaker(plan, folder, memory=memory, progress=report)
        return run_plan(plan, maker, store, on_step=on_step)


def run_plan(
    plan: ProfilePlan, maker: Maker, store: ProfileStore | None, *, on_step: Steps | None = None
) -> ProfileRecord:
    """Make what a plan asks for and a store has not yet, shape by shape.

    Raises:
        MissingDependencyError: if every row lacks one.
        KeyboardInterrupt: where there is no store to keep what was made.
    """
    step = on_step or (lambda *_: None)
    environment = describe_environment()
    begun = maker.begin()
    shapes = plan.shapes
    total = len(shapes) + (1 if plan.accuracy else 0)
    rows: list[ProfileRow] = []
    done = 0
    try:
        for number, shape in enumerate(shapes):
            step(number, total, f"{begun.name}, {shape.key}")
            kept = store.read(shape, environment) if store is not None else None
            finished = kept if kept is not None else _rows(plan, maker, begun, shape)
            if store is not None and kept is None:
                store.write(shape, finished, environment)
            rows += finished
            done += 1
        if plan.accuracy is not None:
            step(len(shapes), total, f"{begun.name}, accuracy")
            rows = _with_accuracy(plan, maker, begun, rows, store)
            done += 1
        step(total, total, begun.name)
    except KeyboardInterrupt:
        if store is None:
            raise
    missing = maker.missing()
    if missing and len(missing) >= len(rows) > 0:
        raise missing[0]
    timed = any(r.runtime == REFERENCE and r.latency is not None for r in rows)
    record = ProfileRecord(
        name=begun.name,
        environment=environment,
        options=plan.options,
        rows=tuple(rows),
        baseline=REFERENCE if timed else None,
        onnx=maker.files(),
        load_after=load_average(),
        argv=command_line(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        unfinished=total - done,
        light=plan.device,
    )
    if store is not None:
        record.write(store.record)
    return record


def _rows(plan: ProfilePlan, maker: Maker, begun: Begun, shape: Shape) -> list[ProfileRow]:
    """The rows of a shape; with the reason, where it cannot fit in the memory that is free."""
    inputs = begun.inputs[shape]
    free = plan.memory_limit if plan.memory_limit is not None else available_memory()
    why = begun.needs[shape].refusal(free) if shape in begun.needs else ""
    if not why:
        return maker.rows(inputs)
    return [replace(blank_row(variant, inputs), reason=why) for variant in plan.variants]


def _with_accuracy(
    plan: ProfilePlan, maker: Maker, begun: Begun, rows: list[ProfileRow], store: ProfileStore | None
) -> list[ProfileRow]:
    from attn_deploy.bench.accuracy import accuracy_rows

    return accuracy_rows(plan, maker, begun, rows, store)


@contextlib.contextmanager
def _scratch() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        yield folder
