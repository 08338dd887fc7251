"""The per-layer views of a profile: each runtime that can tell, at the plan's first shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from attn_deploy.bench.layers import LAYERS_NAME, LayerReport, write_layers
from attn_deploy.bench.make import begun, make_bench
from attn_deploy.bench.plan import ProfilePlan, Variant
from attn_deploy.bench.request import with_threads
from attn_deploy.errors import AttnDeployError
from attn_deploy.files import scratch_folder
from attn_deploy.inputs.samples import example_arrays
from attn_deploy.inputs.tensors import Arrays, TensorInput
from attn_deploy.processes import available_memory
from attn_deploy.runtimes.onnxruntime import exact_int8
from attn_deploy.runtimes.table import RUNTIMES

if TYPE_CHECKING:
    from attn_deploy.bench.stand import Bench

RUNS = 50


@dataclass(frozen=True, slots=True)
class LayerViews:
    """The views that were made, and why others were not, by variant."""

    reports: tuple[LayerReport, ...]
    missing: dict[str, str]


def layer_views(
    plan: ProfilePlan, *, save: Path | None = None, runs: int = RUNS, progress: Callable[[str], None] | None = None
) -> LayerViews:
    """Profile the layers of every runtime and precision of a plan, at its first shape.

    Args:
        plan: what is profiled.
        save: the folder of its run: files that were exported there are used again, and the views are written beside the
            record, where reports find them.
        runs: of each runtime.
        progress: called with a few words at each step.

    Raises:
        InvalidRequestError: if the model or its inputs cannot be used.
    """
    with scratch_folder() as scratch:
        folder = save / "files" if save is not None else Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        plan = with_threads(plan)
        report = progress or (lambda _: None)
        bench = make_bench(plan, folder, model=None, progress=report)
        start = begun(plan, bench)
        shape, inputs = next(iter(start.inputs.items()))
        why = start.needs[shape].refusal(plan.memory_limit if plan.memory_limit is not None else available_memory())
        if why:
            return LayerViews((), {v.key: why for v in plan.variants})
        arrays = example_arrays(inputs, seed=plan.options.seed)
        reports, missing = [], {}
        for variant in plan.variants:
            report(f"profiling the layers of {variant.key}")
            try:
                reports.append(_view(bench, variant, inputs, arrays, runs))
            except AttnDeployError as error:
                missing[variant.key] = " ".join(str(error).split())
    if save is not None and reports:
        write_layers(save / LAYERS_NAME, reports)
    return LayerViews(tuple(reports), missing)


def _view(bench: Bench, variant: Variant, inputs: tuple[TensorInput, ...], arrays: Arrays, runs: int) -> LayerReport:
    name, precision = bench.subject.name, variant.precision or "fp32"
    if variant.runtime == "eager" and bench.subject.module is not None:
        import torch

        from attn_deploy.bench.layers_torch import torch_layers

        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        return torch_layers(
            bench.subject.module,
            arrays,
            name=name,
            device=bench.device,
            dtype=kinds[precision],
            precision=precision,
            threads=bench.threads,
            runs=runs,
        )
    if variant.runtime in ("ort-cpu", "ort-cuda"):
        from attn_deploy.bench.layers_onnxruntime import onnxruntime_layers

        return onnxruntime_layers(
            bench.files.made(inputs, variant.precision, RUNTIMES[variant.runtime].target).path,
            arrays,
            name=name,
            precision=precision,
            provider=variant.runtime.removeprefix("ort-"),
            threads=bench.threads,
            runs=runs,
            config=exact_int8() if precision == "int8" else None,
        )
    if variant.runtime in ("tensorrt", "tensorrt-rtx"):
        from attn_deploy.bench.layers_tensorrt import engine_layers
        from attn_deploy.engine.builder import build
        from attn_deploy.runtimes.engines import import_engine_library

        import_engine_library(variant.runtime)  # refuses a machine without a GPU before minutes of building

        made = Path(bench.files.made(inputs, variant.precision, RUNTIMES[variant.runtime].target).path)
        shapes = {i.name: i.shape() for i in inputs}
        path = made.with_name(f"{made.stem}-{variant.runtime}-layers.engine")
        exact = {n: (s, s, s) for n, s in shapes.items()}
        engine = build(made, path, flavor=variant.runtime, profiles=exact, tf32=bench.tf32)
        return engine_layers(
            Path(engine.path), made, arrays, name=name, runtime=variant.runtime, precision=precision, runs=runs
        )
    raise AttnDeployError(
        f"{variant.runtime} has no per-layer view here; eager, ort-cpu, ort-cuda and engines have one."
    )
