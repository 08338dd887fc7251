"""Step (e): TensorRT engines of the prepared graphs: built, compared, tested, timed with and without CUDA graphs, layers.

No torch, and Python 3.10: on the GPU machine this step runs in the interpreter that TensorRT 8.5.3 has wheels for. In a
rehearsal TensorRT-RTX builds the engine where it is installed, which needs no GPU, and ONNX Runtime on the CPU stands in for
whatever would run it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from campaign.prepare import INDEX
from campaign.units import Settings, Unit

# The largest difference, over the largest output, that an engine may have from ONNX Runtime in fp32 on the CPU.
ALLOWED = {"fp32": 1e-3, "fp16": 2e-2, "int8": 2.5e-1}


def units(settings: Settings) -> list[Unit]:
    """A unit for each graph of the index."""
    path = settings.graphs / INDEX
    if not path.exists():
        raise FileNotFoundError(f"{path}: run the step prepare first, on any machine, and bring the folder along.")
    entries = json.loads(path.read_text(encoding="utf-8"))
    return [Unit(e["name"], lambda e=e: _measure(settings, e), 20) for e in entries]


def _measure(settings: Settings, entry: Mapping[str, Any]) -> Mapping[str, Any]:
    graph = settings.graphs / f"{entry['name']}.onnx"
    built = _build(settings, entry, graph)
    subject: Path = graph if settings.rehearse else Path(built["engine"])
    error = _parity(settings, entry, subject)
    rows = _times(settings, entry, subject)
    top1 = _top1(settings, entry, subject)
    layers = None if settings.rehearse else _layers(subject)
    answers = "" if top1 is None else f", top-1 {top1['top1']:.2%}"
    times = ", ".join(f"b{r['batch']}{' graph' if r['cuda_graph'] else ''} {r['p50_ms']:.3f} ms" for r in rows)
    return {
        "model": entry["model"],
        "precision": entry["precision"],
        "build": built,
        "max_error": error,
        "allowed": ALLOWED[entry["precision"]],
        "rows": rows,
        "accuracy": top1,
        "layers": layers,
        "line": f"{times}, error {error:.1e}{answers}",
    }


def _build(settings: Settings, entry: Mapping[str, Any], graph: Path) -> dict[str, Any]:
    """The engine for all batch sizes; what the library and its version are."""
    from attn_deploy.engine.builder import build
    from attn_deploy.engine.flavors import FLAVORS, is_installed

    flavor = "tensorrt-rtx" if settings.rehearse else "tensorrt"
    if settings.rehearse and not is_installed(FLAVORS[flavor]):
        return {"engine": None, "library": "none installed: not built in this rehearsal"}
    name = _input_name(graph)
    channels, size = entry["channels"], entry["size"]
    shapes = [f"{b}x{channels}x{size[0]}x{size[1]}" for b in entry["batches"]]
    profiles = f"{name}:{shapes[0]},{shapes[-1]},{shapes[-1]}"
    path = settings.out / "engines" / f"{entry['name']}.engine"
    path.parent.mkdir(parents=True, exist_ok=True)
    artifact = build(graph, path, flavor=flavor, profiles=profiles, timeout=max(30.0, settings.left))
    return {
        "engine": str(artifact.path),
        "library": f"{artifact.flavor} {artifact.version}",
        "targets": list(artifact.targets),
        "precision": artifact.precision,
        "size": artifact.size,
        "build_seconds": artifact.build_seconds,
        "warnings": list(artifact.warnings)[:10],
    }


def _input_name(graph: Path) -> str:
    import onnx

    return str(onnx.load(str(graph), load_external_data=False).graph.input[0].name)


def _runner(settings: Settings, subject: Path, cuda_graph: bool = False) -> Any:
    if settings.rehearse:
        from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

        return OnnxRuntimeRunner(subject, threads=1)
    from attn_deploy.runtimes.tensorrt import TensorRTRunner

    return TensorRTRunner(subject, cuda_graph=cuda_graph)


def _arrays(settings: Settings, entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    with np.load(settings.graphs / f"{entry['name']}.npz", allow_pickle=False) as kept:
        sides = {s: {k[len(s) :]: kept[k] for k in kept.files if k.startswith(s)} for s in ("in.", "out.")}
    return sides["in."], sides["out."]


def _parity(settings: Settings, entry: Mapping[str, Any], subject: Path) -> float:
    """The largest difference from the recorded outputs, over the largest of these.

    Raises:
        ValueError: if it is beyond what the precision explains: no number of such an engine is kept.
    """
    from attn_deploy.runtimes.base import run_once

    inputs, expected = _arrays(settings, entry)
    runner = _runner(settings, subject)
    try:
        outputs = run_once(runner, inputs)
    finally:
        runner.close()
    error = 0.0
    for name, wanted in expected.items():
        given = np.asarray(outputs[name], np.float32)
        if given.shape != wanted.shape or not np.isfinite(given).all():
            raise ValueError(f"{subject.name}: the output {name!r} has the shape {given.shape}, or is not finite.")
        error = max(error, float(np.abs(given - wanted).max() / max(1e-6, float(np.abs(wanted).max()))))
    if error > ALLOWED[entry["precision"]]:
        raise ValueError(
            f"{subject.name} differs by {error:.2e} of the largest output; {ALLOWED[entry['precision']]} is allowed."
        )
    return error


def _times(settings: Settings, entry: Mapping[str, Any], subject: Path) -> list[dict[str, Any]]:
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.profiler import profile
    from attn_deploy.inputs.grammar import parse_inputs

    options = BenchOptions(min_samples=100, max_samples=400, min_seconds=0.2, warmup_seconds=0.1, max_seconds=2.0)
    tiny = BenchOptions(min_samples=8, max_samples=8, min_seconds=0.0, warmup_seconds=0.0, rounds=2, threads=1)
    folder = settings.out / "profiles"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for batch in entry["batches"]:
        shape = "x".join(map(str, (batch, entry["channels"], *entry["size"])))
        record = profile(
            subject,
            runtimes=("ort-cpu",) if settings.rehearse else None,
            inputs=parse_inputs([shape]),
            cuda_graph=(False,) if settings.rehearse else (False, True),
            options=tiny if settings.rehearse else options,
            executor="inline",
        )
        record.write(folder / f"tensorrt-{entry['name']}-b{batch}.json")
        for row in record.rows:
            if row.status != "ok" or row.latency is None:
                raise RuntimeError(f"{row.key}: {row.reason}")
            time = row.device_time or row.latency
            interval = time.median_interval_ms(0.95, 0)
            rows.append(
                {
                    "batch": batch,
                    "cuda_graph": row.cuda_graph,
                    "p50_ms": time.p50_ms,
                    "low_ms": interval.low,
                    "high_ms": interval.high,
                    "clock": "device" if row.device_time else "host",
                    "runtime": str(row.info.version if row.info else row.runtime),
                }
            )
    return rows


def _top1(settings: Settings, entry: Mapping[str, Any], subject: Path) -> dict[str, Any] | None:
    """Right answers on the test images; None where the weights are random."""
    if entry["dataset"] is None:
        return None
    from attn_deploy.accuracy.evaluate import evaluate

    (result,) = evaluate(
        subject,
        dataset=entry["dataset"],
        images=40 if settings.rehearse else None,
        data_dir=settings.data_dir,
        threads=1 if settings.rehearse else None,
        batch=min(40, max(entry["batches"])),
    )
    return {"top1": result.top1, "correct": result.correct, "images": result.count}


def _layers(subject: Path) -> dict[str, Any]:
    """The kernels of the engine, by type; why not, where the library does not tell."""
    from attn_deploy.engine.artifact import read_engine
    from attn_deploy.engine.kernels import read_kernels

    kernels = read_kernels(read_engine(subject))
    return {"count": len(kernels.kernels), "by_type": dict(kernels.by_type), "note": kernels.note}
