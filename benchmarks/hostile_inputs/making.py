"""How the sound folders are made that the campaign damages: by the project's own functions, once each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from hostile_inputs.graphs import conv_graph, proven


def _run(place: Path) -> None:
    """``run``: a trained classifier, by its records; a few steps are enough to have weights with a hash."""
    from attn_deploy.training.recipe import recipe_for
    from attn_deploy.training.run import train

    recipe = replace(recipe_for("digits"), epochs=1)
    train("resnet8", dataset="digits", recipe=recipe, threads=1, output=place / "run")


def _matrix(place: Path) -> None:
    """``matrix``: the record of one cell, in a folder that can be resumed."""
    from attn_deploy.machine.environment import describe_environment
    from attn_deploy.matrix.cell import Cell, CellId, Check
    from attn_deploy.matrix.options import MatrixOptions
    from attn_deploy.matrix.record import MatrixRecord

    cell = Cell(id=CellId("se", "dynamo", 17), checks=(Check("export", "passed"), Check("parity", "passed")))
    options = MatrixOptions(models=("se",), opsets=(17,), exporters=("dynamo",), runtimes=("ort",))
    record = MatrixRecord(cells=(cell,), options=options, environment=describe_environment())
    (place / "matrix").mkdir()
    (place / "matrix" / "record.json").write_text(record.to_json())


def _profile(place: Path) -> None:
    """``profile``: of the sound file."""
    from attn_deploy.bench.options import BenchOptions
    from attn_deploy.bench.profiler import profile

    (place / "m.onnx").write_bytes(proven())
    options = BenchOptions(min_samples=4, min_seconds=0.01, warmup_seconds=0.01, rounds=2, threads=1)
    record = profile(str(place / "m.onnx"), size=(16, 16), options=options)
    (place / "profile").mkdir()
    (place / "profile" / "record.json").write_text(record.to_json())


def _accuracy(place: Path) -> None:
    """``accuracy.json``: of the sound file, on digits."""
    from attn_deploy.accuracy.predict import run_dataset
    from attn_deploy.data import load_dataset
    from attn_deploy.runtimes.onnxruntime import OnnxRuntimeRunner

    (place / "m.onnx").write_bytes(proven())
    runner = OnnxRuntimeRunner(place / "m.onnx")
    result = run_dataset(runner, load_dataset("digits", "test").head(5), model="m.onnx", input_name="x")
    runner.close()
    (place / "accuracy.json").write_text(json.dumps(result.to_dict()))


def _package(place: Path) -> None:
    """``pkg``: a package of the sound file."""
    from attn_deploy.deploy.package.make import package

    (place / "m.onnx").write_bytes(proven())
    package(place / "m.onnx", place / "pkg")


def _engine(place: Path) -> None:
    """``m.engine`` with its sidecar."""
    from attn_deploy.engine.builder import build

    (place / "m.onnx").write_bytes(proven())
    build(place / "m.onnx", place / "m.engine", targets="sm86")


def _external(place: Path) -> None:
    """``m.onnx`` whose weights lie in ``m.onnx.data``, sealed."""
    from attn_deploy.graph.evidence import Evidence, write_evidence

    model = conv_graph(hidden=64)
    extra = np.random.default_rng(2).standard_normal((64, 64, 3, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(extra, "w3"))
    model.graph.node.insert(2, onnx.helper.make_node("Conv", ["b", "w3"], ["b3"], pads=[1, 1, 1, 1], name="middle"))
    model.graph.node[3].input[0] = "b3"
    write_evidence(model, Evidence(precision="fp32", opset=18, model="made by hand"))
    onnx.save(model, place / "m.onnx", save_as_external_data=True, location="m.onnx.data", size_threshold=100)


MAKERS: dict[str, Callable[[Path], None]] = {
    "run": _run,
    "matrix": _matrix,
    "profile": _profile,
    "accuracy": _accuracy,
    "package": _package,
    "engine": _engine,
    "external": _external,
}
