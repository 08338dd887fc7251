"""Done before the GPU hour, on any CPU: the graphs that step (e) builds, each with inputs and the outputs they must give.

    GRAPHS/resnet18-fp16.onnx     opset 17, which TensorRT 8.5 knows
    GRAPHS/resnet18-fp16.npz      inputs (batch 1), and outputs by ONNX Runtime on the CPU in fp32
    GRAPHS/index.json             name, precision, batch sizes, whether it was trained and on what

A trained run of step (c) that lies in ``OUT/runs`` gives its weights; without one the weights are random, parity and latency
mean what they say, and there is no top-1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from attn_deploy.files import write_atomic
from campaign.units import Settings, Unit

OPSET = 17
MODELS = ("resnet18", "resnet18+se", "resnet50", "resnet18+cbam", "resnet50+se")
ZOO = ("se", "cbam", "coord_attention", "ghostmodule", "gc", "aspp", "psp", "simam")
PRECISIONS = ("fp32", "fp16", "int8")
INDEX = "index.json"


def units(settings: Settings) -> list[Unit]:
    """A unit for each graph."""
    if settings.rehearse:
        return [_unit(settings, "resnet8", p, (32, 32), (1, 4)) for p in ("fp32", "int8")]
    made = [_unit(settings, m, p, (32, 32), (1, 64)) for m in MODELS for p in PRECISIONS]
    return made + [_unit(settings, m, p, (56, 56), (1, 64)) for m in ZOO for p in PRECISIONS[:2]]


def _unit(settings: Settings, model: str, precision: str, size: tuple[int, int], batches: tuple[int, ...]) -> Unit:
    stem = model.replace("+", "-")
    name, run = f"{stem}-{precision}", settings.out / "runs" / f"{stem}-s0"
    trained = (
        run / "model.safetensors"
    ).exists()  # another unit, so that graphs made before the training are made again
    return Unit(
        f"{name}{'-trained' * trained}",
        lambda: _prepare(settings, model, name, precision, size, batches, run if trained else None),
        1,
    )


def _prepare(
    settings: Settings,
    model: str,
    name: str,
    precision: str,
    size: tuple[int, int],
    batches: tuple[int, ...],
    run: Path | None,
) -> Mapping[str, Any]:
    from attn_deploy.conversion.convert import convert
    from attn_deploy.conversion.quantize import quantize_file
    from attn_deploy.exporters.pipeline import export
    from attn_deploy.graph.quantize import QuantOptions
    from attn_deploy.runtimes.base import run_once
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    settings.graphs.mkdir(parents=True, exist_ok=True)
    plain = settings.graphs / f"{model.replace('+', '-')}-fp32.onnx"
    if precision == "fp32" or not plain.exists():
        export(model if run is None else str(run), plain, opset=OPSET)
    path = settings.graphs / f"{name}.onnx"
    images = None if run is None else _training_images(run, settings)
    if precision == "fp16":
        convert(plain, path, precision="fp16")
    elif precision == "int8":
        quantize_file(plain, path, calibration=images, images=64, form=QuantOptions(target="gpu"))
    runner = OnnxRuntimeRunner(plain, threads=1)
    try:
        channels = _channels(plain)
        # An image where there are some: ranges that were measured on images say nothing of noise.
        given = (
            np.random.default_rng(0).standard_normal((1, channels, *size)).astype(np.float32)
            if images is None
            else images.normalised(slice(0, 1)).astype(np.float32)
        )
        inputs = {runner.input_names[0]: given}
        outputs = run_once(runner, inputs)
    finally:
        runner.close()
    arrays = {f"in.{k}": v for k, v in inputs.items()} | {f"out.{k}": np.asarray(v) for k, v in outputs.items()}
    np.savez(settings.graphs / f"{name}.npz", **arrays)  # type: ignore[arg-type]
    dataset = None if run is None else json.loads((run / "record.json").read_text())["dataset"]["name"]
    entry = {"name": name, "model": model, "precision": precision, "size": list(size), "batches": list(batches)}
    _list(settings.graphs, {**entry, "channels": channels, "dataset": dataset})
    return {
        "graph": path.name,
        "line": f"{path.name}, {path.stat().st_size / 2**20:.1f} MiB, {dataset or 'random weights'}",
    }


def _channels(path: Path) -> int:
    import onnx

    graph = onnx.load(str(path), load_external_data=False).graph
    return int(graph.input[0].type.tensor_type.shape.dim[1].dim_value)


def _training_images(run: Path, settings: Settings) -> Any:
    from attn_deploy.data import load_dataset
    from attn_deploy.resolve.names import parse_name
    from attn_deploy.resolve.trained import load_trained

    trained = load_trained(parse_name(str(run / "model.safetensors")))
    return trained.prepared(load_dataset(trained.dataset, "train", data_dir=settings.data_dir).head(512))


def _list(folder: Path, entry: Mapping[str, Any]) -> None:
    """Add an entry to the index, or replace it; units come one after the other."""
    path = folder / INDEX
    entries = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    kept = [e for e in entries if e["name"] != entry["name"]]
    write_atomic(path, json.dumps([*kept, dict(entry)], indent=1) + "\n")
