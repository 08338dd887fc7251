"""ONNX Runtime's own profile, told in the words of the PyTorch model."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from attn_deploy.bench.layers import LayerReport, LayerTime, middle, summed
from attn_deploy.errors import GraphError
from attn_deploy.files import scratch_folder
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.placed import placed_tensors
from attn_deploy.graph.work import node_module
from attn_deploy.inputs.tensors import Arrays
from attn_deploy.runtimes.onnxruntime import PROVIDERS, import_onnxruntime

_SUFFIX = "_kernel_time"
_BLOCKED = "_nchwc"  # ONNX Runtime names a node in its blocked layout after the tensor that the original wrote
_WARMUP = 5


def onnxruntime_layers(
    path: Path | str,
    inputs: Arrays,
    *,
    name: str,
    precision: str = "fp32",
    provider: str = "cpu",
    threads: int = 0,
    runs: int = 50,
    config: Mapping[str, str] | None = None,
) -> LayerReport:
    """Run a file under ONNX Runtime's profiler, and put each node's time under the module that it came from.

    Nodes of the optimised graph are led back to the file's: by name, by the tensor that they write, or, where an
    activation was fused into a product, by the product in front of it. Changes of the memory layout that ONNX Runtime
    puts in count to the node whose result they change.

    Args:
        path: an ONNX file.
        inputs: arrays by input name.
        name: of the model, for the report.
        precision: of the file, for the report.
        provider: cpu or cuda.
        threads: within an operator; 0 lets ONNX Runtime choose.
        runs: that are profiled, after a few that are not counted.
        config: session configuration entries.

    Raises:
        GraphError: if ONNX Runtime refuses the file or fails.
        MissingDependencyError: if onnxruntime is not installed.
    """
    ort = import_onnxruntime()
    with scratch_folder() as folder:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 4  # it warns that the optimised file is for this machine alone
        for key, value in (config or {}).items():
            options.add_session_config_entry(key, value)
        took = []
        original = load_model(Path(path), light=True)
        if placed_tensors(original):  # nor can the optimised graph hold them
            options.add_session_config_entry("session.optimized_model_external_initializers_file_name", "weights")
            options.add_session_config_entry("session.optimized_model_external_initializers_min_size_in_bytes", "1024")
        try:
            session = ort.InferenceSession(str(path), options, providers=[PROVIDERS[provider]])
            for _ in range(_WARMUP + runs):
                before = time.perf_counter_ns()
                session.run(None, dict(inputs))
                took.append((time.perf_counter_ns() - before) / 1e3)
            trace = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
        except Exception as error:  # the binding raises a dozen classes of its own
            raise GraphError(f"ONNX Runtime could not profile {path}: {str(error).splitlines()[0]}") from error
        optimized = onnx.load(Path(folder) / "optimized.onnx", load_external_data=False)
    return LayerReport(
        name=name,
        runtime=f"ort-{provider}",
        precision=precision,
        shapes={n: tuple(a.shape) for n, a in inputs.items()},
        source=f"onnxruntime {ort.__version__} profiler",
        runs=runs,
        layers=layers_of_trace(trace, original, optimized, runs),
        whole_us=statistics.median(took[_WARMUP:]),
    )


def layers_of_trace(
    trace: list[dict[str, Any]], original: onnx.ModelProto, optimized: onnx.ModelProto, runs: int
) -> tuple[LayerTime, ...]:
    """The nodes of a trace with their modules; the first runs of it, which warm up, are left out."""
    nodes = [e for e in trace if e.get("cat") == "Node" and e["name"].endswith(_SUFFIX)]
    seen: dict[str, list[float]] = {}
    operators: dict[str, str] = {}
    for event in sorted(nodes, key=lambda e: e["ts"]):
        name = event["name"].removesuffix(_SUFFIX)
        seen.setdefault(name, []).append(float(event["dur"]))
        operators[name] = event["args"].get("op_name", "")
    modules = _modules(original, optimized)
    return summed(
        LayerTime(
            module=modules.get(name, ""),
            operator=operators[name],
            node=name,
            microseconds=_one_run(times, runs),
            known=name in modules,
        )
        for name, times in seen.items()
    )


def _one_run(times: list[float], runs: int) -> float:
    """One run's time from those of all, the warm-up first."""
    each = max(1, len(times) // (_WARMUP + runs))  # a node that runs in parts has several events in a run
    start = min(_WARMUP * each, len(times) - each)
    return middle([sum(times[i : i + each]) for i in range(start, len(times), each)])


def _modules(original: onnx.ModelProto, optimized: onnx.ModelProto) -> dict[str, str]:
    """The module of each node of the optimised graph that can be led back to the original."""
    named = {n.name: n for n in original.graph.node if n.name}
    writers = {o: n for n in original.graph.node for o in n.output if o}
    modules: dict[str, str] = {}
    moved: list[onnx.NodeProto] = []
    for node in optimized.graph.node:
        source = named.get(node.name) or writers.get(node.name.removesuffix(_BLOCKED))
        source = source or next((writers[o] for o in node.output if o in writers), None)
        if node.op_type in ("ReorderInput", "ReorderOutput") or source is None:
            moved.append(node)
        else:
            modules[node.name] = node_module(_product(source, node.op_type, writers))
    produced = {o: n.name for n in optimized.graph.node for o in n.output}
    readers = {i: n.name for n in reversed(optimized.graph.node) for i in n.input}
    for node in moved:
        near = [produced.get(i) for i in node.input] + [readers.get(o) for o in node.output]
        module = next((modules[n] for n in near if n in modules), None)
        if module is not None:
            modules[node.name] = module
    return modules


def _product(node: onnx.NodeProto, operator: str, writers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    """The product that a fused node began with, where the original node is the activation behind it."""
    wanted, here = operator.removeprefix("Fused").removeprefix("QLinear"), node
    while here.op_type != wanted:
        before = next((writers[i] for i in here.input if i in writers), None)
        if before is None:
            return node
        here = before
    return here
