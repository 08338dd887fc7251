"""One exporter on one public network: the file is made, and compared with a fresh model at sizes of this script's own."""

from __future__ import annotations

import math
import os
import resource
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from network_records import DYNAMO, OURS, TORCHSCRIPT, Attempt, Latency

_SCALES = ((1, 1.25, 0.75), (3, 0.75, 1.5), (2, 1.5, 1.25))  # batch, height, width; of the traced sizes
_STEPS = (32, 14, 64, 56, 112, 224, 256)  # tried where an exporter says nothing of multiples
_ALLOWED = 10  # of the errors that single operators are allowed: a network is a chain of them
_OF_NOISE = 4  # of the error that PyTorch itself makes in float32, where that is more
_MOST = 100  # however much that is: a hundredth of the values
# One run is one draw of that error. Where large scores meet a softmax draws differ tenfold: smp's MAnet at one size is 0.6 to
# 6.6 from float64 when its input moves by a bit, 0.99 as it is (our file 16.5 there, plain TorchScript's 22.9, at other
# values 0.8 and 3.5). So some neighbours are asked.
_NEIGHBOURS = 5
_SEED = 0


@dataclass(frozen=True, slots=True)
class Job:
    """What a process is asked for.

    Attributes:
        exporter: whose.
        name: of the network.
        path: of the file.
        ours: what became of it with ours: its axes and steps are those that a plain file is tried at, after all.
    """

    exporter: str
    name: str
    path: Path
    ours: Attempt | None = None


def attempt(job: Job) -> Attempt:
    """The attempt, in this process."""
    warnings.simplefilter("ignore")
    if job.exporter == OURS:
        return _ours(job)
    made: Attempt | None = None
    for axes in _sets_of_axes(job):
        trial = _plain(job, axes)
        if trial.right or trial.outcome == "absent":
            return trial
        made = made or trial
    assert made is not None
    return made


def _sets_of_axes(job: Job) -> list[tuple[str, ...]]:
    """The axes that a plain file is tried with: all, those of ours, the batch, none."""
    try:
        _, inputs = fresh(job.name)
    except Exception:
        return [()]
    every = tuple(dict.fromkeys(s for i in inputs for s in i.symbols))
    ours = job.ours.axes if job.ours is not None and job.ours.right else ()
    batch = tuple(s for s in every if s[0] == "N")
    return list(dict.fromkeys((every, tuple(s for s in every if s in ours), batch, ())))


def _ours(job: Job) -> Attempt:
    from attn_deploy import export

    started = time.process_time()
    try:
        artifact = export(job.name, job.path)
    except Exception as error:
        return replace(_refused(error), seconds=time.process_time() - started)
    record = artifact.record
    reason = "; ".join(f"{s} {why}" for s, why in record.get("fixed", {}).items())
    made = Attempt(
        "wrong",
        artifact.dynamic_axes,
        dict(record.get("multiple", {})),
        dict(record.get("minimum", {})),
        seconds=time.process_time() - started,
        peak_mb=_peak(),
        exporter=record["exporter"],
        reason=reason,
    )
    return _judged(job, made)


def _plain(job: Job, axes: tuple[str, ...]) -> Attempt:
    import torch

    started = time.process_time()
    try:
        model, inputs = fresh(job.name)
        steps = _steps(job, axes)
        least = dict(job.ours.least) if job.ours is not None else {}
        example = tuple(torch.from_numpy(a) for a in arrays_of(inputs, {"N": 2} if "N" in axes else {}).values())
        moving = {i.name: {a: d for a, d in enumerate(i.dims) if d in axes} for i in inputs}
        names = [i.name for i in inputs]
        started = time.process_time()
        if job.exporter == DYNAMO:
            shapes = tuple(dict.fromkeys(moving[n], torch.export.Dim.DYNAMIC) for n in names)
            torch.onnx.export(
                model,
                example,
                job.path,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=names,
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(model, example, job.path, dynamo=False, dynamic_axes=moving, input_names=names)
    except Exception as error:
        return replace(_refused(error), axes=axes, seconds=time.process_time() - started)
    made = Attempt("wrong", axes, steps, least, seconds=time.process_time() - started, peak_mb=_peak())
    return _judged(job, made)


def _refused(error: Exception) -> Attempt:
    absent = type(error).__name__ == "MissingDependencyError"
    text = " ".join(str(error).split())[:400]
    return Attempt("absent" if absent else "refused", reason=f"{type(error).__name__}: {text}", load=_load())


def _judged(job: Job, made: Attempt) -> Attempt:
    try:
        error = largest_error(job.name, job.path, made)
    except Exception as failure:
        text = f"the file fails where the model runs: {' '.join(str(failure).split())[:300]}"
        return replace(made, error=None, reason=text, load=_load())
    if math.isinf(error):
        return replace(made, error=None, reason="the file gives NaN where the model gives numbers", load=_load())
    allowed = _ALLOWED if error <= _ALLOWED else max(_ALLOWED, min(_MOST, _OF_NOISE * noise(job.name, made)))
    return replace(made, outcome="right" if error <= allowed else "wrong", error=error, load=_load())


def fresh(name: str) -> tuple[Any, tuple[Any, ...]]:
    """A fresh model with the weights that a name always has, and its inputs."""
    from attn_deploy.resolve.resolve import resolve_seeded

    resolved = resolve_seeded(name, seed=_SEED)
    if resolved.inputs is None:
        raise RuntimeError(f"{name}: the shape of its input is not known")
    return resolved.module.eval(), resolved.inputs


def arrays_of(inputs: Sequence[Any], sizes: Mapping[str, int], seed: int = 7) -> dict[str, Any]:
    """Uniform noise over a smooth image: not the exporter's own test tensors."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for i in inputs:
        shape = i.shape(sizes)
        noise = rng.uniform(-1, 1, shape)
        waves = np.sin(np.linspace(0, 9, shape[-1])) if shape else 0.0
        arrays[i.name] = (noise + waves).astype(i.dtype)
    return arrays


def _sizes(inputs: Sequence[Any], made: Attempt, scales: Sequence[float]) -> Any:
    """Extents of the axes that move: near the traced ones times the scale, multiples of the steps, not the traced ones.

    Where that is less than the file says it takes, the extent grows by as much as it would have shrunk.
    """
    traced = inputs[0].sizes
    sizes = {}
    for symbol in made.axes:
        if symbol[0] == "N":
            sizes[symbol] = int(scales[0])
            continue
        step, scale = made.steps.get(symbol, 1), scales[1 if symbol[0] == "H" else 2]
        if traced[symbol] * scale < made.least.get(symbol, 1):
            scale = 2 - scale
        extent = round(traced[symbol] * scale / step) * step
        sizes[symbol] = extent if extent != traced[symbol] else extent + step
    return sizes


def _steps(job: Job, axes: Sequence[str]) -> dict[str, int]:
    """The steps of our file, or the least of some usual ones at which the model runs."""
    space = [s for s in axes if s[0] != "N"]
    if not space:
        return {}
    if job.ours is not None and set(space) <= set(job.ours.axes):
        return dict(job.ours.steps)
    import torch

    for step in _STEPS:
        model, inputs = fresh(job.name)
        steps = dict.fromkeys(space, step)
        try:
            with torch.no_grad():
                trial = Attempt("", tuple(axes), steps)
                model(*(torch.from_numpy(a) for a in arrays_of(inputs, _sizes(inputs, trial, _SCALES[0])).values()))
        except Exception:
            continue
        return steps
    raise RuntimeError("the model itself runs at no other size that was tried")


def largest_error(name: str, path: Path, made: Attempt) -> float:
    """The largest error of a file in units of what one operator is allowed, at sizes that move every axis.

    Raises:
        RuntimeError: if an output has another shape than the model's.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    worst = 0.0
    for scales in _SCALES:
        model, inputs = fresh(name)
        arrays = arrays_of(inputs, _sizes(inputs, made, scales))
        worst = max(worst, _distance(_eager(model, arrays), session.run(None, arrays)))
    return worst


def noise(name: str, made: Attempt) -> float:
    """The same of PyTorch in float32, and of its neighbours, against PyTorch in float64; 0 where the model has no float64."""
    worst = 0.0
    for scales in _SCALES:
        model, inputs = fresh(name)
        arrays = arrays_of(inputs, _sizes(inputs, made, scales))
        precise = {n: a.astype(np.float64) if a.dtype == np.float32 else a for n, a in arrays.items()}
        try:
            right = _eager(model.double(), precise)
            single = fresh(name)[0]
            for draw in (arrays, *(_neighbour(arrays, seed) for seed in range(_NEIGHBOURS))):
                worst = max(worst, _distance(right, _eager(single, draw)))
        except Exception:
            return 0.0
    return worst


def _neighbour(arrays: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The inputs with each number in float32 moved to the next one, up or down."""
    rng = np.random.default_rng(seed)
    moved = {}
    for name, array in arrays.items():
        towards = np.where(rng.random(array.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        moved[name] = np.nextafter(array, towards) if array.dtype == np.float32 else array
    return moved


def _eager(model: Any, arrays: Mapping[str, Any]) -> list[Any]:
    import torch

    from attn_deploy.runtimes.eager import flatten_outputs

    with torch.no_grad():
        return [t.numpy() for t in flatten_outputs(model(*(torch.from_numpy(a) for a in arrays.values())))]


def _distance(right: Sequence[Any], outputs: Sequence[Any]) -> float:
    worst = 0.0
    for expected, got in zip(right, outputs, strict=True):
        if expected.shape != got.shape:
            raise RuntimeError(f"an output is {got.shape} and must be {expected.shape}")
        if expected.dtype == bool:
            expected, got = expected.astype(np.float32), got.astype(np.float32)
        allowed = 1e-4 * np.abs(expected) + 1e-5 * max(1.0, float(np.abs(expected).max(initial=0.0)))
        error = float((np.abs(got - expected) / allowed).max(initial=0.0))
        worst = max(worst, math.inf if math.isnan(error) else error)
    return worst


def latency(name: str, files: Mapping[str, Path], quick: bool = False) -> Latency | None:
    """Right files against each other, interleaved; None where there is no plain one."""
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.statistics import compare_rounds
    from attn_deploy.bench.timer import measure
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    plain = [e for e in files if e != OURS]
    if not plain or OURS not in files:
        return None
    options = BenchOptions(
        threads=1, rounds=24, min_samples=48, min_seconds=0.5, max_seconds=6.0 if quick else 25.0, warmup_seconds=0.2
    )
    _, inputs = fresh(name)
    arrays = arrays_of(inputs, {"N": 1} if "N" in inputs[0].sizes else {})
    runners = {e: OnnxRuntimeRunner(f, threads=1) for e, f in files.items()}
    for runner in runners.values():
        runner.prepare(arrays)
    results = measure(runners, options)
    failed = next((r for r in results.values() if isinstance(r, Exception)), None)
    if failed is not None:
        raise failed
    medians = {e: r.p50_ms for e, r in results.items() if not isinstance(r, Exception)}
    best = min(plain, key=lambda e: medians[e])
    rounds = {e: r.rounds for e, r in results.items() if not isinstance(r, Exception)}
    comparison = compare_rounds(rounds[OURS], rounds[best], margin=0.05)
    interval = comparison.interval
    return Latency(medians, best, comparison.speedup, interval.low, interval.high, _load())


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _load() -> float:
    return os.getloadavg()[0]


EXPORTERS = (OURS, DYNAMO, TORCHSCRIPT)
