"""`attn_deploy.profile`: what a model costs in each runtime, with the evidence that each computed the same."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.bench.group import blank_row
from attn_deploy.bench.make import InlineMaker
from attn_deploy.bench.maker import Begun, Maker
from attn_deploy.bench.plan import ProfilePlan, Shape
from attn_deploy.bench.record import ProfileRecord, ProfileRow
from attn_deploy.bench.request import ProfileRequest, ProfileSettings, as_request, plan_profile, with_threads
from attn_deploy.bench.store import ProfileStore
from attn_deploy.files import alone_in, make_folder, scratch_folder
from attn_deploy.machine.environment import command_line, describe_environment, load_average
from attn_deploy.processes import available_memory
from attn_deploy.runtimes.table import REFERENCE

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Unpack

Progress = Callable[[str], None]
Steps = Callable[[int, int, str], None]


def profile(
    model: str | Path | nn.Module | ProfileRequest,
    *,
    progress: Progress | None = None,
    on_step: Steps | None = None,
    **settings: Unpack[ProfileSettings],
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
        model: a name, a module, the path of an ``.onnx`` file, or a whole `ProfileRequest`.
        **settings: the fields of a `ProfileRequest`, which describes them: ``batch=(1, 8)``, ``save="run"`` ...
        progress: called with a few words at each step.
        on_step: called with the step, their number, and the shape that is made.

    Returns:
        The record. After Ctrl-C, where ``save`` is given, the record of the shapes that were finished.

    Raises:
        InvalidRequestError: if the request cannot be used: unknown runtime, fixed axis, unknown shape ...
        GraphError: if a file that was given cannot be read.
        MissingDependencyError: if no runtime that was asked for is installed.
    """
    request = as_request(model, settings)
    plan = with_threads(plan_profile(request))
    report = progress or (lambda _: None)
    with contextlib.ExitStack() as stack:
        save = request.save
        store = None
        if save is not None:
            stack.enter_context(_made_for_a_profile(Path(save)))
            stack.enter_context(alone_in(Path(save), "profiling"))
            store = ProfileStore(Path(save), plan, resume=request.resume, progress=report)
        folder = store.files if store is not None else stack.enter_context(scratch_folder())
        maker: Maker = InlineMaker(plan, folder, model=request.module, progress=report)
        if request.chosen_executor == "processes":
            from attn_deploy.bench.isolated import ChildMaker

            maker = ChildMaker(plan, folder, memory=request.memory, progress=report)
        return run_plan(plan, maker, store, on_step=on_step)


@contextlib.contextmanager
def _made_for_a_profile(folder: Path) -> Iterator[None]:
    """A folder that is there; one that was made for a profile of which nothing came goes again."""
    there = folder.exists()
    make_folder(folder)
    try:
        yield
    finally:
        if not there:
            with contextlib.suppress(OSError):  # it holds something
                folder.rmdir()


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
    try:
        begun = maker.begin()
    except Exception:
        if store is not None:
            store.forget()
        raise
    shapes = plan.shapes
    total = len(shapes) + (1 if plan.accuracy else 0)
    made: dict[Shape, list[ProfileRow]] = {}
    with_accuracy: list[ProfileRow] | None = None
    try:
        for number, shape in enumerate(shapes):
            step(number, total, f"{begun.name}, {shape.key}")
            kept = store.read(shape, environment) if store is not None else None
            finished = kept if kept is not None else _rows(plan, maker, begun, shape)
            if store is not None and kept is None:
                store.write(shape, finished, environment)
            made[shape] = finished
        if plan.accuracy is not None:
            step(len(shapes), total, f"{begun.name}, accuracy")
            with_accuracy = _with_accuracy(plan, maker, begun, _in_order(made), store)
        step(total, total, begun.name)
    except KeyboardInterrupt:
        if store is None:
            raise
        # It may come between storing a shape's rows and adding them here: the record must contain what was stored.
        for shape in shapes[len(made) : len(made) + 1]:
            if (kept := store.read(shape, environment)) is not None:
                made[shape] = kept
    rows = with_accuracy if with_accuracy is not None else _in_order(made)
    done = len(made) + (with_accuracy is not None)
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


def _in_order(made: dict[Shape, list[ProfileRow]]) -> list[ProfileRow]:
    return [row for rows in made.values() for row in rows]


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
