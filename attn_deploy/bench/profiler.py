"""`attn_deploy.profile`: what a model costs in each runtime, with the evidence that each computed the same."""

from __future__ import annotations

import contextlib
import datetime
import functools
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_deploy.bench import statistics
from attn_deploy.bench.environment import command_line, describe_environment, load_average, usable_cores
from attn_deploy.bench.files import OnnxFiles
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.record import ColdStart, ProfileRecord, ProfileRow
from attn_deploy.bench.runtimes import REFERENCE, Runtime, Work, choose_runtimes
from attn_deploy.bench.subject import Size, Subject, make_subject
from attn_deploy.bench.timer import cold_start, measure
from attn_deploy.errors import AttnDeployError, InvalidRequestError, MissingDependencyError, ParityError, ProviderError
from attn_deploy.inputs import Arrays, TensorInput, example_arrays
from attn_deploy.parity.tolerance import TOLERANCES
from attn_deploy.parity.verify import compare
from attn_deploy.runtimes.base import Runner, RuntimeInfo

if TYPE_CHECKING:
    from torch import nn

Progress = Callable[[str], None]


@dataclass(slots=True)
class _Candidate:
    """A runner that is ready to be timed."""

    runner: Runner
    cold: ColdStart
    outputs: Arrays
    info: RuntimeInfo


@dataclass(slots=True)
class _Profile:
    """One call of `profile`."""

    subject: Subject
    runtimes: tuple[Runtime, ...]
    options: BenchOptions
    threads: int
    files: OnnxFiles
    tell: Progress
    missing: list[MissingDependencyError] = field(default_factory=list)


def profile(
    model: str | Path | nn.Module,
    *,
    runtimes: Sequence[str] | None = None,
    batch: Sequence[int] | None = None,
    size: Size | None = None,
    threads: int | None = None,
    options: BenchOptions | None = None,
    opset: int | None = None,
    dynamic: Sequence[str] | None = None,
    inputs: Sequence[TensorInput] | None = None,
    arguments: Mapping[str, Any] | None = None,
    onnx: Path | str | None = None,
    progress: Progress | None = None,
) -> ProfileRecord:
    """Time a model in several runtimes with one clock, and check that all of them compute the same.

    Every runtime gets the same inputs, element type and threads. ONNX runtimes run a file that is exported for the
    occasion, verified at shapes that were not traced, in its deployed form (see `attn_deploy.export`); eager runs the
    module as it is. At each timed shape, outputs are compared with eager's before a number is believed. A runtime that
    fails, is not installed, disagrees or ran elsewhere becomes a row with a reason, and the others go on.

    Args:
        model: a name (see `attn_deploy.names`), a module, or the path of an ``.onnx`` file, for which torch is not
            needed and eager cannot be had.
        runtimes: names in `attn_deploy.bench.runtimes`; None for all that apply.
        batch: batch sizes; None for that of ``inputs``, or 1.
        size: height and width; None for those of ``inputs``, or 32x32 where the model allows it.
        threads: threads within an operator for all; over ``options.threads``.
        options: how to measure.
        opset: of the exported file.
        dynamic: axis symbols that move in the exported file; None for all that a registry model allows, and for the
            batch alone in a user's own model.
        inputs: the inputs of a module, of a user's model given by name, or of a file with unknown extents.
        arguments: constructor arguments when ``model`` is a name.
        onnx: a file already made from the model, to be timed instead of a new one.
        progress: called with a few words at each step.

    Raises:
        InvalidRequestError: if the request cannot be used: unknown runtime, fixed axis, unknown shape ...
        GraphError: if a file that was given cannot be read.
        MissingDependencyError: if no runtime that was asked for is installed.
    """
    settings = options or BenchOptions()
    chosen_threads = threads or settings.threads or usable_cores()
    settings = replace(settings, threads=chosen_threads)
    if runtimes is not None:
        choose_runtimes(runtimes)  # refuses a misspelt name before a model is made
    subject = make_subject(model, inputs=inputs, onnx=onnx, arguments=arguments)
    if runtimes is None:
        runtimes = ("ort-cpu",) if subject.module is None else (REFERENCE, "ort-cpu")
    tell = progress or (lambda _: None)
    environment = describe_environment()
    batches: Sequence[int | None] = list(dict.fromkeys(batch)) if batch else [None]
    shaped = [subject.at(b, size) for b in batches]  # all are refused now, or none
    with _torch_threads_kept(), tempfile.TemporaryDirectory(prefix="attn-deploy-") as folder:
        files = OnnxFiles(subject, Path(folder), opset=opset, dynamic=dynamic, progress=tell)
        run = _Profile(subject, choose_runtimes(runtimes), settings, chosen_threads, files, tell)
        rows = [row for taken in shaped for row in _rows(run, taken)]
    if run.missing and len(run.missing) == len(rows):
        raise run.missing[0]
    timed = any(r.runtime == REFERENCE and r.latency is not None for r in rows)
    return ProfileRecord(
        name=subject.name,
        environment=environment,
        options=settings,
        rows=tuple(rows),
        baseline=REFERENCE if timed else None,
        onnx=files.described(),
        load_after=load_average(),
        argv=command_line(),
        created=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
    )


@contextlib.contextmanager
def _torch_threads_kept() -> Iterator[None]:
    """Torch's threads are the process's, and the caller may have chosen them."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    try:
        yield
    finally:
        if torch is not None and before is not None:
            torch.set_num_threads(before)


def _rows(run: _Profile, inputs: tuple[TensorInput, ...]) -> list[ProfileRow]:
    """All rows of one shape."""
    arrays = example_arrays(inputs, seed=run.options.seed)
    shapes = {i.name: i.shape() for i in inputs}
    blank = ProfileRow(runtime="", batch=inputs[0].shape()[0], shapes=shapes, status="failed")
    rows = {r.name: replace(blank, runtime=r.name) for r in run.runtimes}
    ready: dict[str, _Candidate] = {}
    with contextlib.ExitStack() as stack:
        for runtime in run.runtimes:
            run.tell(f"loading {runtime.name} for {_told(shapes)}")
            try:
                ready[runtime.name] = _start(run, runtime, inputs, arrays, stack)
            except ProviderError as error:
                rows[runtime.name] = replace(rows[runtime.name], status="invalid", reason=str(error))
            except Exception as error:
                _raise_if_request(error)
                if isinstance(error, MissingDependencyError):
                    run.missing.append(error)
                rows[runtime.name] = replace(rows[runtime.name], reason=_reason(error))
        for name, candidate in ready.items():
            rows[name] = replace(rows[name], info=candidate.info, cold=candidate.cold)
        _check(run, inputs, rows, ready, stack)
        _time(run, arrays, rows, ready)
    return [_with_speedup(row, rows.get(REFERENCE), run.options) for row in rows.values()]


def _start(
    run: _Profile, runtime: Runtime, inputs: tuple[TensorInput, ...], arrays: Arrays, stack: contextlib.ExitStack
) -> _Candidate:
    """Load a runtime and run it once.

    Raises:
        ProviderError: if it ran elsewhere than its entry says.
    """
    runtime.prerequisite()
    path = run.files.path(inputs) if runtime.needs == "onnx" else None
    work = Work(run.subject.module, path, run.subject.outputs, run.threads)
    runner, cold = cold_start(functools.partial(runtime.make, work), arrays)
    stack.callback(runner.close)
    info = runner.info
    if runtime.provider is not None and info.provider != runtime.provider:
        raise ProviderError(f"{runtime.name} ran on {info.provider}, and {runtime.provider} was asked for.")
    if path is not None:  # a file may compute in another type than its inputs have
        info = replace(info, precision=run.files.precision(path))
    return _Candidate(runner, cold, runner.outputs(), info)


def _check(
    run: _Profile,
    inputs: tuple[TensorInput, ...],
    rows: dict[str, ProfileRow],
    ready: dict[str, _Candidate],
    stack: contextlib.ExitStack,
) -> None:
    """Compare each candidate with eager at the shape that is about to be timed; drop those that disagree."""
    others = [n for n in ready if n != REFERENCE]
    if run.subject.module is None or not others:
        return
    from attn_deploy.runtimes.eager import EagerRunner

    eager = functools.partial(EagerRunner, run.subject.module, output_names=run.subject.outputs)
    if REFERENCE in ready:
        reference: Runner = ready[REFERENCE].runner
    else:
        reference = eager(threads=run.threads)
        stack.callback(reference.close)

    def precise() -> Runner:
        import torch

        return eager(dtype=torch.float64, threads=run.threads)

    for name in others:
        run.tell(f"comparing {name} with eager")
        try:
            report = compare(
                reference,
                ready[name].runner,
                inputs,
                (),
                tolerance=TOLERANCES.get(ready[name].info.precision, TOLERANCES["float32"]),
                precise=precise,
                seed=run.options.seed,
            )
        except Exception as error:  # eager itself raises what it likes
            why = f"it could not be compared with eager: {_reason(error)}"
            rows[name] = replace(rows[name], status="invalid", reason=why)
            del ready[name]
            continue
        rows[name] = replace(rows[name], parity=report)
        try:
            report.raise_if_failed(run.subject.name)
        except ParityError as error:
            rows[name] = replace(rows[name], status="invalid", reason=str(error))
            del ready[name]


def _time(run: _Profile, arrays: Arrays, rows: dict[str, ProfileRow], ready: dict[str, _Candidate]) -> None:
    for candidate in ready.values():
        candidate.runner.prepare(arrays)  # the comparison has left other values there
    if not ready:
        return
    run.tell(f"timing {', '.join(ready)} at {_told(next(iter(rows.values())).shapes)}")
    results = measure({n: c.runner for n, c in ready.items()}, run.options)
    for name, result in results.items():
        if isinstance(result, Exception):
            rows[name] = replace(rows[name], status="failed", reason=_reason(result))
        elif not _unchanged(ready[name].outputs, ready[name].runner.outputs()):
            why = "the outputs of the last timed run are not those of the first run on the same inputs"
            rows[name] = replace(rows[name], status="invalid", reason=why)
        else:
            noise = result.noise(run.options.noise_limit)
            rows[name] = replace(rows[name], status="ok", latency=result, noise=noise)


def _with_speedup(row: ProfileRow, baseline: ProfileRow | None, options: BenchOptions) -> ProfileRow:
    if row.latency is None or baseline is None or baseline.latency is None or row.runtime == baseline.runtime:
        return row
    found = statistics.compare_rounds(
        baseline.latency.rounds, row.latency.rounds, confidence=options.confidence, seed=options.seed
    )
    return replace(row, speedup=found)


def _raise_if_request(error: Exception) -> None:
    """A request that cannot be used ends the profile; anything else is one row's trouble."""
    if isinstance(error, AttnDeployError) and error.exit_code == 2 and not isinstance(error, InvalidRequestError):
        raise error


def _unchanged(first: Arrays, last: Arrays) -> bool:
    """Whether the same inputs gave the same outputs before and after thousands of runs, but for the order of sums."""
    return list(first) == list(last) and all(
        a.shape == last[n].shape
        and np.allclose(a, last[n], rtol=1e-3, atol=1e-3 * max(1.0, float(np.abs(a).max(initial=0))))
        for n, a in first.items()
    )


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or "no message"
    return text if isinstance(error, AttnDeployError) else f"{type(error).__name__}: {text[:400]}"


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, s)) for s in shapes.values())
