"""Eager PyTorch's operators under the modules that called them, by torch.profiler."""

from __future__ import annotations

import copy
import os
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from attn_deploy.bench.layers import LayerReport, LayerTime, middle
from attn_deploy.inputs.tensors import Arrays

_MARK = "module:"
_WARMUP = 5


def torch_layers(
    module: nn.Module,
    inputs: Arrays,
    *,
    name: str,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    precision: str = "fp32",
    threads: int | None = None,
    runs: int = 20,
) -> LayerReport:
    """Run a copy of a module under torch.profiler, and put each operator's time under the module that called it.

    On a CUDA device the times are those of the kernels. The profiler costs microseconds for each operator, so that small
    operators look slower than they are without it.

    Args:
        module: the model; left alone.
        inputs: arrays, in the order of its arguments.
        name: of the model, for the report.
        device: cpu or cuda.
        dtype: of parameters and floating-point inputs.
        precision: the same in words.
        threads: torch's threads while it runs; None leaves them.
        runs: that are profiled, after a few that are not counted.
    """
    copied = copy.deepcopy(module).eval().to(torch.device(device), dtype)
    tensors = [torch.tensor(a, device=device) for a in inputs.values()]
    tensors = [t.to(dtype) if t.is_floating_point() else t for t in tensors]
    cuda = device.startswith("cuda")
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if cuda else [])
    before = torch.get_num_threads()
    if threads is not None:
        torch.set_num_threads(threads)
    took = []
    try:
        with _marked(copied), torch.inference_mode():
            for _ in range(_WARMUP):
                copied(*tensors)
            recorded = profile(activities=activities, acc_events=True)
            with _quiet_start(recorded):
                for _ in range(runs):
                    started = time.perf_counter_ns()
                    copied(*tensors)
                    if cuda:
                        torch.cuda.synchronize(device)
                    took.append((time.perf_counter_ns() - started) / 1e3)
    finally:
        torch.set_num_threads(before)
    return LayerReport(
        name=name,
        runtime="eager",
        precision=precision,
        shapes={n: tuple(a.shape) for n, a in inputs.items()},
        source=f"torch {torch.__version__} profiler",
        runs=runs,
        layers=layers_of_events(recorded.events() or [], runs, cuda=cuda),  # type: ignore[no-untyped-call]
        whole_us=statistics.median(took),
    )


def layers_of_events(events: Any, runs: int, *, cuda: bool = False) -> tuple[LayerTime, ...]:
    """Each operator's time in one run, under the module that called it; what it calls itself is in it."""
    times_of: dict[tuple[str, str, bool], list[float]] = {}
    for event in events:
        if event.name.startswith(_MARK) or event.is_async or (event.cpu_parent and not _is_mark(event.cpu_parent)):
            continue  # what an operator calls is in its own time
        took = float(event.device_time_total if cuda else event.cpu_time_total)
        module = event.cpu_parent.name.removeprefix(_MARK) if event.cpu_parent else ""
        times_of.setdefault((module, event.name, event.cpu_parent is not None), []).append(took)
    return tuple(
        LayerTime(module, name.removeprefix("aten::"), name, middle(times) * len(times) / runs, known)
        for (module, name, known), times in times_of.items()
    )


def _is_mark(event: Any) -> bool:
    return bool(event.name.startswith(_MARK))


@contextmanager
def _quiet_start(recorded: profile) -> Iterator[None]:
    """The profiler from start to stop, without the lines that its C++ code writes to standard error at either."""
    with _without_stderr():
        recorded.start()
    try:
        yield
    finally:
        with _without_stderr():
            recorded.stop()


@contextmanager
def _without_stderr() -> Iterator[None]:
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none to keep quiet
        yield
        return
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextmanager
def _marked(module: nn.Module) -> Iterator[None]:
    """Every module's forward within a range of its name."""
    ranges: list[Any] = []

    def enter(path: str) -> Any:
        def hook(*_: Any) -> None:
            marked = record_function(_MARK + path)
            marked.__enter__()  # type: ignore[no-untyped-call]
            ranges.append(marked)

        return hook

    def leave(*_: Any) -> None:
        ranges.pop().__exit__(None, None, None)

    handles = []
    for path, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(enter(path)))
        handles.append(part.register_forward_hook(leave))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
