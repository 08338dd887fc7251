"""One shape: all runtimes and precisions, checked against eager and timed in turn, in one process."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from attn_deploy.bench import statistics
from attn_deploy.bench.check import check_rows
from attn_deploy.bench.evidence import Conditions, GraphCost, Placement
from attn_deploy.bench.files import SHORT, Made
from attn_deploy.bench.options import BenchOptions
from attn_deploy.bench.plan import Variant, size_of
from attn_deploy.bench.row import ProfileRow, line_of_error
from attn_deploy.bench.stand import Bench, ReadyRunner
from attn_deploy.bench.timer import EndToEnd, Measured, cold_start, measure_both
from attn_deploy.errors import (
    AttnDeployError,
    GraphError,
    InvalidRequestError,
    MissingDependencyError,
    ProviderError,
)
from attn_deploy.graph.work import graph_work
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.machine.conditions import machine_state
from attn_deploy.runtimes.base import Runner, RuntimeInfo
from attn_deploy.runtimes.table import REFERENCE, RUNTIMES
from attn_deploy.runtimes.work import Work

_END_TO_END_SHARE = 5  # of the time and of the samples that the runs themselves get


def profile_group(bench: Bench, variants: Sequence[Variant], inputs: tuple[TensorInput, ...]) -> list[ProfileRow]:
    """All rows of one shape, in the order of the variants."""
    shapes = {i.name: i.shape() for i in inputs}
    rows = {v.key: blank_row(v, inputs) for v in variants}
    ready: dict[str, ReadyRunner] = {}
    with contextlib.ExitStack() as stack:
        try:
            arrays = example_arrays(inputs, seed=bench.options.seed)
        except MemoryError as error:
            return [replace(row, reason=f"the inputs do not fit in memory: {error}") for row in rows.values()]
        for variant in variants:
            bench.progress(f"loading {variant.key} for {_told(shapes)}")
            bench.trail(variant.key)
            try:
                ready[variant.key] = candidate = start_runner(bench, variant, inputs, arrays)
                stack.callback(candidate.runner.close)
            except Exception as error:
                raise_if_request(error)
                if isinstance(error, MissingDependencyError):
                    bench.missing.append(error)
                rows[variant.key] = refused(rows[variant.key], error)
        for key, candidate in ready.items():
            rows[key] = with_runner(rows[key], candidate)
        check_rows(bench, inputs, rows, ready, stack)
        _time(bench, arrays, rows, ready)
    baseline = next((r for r in rows.values() if r.runtime == REFERENCE and r.latency is not None), None)
    return [_with_speedup(row, baseline, bench.options) for row in rows.values()]


def blank_row(variant: Variant, inputs: tuple[TensorInput, ...]) -> ProfileRow:
    """The row of a variant that did not run yet."""
    return ProfileRow(
        runtime=variant.runtime,
        batch=inputs[0].shape()[0],
        shapes={i.name: i.shape() for i in inputs},
        status="failed",
        precision=variant.precision or "fp32",
        size=size_of(inputs),
        cuda_graph=variant.cuda_graph,
    )


def with_runner(row: ProfileRow, candidate: ReadyRunner) -> ProfileRow:
    """The row with what ran. A file that was taken as it is has the precision that it has."""
    precision = row.precision
    if candidate.graph is not None and precision == "fp32":
        precision = SHORT.get(candidate.info.precision, precision)
    return replace(
        row,
        precision=precision,
        info=candidate.info,
        cold=candidate.cold,
        placement=candidate.placement,
        graph=candidate.graph,
    )


def refused(row: ProfileRow, error: Exception) -> ProfileRow:
    """The row of a variant that could not be started, with the reason."""
    return replace(row, status="invalid" if isinstance(error, ProviderError) else "failed", reason=line_of_error(error))


def start_runner(bench: Bench, variant: Variant, inputs: tuple[TensorInput, ...], arrays: Arrays) -> ReadyRunner:
    """Load a runtime and run it once.

    Raises:
        ProviderError: if it ran elsewhere than its entry says.
        AttnDeployError: for what else keeps it from running; a runtime may raise others too.
    """
    runtime = RUNTIMES[variant.runtime]
    runtime.prerequisite()
    precision = runtime.file_precision(variant.precision)
    file = bench.files.made(inputs, precision, runtime.target) if runtime.needs == "onnx" else None
    work = Work(
        module=bench.subject.module,
        onnx=Path(file.path) if file is not None else None,
        outputs=bench.subject.outputs,
        threads=bench.threads,
        precision=variant.precision or (SHORT[file.precision] if file is not None else ""),
        device=bench.device,
        inputs=inputs,
        folder=bench.folder,
        tf32=bench.tf32,
        cuda_graph=variant.cuda_graph,
        keep=bench.keep,
    )
    runner, cold = cold_start(functools.partial(runtime.make, work), arrays)
    try:
        info = runner.info
        if runtime.provider is not None and info.provider != runtime.provider:
            raise ProviderError(f"{runtime.name} ran on {info.provider}, and {runtime.provider} was asked for.")
        outputs = runner.outputs()
    except BaseException:
        runner.close()
        raise
    if file is not None:  # a file may compute in another type than its inputs have
        info = info if runtime.converts else replace(info, precision=file.precision)
        if file.seconds:
            cold = replace(cold, build_seconds=(cold.build_seconds or 0.0) + file.seconds)
    return ReadyRunner(runner, cold, outputs, info, _placement(runner, info), _graph(file, inputs))


def _placement(runner: Runner, info: RuntimeInfo) -> Placement | None:
    placement = getattr(runner, "placement", None)
    nodes, elsewhere = placement() if placement is not None else ({}, {})
    return Placement(info.provider, nodes, elsewhere) if nodes else None


def _graph(file: Made | None, inputs: tuple[TensorInput, ...]) -> GraphCost | None:
    if file is None or file.described is None:
        return None
    if "library" in file.described:  # an engine, whose operators nobody tells
        return None
    cost = GraphCost(file.described["sha256"], file.described["opset"], file.described["nodes"])
    try:
        work = graph_work(file.path, {i.name: i.shape() for i in inputs})
    except GraphError:  # shapes that inference cannot follow leave the row without a floor, not without a time
        return cost
    if work.unknown:
        return cost
    return replace(cost, macs=work.macs, bytes_ideal=work.bytes, bytes_unfused=work.unfused_bytes)


def _time(bench: Bench, arrays: Arrays, rows: dict[str, ProfileRow], ready: dict[str, ReadyRunner]) -> None:
    for candidate in ready.values():
        candidate.runner.prepare(arrays)  # the comparison has left other values there
    if not ready:
        return
    bench.progress(f"timing {', '.join(ready)} at {_told(next(iter(rows.values())).shapes)}")
    before = machine_state()
    results = measure_both({n: c.runner for n, c in ready.items()}, bench.options, on_turn=bench.trail)
    after = machine_state()
    good: dict[str, Measured] = {}
    for name, result in results.items():
        rows[name] = replace(rows[name], conditions=Conditions(before, after))
        if isinstance(result, Exception):
            rows[name] = replace(rows[name], status="failed", reason=line_of_error(result))
        elif not _unchanged(ready[name].outputs, ready[name].runner.outputs()):
            why = "the outputs of the last timed run are not those of the first run on the same inputs"
            rows[name] = replace(rows[name], status="invalid", reason=why)
        else:
            good[name] = result
    apart = _end_to_end(bench, arrays, {n: ready[n].runner for n in good})
    for name, result in good.items():
        noise = result.host.noise(bench.options.noise_limit)
        whole = apart.get(name)
        rows[name] = replace(
            rows[name],
            status="ok",
            latency=result.host,
            device_time=result.device,
            end_to_end=whole.host if isinstance(whole, Measured) else None,
            noise=noise,
        )


def _end_to_end(bench: Bench, arrays: Arrays, runners: Mapping[str, Runner]) -> dict[str, Measured | Exception]:
    """Upload, run and download, after the runs alone, and with fewer samples: it is the lesser question."""
    options = bench.options
    fewer = replace(
        options,
        min_samples=max(options.rounds, options.min_samples // _END_TO_END_SHARE),
        min_seconds=options.min_seconds / _END_TO_END_SHARE,
        max_seconds=max(options.min_seconds, options.max_seconds / _END_TO_END_SHARE),
        warmup_seconds=options.warmup_seconds / _END_TO_END_SHARE,
    )
    return measure_both({n: EndToEnd(r, arrays) for n, r in runners.items()}, fewer, on_turn=bench.trail)


def _with_speedup(row: ProfileRow, baseline: ProfileRow | None, options: BenchOptions) -> ProfileRow:
    if row.latency is None or baseline is None or baseline.latency is None or row.key == baseline.key:
        return row
    comparison = statistics.compare_rounds(
        baseline.latency.rounds,
        row.latency.rounds,
        confidence=options.confidence,
        seed=options.seed,
        noisy=bool(row.noise or baseline.noise),
    )
    return replace(row, speedup=comparison)


def raise_if_request(error: Exception) -> None:
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


def _told(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join("x".join(map(str, s)) for s in shapes.values())
