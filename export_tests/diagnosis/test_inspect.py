"""``attn-deploy inspect``: what a file holds, from the file alone."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

from attn_deploy import build, convert, create, diff_graphs, export, inspect
from attn_deploy.cli import app
from attn_deploy.diagnosis.contents import GraphReport
from attn_deploy.errors import EngineMismatchError, FileWarning, GraphError, InvalidRequestError
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.resolve.catalog import count_macs
from export_tests.conftest import ROOT
from export_tests.graph.opset.opset_helpers import parse

needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt-rtx is not installed")


@pytest.fixture(scope="module")
def se(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("inspect") / "se.onnx"
    export("se", path, exporter="torchscript")
    return path


def saved(tmp_path: Path, body: str, inputs: str, outputs: str, opset: int = 17, **weights: np.ndarray) -> Path:
    model = parse(opset, inputs, outputs, body)
    for name, array in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    return path


def report_of(path: Path, *inputs: str) -> GraphReport:
    report = inspect(path, inputs=parse_inputs(inputs) if inputs else None)
    assert isinstance(report, GraphReport)
    return report


def test_a_graph_is_told_in_full(se: Path) -> None:
    report = report_of(se)
    assert report.sizes == {"x": (1, 64, 32, 32)}
    assert report.parameters == sum(p.numel() for p in create("se").parameters())
    assert report.weight_bytes["float32"] == 4 * report.parameters
    assert report.dtypes == {"float32": report.artifact.nodes}
    assert report.artifact.dynamic_axes == ("N", "H", "W")
    assert report.unknown == ()


@pytest.mark.parametrize("name", ["se", "ghostmodule", "non_local_embedded_gaussian", "aspp", "a2_double_attention"])
def test_macs_are_those_that_torch_counts(name: str, tmp_path: Path) -> None:
    """The registry's numbers come from torch's own counter on the module as written; fused biases are no products."""
    path = tmp_path / f"{name}.onnx"
    export(name, path, exporter="torchscript", verify=False)
    assert report_of(path).macs == count_macs(name)


@pytest.mark.parametrize(
    ("body", "shape", "macs", "weights"),
    [
        ("y = Conv <group = 2, strides = [2, 2]> (x, w)", (8, 2, 3, 3), 2 * 8 * 3 * 3 * 2 * 9, {}),
        ("y = ConvTranspose (x, w)", (4, 6, 2, 2), 2 * 4 * 7 * 8 * 6 * 4, {}),
        ("y = MatMul (x, w)", (8, 5), 2 * 4 * 7 * 5 * 8, {}),
        ("f = Flatten (x) y = Gemm (f, w)", (224, 3), 2 * 224 * 3, {}),
        ('y = Einsum <equation = "nchw,cd->ndhw"> (x, w)', (4, 6), 2 * 4 * 6 * 7 * 8, {}),
        ("y = Add (x, w)", (1,), 0, {}),
    ],
)
def test_macs_of_one_product(tmp_path: Path, body: str, shape: tuple[int, ...], macs: int, weights: dict) -> None:
    path = saved(tmp_path, body, "float[2,4,7,8] x", "float y", w=np.ones(shape, np.float32))
    model = onnx.load(path)
    del model.graph.output[0].type.tensor_type.shape.dim[:]
    inferred = onnx.shape_inference.infer_shapes(strip_output_shape(model))
    onnx.save(inferred, path)
    assert report_of(path).macs == macs


def strip_output_shape(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.output[0].type.tensor_type.ClearField("shape")
    return model


def test_macs_follow_the_stated_size(tmp_path: Path) -> None:
    path = saved(
        tmp_path, "y = Conv (x, w)", "float[N,4,H,W] x", "float[N,4,H,W] y", w=np.ones((4, 4, 1, 1), np.float32)
    )
    assert report_of(path).macs == 32 * 32 * 16
    assert report_of(path, "x:3x4x5x7").macs == 3 * 5 * 7 * 16
    with pytest.raises(InvalidRequestError, match="was given as 1x3x5x7"):
        report_of(path, "x:1x3x5x7")


def test_a_shape_that_is_not_known_makes_a_lower_bound(tmp_path: Path) -> None:
    body = "n = NonZero (x) f = Cast <to = 1> (n) m = MatMul (w, f) y = ReduceMax <keepdims = 0> (m)"
    path = saved(tmp_path, body, "float[4] x", "float y", w=np.ones((3, 1), np.float32))
    report = report_of(path)
    assert (report.macs, len(report.unknown)) == (0, 1)
    assert "at least 0" in CliRunner().invoke(app, ["inspect", str(path)]).stdout


def test_quantization_is_counted(tmp_path: Path) -> None:
    body = "q = QuantizeLinear (x, s) d = DequantizeLinear (q, s) e = DequantizeLinear (w, s) y = Conv (d, e)"
    weights = {"s": np.float32(0.1), "w": np.ones((4, 4, 1, 1), np.uint8)}
    report = report_of(saved(tmp_path, body, "float[N,4,H,W] x", "float[N,4,H,W] y", **weights))
    assert (report.pairs, report.dequantized_weights) == (1, 1)
    assert report.weight_bytes == {"float32": 4, "uint8": 16}


def test_differences_are_named(se: Path, tmp_path: Path) -> None:
    half = convert(se, tmp_path / "half.onnx", precision="fp16", io="same").path
    found = {d.what: (d.first, d.second) for d in diff_graphs(se, half)}
    assert found["inputs"] == ("x float[N, 64, H, W]", "x float16[N, 64, H, W]")
    assert found["results in float16"][0] == "0"
    kernels = [d for what, d in found.items() if what.startswith("weights ") and "64, 1, 1" in d[0]]
    assert kernels == [("float32[4, 64, 1, 1]", "float16[4, 64, 1, 1]")]


def test_one_changed_number_or_attribute_is_found(se: Path, tmp_path: Path) -> None:
    assert diff_graphs(se, se) == ()
    model = onnx.load(se)
    weights = next(i for i in model.graph.initializer if len(i.dims) == 4)
    array = numpy_helper.to_array(weights).copy()
    array.flat[0] += 0.5
    weights.CopyFrom(numpy_helper.from_array(array, weights.name))
    mean = next(n for n in model.graph.node if n.op_type == "Conv")
    next(a for a in mean.attribute if a.name == "dilations").ints[:] = [2, 2]
    other = tmp_path / "other.onnx"
    onnx.save(model, other)
    with pytest.warns(FileWarning, match="changed after it was proven"):
        found = {d.what: d.second for d in diff_graphs(se, other)}
    assert "up to 0.5 apart" in found[f"weights {weights.name}"]
    assert "dilations=[2, 2]" in found[f"node {mean.name}"]
    assert len(found) == 2


def test_the_command(se: Path, tmp_path: Path) -> None:
    run = CliRunner().invoke
    told = run(app, ["inspect", str(se), "--input", "x:1x64x8x8"])
    assert told.exit_code == 0
    assert "at 1x64x8x8" in told.stdout
    data = json.loads(run(app, ["inspect", str(se), "--json"]).stdout)
    assert data["macs"] == count_macs("se")
    assert data["artifact"]["opset"] == 20
    assert run(app, ["inspect", "--diff", str(se), str(se)]).exit_code == 0
    other = convert(se, tmp_path / "other.onnx", opset=17).path
    changed = run(app, ["inspect", "--diff", str(se), str(other), "--json"])
    assert changed.exit_code == 1
    assert {"what": "opset", "first": "20", "second": "17"} in json.loads(changed.stdout)
    for wrong in ([str(se), str(se)], ["--diff", str(se)], [str(tmp_path / "none.onnx")]):
        assert run(app, ["inspect", *wrong]).exit_code == 2


@needs_rtx
def test_an_engine_is_its_sidecar(se: Path, tmp_path: Path) -> None:
    engine = build(se, tmp_path / "se.engine", flavor="tensorrt-rtx")
    assert inspect(engine.path).to_dict() == engine.to_dict() | {"reason": inspect(engine.path).reason}
    result = CliRunner().invoke(app, ["inspect", str(engine.path)])
    assert "found in the network's" in result.stdout
    assert json.loads(CliRunner().invoke(app, ["inspect", str(engine.path), "--json"]).stdout)["targets"]
    with pytest.raises(InvalidRequestError, match="engines are opaque"):
        diff_graphs(engine.path, se)
    engine.sidecar.unlink()
    with pytest.raises(EngineMismatchError, match="beside it"):
        inspect(engine.path)


def test_a_damaged_file_is_told_as_such(se: Path, tmp_path: Path) -> None:
    path = tmp_path / "short.onnx"
    path.write_bytes(se.read_bytes()[:300])
    with pytest.raises(GraphError, match="cannot be read as ONNX"):
        inspect(path)


def test_no_torch_is_imported(se: Path) -> None:
    """On a device there is none: with torch blocked, the command answers all the same."""
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from attn_deploy.cli import app\n"
        f"app(['inspect', {str(se)!r}, '--json'], standalone_mode=False)\n"
        f"app(['inspect', '--diff', {str(se)!r}, {str(se)!r}], standalone_mode=False)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert '"macs"' in done.stdout
