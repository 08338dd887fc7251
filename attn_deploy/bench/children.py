"""What the child processes of a profile do; see `attn_deploy.bench.isolated`. Arguments and results are JSON."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from attn_deploy.bench.evidence import MemoryPeak
from attn_deploy.bench.files import OnnxFiles
from attn_deploy.bench.group import blank_row, profile_group, raise_if_request, refused, start_runner, with_runner
from attn_deploy.bench.make import begun, make_bench
from attn_deploy.bench.plan import ProfilePlan, Variant, inputs_from_dicts, inputs_to_dicts
from attn_deploy.bench.stand import Bench
from attn_deploy.bench.subject import ProfileSubject
from attn_deploy.errors import MissingDependencyError
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.inputs.user_samples import parse_samples, with_samples
from attn_deploy.machine import conditions
from attn_deploy.runtimes.table import RUNTIMES, choose_runtimes, torch_device

Emit = Callable[[dict[str, Any]], None]
_MORE_RUNS = 3  # of a row that is started alone: some libraries allocate in their second run
_TRAIL = 120  # bytes


def model_shapes(*, emit: Emit, plan: Mapping[str, Any], folder: str) -> dict[str, Any]:
    """The model's name and its inputs at every shape."""
    wanted, bench = _bench(plan, folder, emit)
    start = begun(wanted, bench)
    return {
        "name": start.name,
        "has_module": start.has_module,
        "shapes": [inputs_to_dicts(start.inputs[s]) for s in wanted.shapes],
        "needs": [asdict(start.needs[s]) for s in wanted.shapes],
    }


def make_file(
    *, emit: Emit, plan: Mapping[str, Any], folder: str, precision: str, target: str, inputs: Sequence[Any]
) -> str:
    """The path of the file of a precision, in the form of a target, made unless another process has."""
    wanted, bench = _bench(plan, folder, emit)
    return bench.files.made(_tensors(wanted, inputs), precision, target).path


def start_row(
    *, emit: Emit, plan: Mapping[str, Any], folder: str, variant: Mapping[str, Any], inputs: Sequence[Any]
) -> dict[str, Any]:
    """Start one row in this fresh process: how long the import takes, what loads, what memory is held at most."""
    wanted, chosen = ProfilePlan.from_dict(plan), Variant(**variant)
    tensors = _tensors(wanted, inputs)
    row = blank_row(chosen, tensors)
    answer: dict[str, Any] = {"row": asdict(row), "memory": None, "missing": "", "ran": False}
    began = time.perf_counter()
    try:
        RUNTIMES[chosen.runtime].prerequisite()
        imported = time.perf_counter() - began
        before = conditions.peak_host_memory()
        bench = _light_bench(wanted, Path(folder), chosen, tensors, emit)
        conditions.forget_peak()
        arrays = example_arrays(tensors, seed=wanted.options.seed)
        candidate = start_runner(bench, chosen, tensors, arrays)
        for _ in range(_MORE_RUNS):
            candidate.runner.enqueue()
            candidate.runner.synchronize()
        peak = MemoryPeak(conditions.peak_host_memory(), before, conditions.gpu_memory_of_this_process())
    except Exception as error:
        raise_if_request(error)
        if isinstance(error, MissingDependencyError):
            answer["missing"] = str(error)
        return {**answer, "row": asdict(refused(row, error))}
    row = with_runner(row, candidate)
    cold = replace(candidate.cold, import_seconds=imported)
    candidate.runner.close()
    return {**answer, "row": asdict(replace(row, cold=cold)), "memory": asdict(peak), "ran": True}


def time_group(
    *, emit: Emit, plan: Mapping[str, Any], folder: str, variants: Sequence[Mapping[str, Any]], inputs: Sequence[Any]
) -> dict[str, Any]:
    """All rows of one shape that start, timed in turn."""
    wanted, bench = _bench(plan, folder, emit)
    bench.trail = _Trail(Path(folder) / "trail")
    rows = profile_group(bench, [Variant(**v) for v in variants], _tensors(wanted, inputs))
    return {"rows": [asdict(r) for r in rows], "missing": [str(m) for m in bench.missing]}


def accuracy(*, emit: Emit, plan: Mapping[str, Any], folder: str, variant: Mapping[str, Any]) -> dict[str, Any]:
    """The plan's images through one variant."""
    from attn_deploy.bench.accuracy import answers_of

    wanted, bench = _bench(plan, folder, emit)
    return answers_of(wanted, bench, Variant(**variant)).to_dict()


def _tensors(plan: ProfilePlan, inputs: Sequence[Any]) -> tuple[TensorInput, ...]:
    """The inputs with the user's own values, which are read here: they do not travel."""
    return with_samples(inputs_from_dicts(inputs), parse_samples(plan.samples), plan.model)


def _bench(plan: Mapping[str, Any], folder: str, emit: Emit) -> tuple[ProfilePlan, Bench]:
    wanted = ProfilePlan.from_dict(plan)
    return wanted, make_bench(wanted, Path(folder), model=None, progress=lambda text: emit({"text": text}))


def _light_bench(
    plan: ProfilePlan, folder: Path, variant: Variant, inputs: tuple[TensorInput, ...], emit: Emit
) -> Bench:
    """A bench for one row: without torch and the module where the row runs a file that another process has made."""
    if RUNTIMES[variant.runtime].needs == "module":
        bench = make_bench(plan, folder, model=None, progress=lambda text: emit({"text": text}))
        bench.keep = False
        return bench
    subject = ProfileSubject(plan.model, inputs, (), onnx=None)
    own = plan.onnx or plan.model
    files = OnnxFiles(subject, folder, opset=plan.opset, dynamic=plan.dynamic, progress=lambda _: None, own=own)
    device = torch_device("cpu", choose_runtimes(plan.runtimes))
    return Bench(subject, plan.options, files, device=device, tf32=plan.tf32, folder=folder)


class _Trail:
    """Notes in a file what is about to run, without a word to anybody: a message would wake the reader up."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT)

    def __call__(self, key: str) -> None:
        os.pwrite(self._file, key.ljust(_TRAIL).encode("ascii", "replace"), 0)
