"""``attn_deploy.convert`` and ``attn-deploy convert``: from file to file, with evidence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from typer.testing import CliRunner

import attn_deploy.conversion.convert
from attn_deploy import convert
from attn_deploy.cli import app
from attn_deploy.errors import GraphError, InvalidRequestError, OpsetError, ParityError
from attn_deploy.graph.artifact import read_onnx
from attn_deploy.graph.opset import ConversionResult, convert_opset
from export_tests.graph.opset.opset_helpers import parse

X, Y = "float[N,4,H,W] x", "float[N,4,A,B] y"
MEAN = "axes = Constant <value_ints = [2, 3]> () y = ReduceMean (x, axes)"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "pool.onnx"
    onnx.save(parse(18, X, Y, MEAN), path)
    return path


def test_file_to_file_with_evidence(source: Path) -> None:
    artifact = convert(source, opset=13)
    assert artifact.path == source.with_name("pool-opset13.onnx")
    assert artifact.opset == 13
    assert read_onnx(artifact.path) == artifact
    evidence = json.loads(artifact.metadata["conversion"])
    assert (evidence["from"], evidence["to"]) == (18, 13)
    assert evidence["rules"] == {"ReduceMean: axes from input to attribute": 1}
    assert evidence["max_abs_error"] < 1e-6
    shapes = [tuple(case["x"]) for case in evidence["shapes"]]
    assert len(shapes) >= 4
    assert all(len({s[axis] for s in shapes}) >= 3 for axis in (0, 2, 3)), "every symbolic axis moves"


def test_a_file_for_an_older_opset_is_one_for_older_runtimes(source: Path) -> None:
    model = onnx.load(source)
    model.ir_version = 9
    model.graph.node[-1].metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'pool', 'y']")
    onnx.save(model, source)
    made = onnx.load(convert(source, opset=13).path)
    assert made.ir_version == 7
    assert made.graph.node[-1].metadata_props[0].value == "['', 'pool', 'y']"
    assert convert(source, opset=21).ir_version == 10


def test_the_opset_that_it_has_is_nothing_to_do(source: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "18"])
    assert result.exit_code == 0, result.output
    assert "opset 18 already: nothing to do, no file is written" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["pool.onnx"]
    out = tmp_path / "same.onnx"
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "18", "-o", str(out)])
    assert "nothing to do, copied to" in result.stderr
    assert onnx.load(out) == onnx.load(source)


def test_artifact_in_and_explicit_path(source: Path, tmp_path: Path) -> None:
    artifact = convert(read_onnx(source), tmp_path / "out.onnx", opset=25)
    assert artifact.path.name == "out.onnx"
    assert (artifact.opset, artifact.ir_version) == (25, 13)


def test_the_record_of_an_export_follows(source: Path) -> None:
    model = onnx.load(source)
    model.metadata_props.add(key="attn_deploy.record", value=json.dumps({"opset": 18, "model": "se"}))
    model.metadata_props.add(key="attn_deploy.opset", value="18")
    onnx.save(model, source)
    artifact = convert(source, opset=15)
    assert artifact.record == {"opset": 15, "model": "se"}
    assert artifact.metadata["opset"] == "15"


def test_sizes_that_the_model_cannot_take_are_left_out(tmp_path: Path) -> None:
    """Two branches that meet only where H and W are multiples of 8: the sizes of the comparison must find that."""
    body = (
        "p = AveragePool <kernel_shape = [8, 8], strides = [8, 8]> (x) "
        "f = Constant <value_floats = [1.0, 1.0, 8.0, 8.0]> () r = Resize (p, , f) "
        "axes = Constant <value_ints = [1]> () m = ReduceMean (r, axes) y = Add (x, m)"
    )
    path = tmp_path / "strided.onnx"
    onnx.save(parse(18, X, "float[N,4,H,W] y", body), path)
    evidence = json.loads(convert(path, opset=13).metadata["conversion"])
    assert all(extent % 8 == 0 for case in evidence["shapes"] for extent in case["x"][2:])


def test_wrong_numbers_are_refused_and_nothing_is_written(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def off_by_one_axis(model: onnx.ModelProto, target: int) -> ConversionResult:
        result = convert_opset(model, target)
        [axes] = [a for n in result.model.graph.node for a in n.attribute if a.name == "axes"]
        axes.ints[:] = [3, 2]  # harmless
        result.model.graph.node[-1].op_type = "ReduceMax"  # not harmless
        return result

    monkeypatch.setattr(attn_deploy.conversion.convert, "convert_opset", off_by_one_axis)
    with pytest.raises(ParityError, match="converted from opset 18 to 13"), attn_deploy.unguarded():
        convert(source, opset=13)  # in this process, where the plant is
    assert [p.name for p in source.parent.iterdir()] == ["pool.onnx"]


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "bits.onnx"
    onnx.save(parse(18, "int32[N] x", "int32[N] y", "y = BitwiseNot (x)"), path)
    with pytest.raises(OpsetError, match=r"bits\.onnx: BitwiseNot \(int32.*opset 13"):
        convert(path, opset=13)
    with pytest.raises(GraphError, match="no such ONNX file"):
        convert(tmp_path / "none.onnx", opset=13)
    with pytest.raises(InvalidRequestError, match="does not exist"):
        convert(path, tmp_path / "no" / "folder.onnx", opset=19)
    assert [p.name for p in tmp_path.iterdir()] == ["bits.onnx"]


def test_what_cannot_be_compared_names_node_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "foreign.onnx"
    model = parse(18, "float[N,4] x", "float[N,4] y", "y = Relu (x)")
    model.opset_import.add(domain="acme", version=1)
    model.graph.node[0].domain, model.graph.node[0].op_type, model.graph.node[0].name = "acme", "Foo", "foo0"
    onnx.save(model, path)
    with pytest.raises(OpsetError, match=r"foreign\.onnx: the node 'foo0' is acme::Foo.*standard operators"):
        convert(path, opset=17)
    model = parse(18, "float[N,4] x", "float[N,4] y", "y = Relu (x)")
    model.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(model, path)
    with pytest.raises(GraphError, match=r"'y' has no shape.*infer_shapes"):
        convert(path, opset=17)


def test_half_precision_weights_get_their_own_tolerance(tmp_path: Path) -> None:
    body = "c = Cast <to = 10> (x) d = LayerNormalization (c, s) y = Cast <to = 1> (d)"
    model = parse(17, "float[N,8] x", "float[N,8] y", body)
    model.graph.initializer.append(numpy_helper.from_array(np.linspace(0.5, 1.5, 8).astype(np.float16), "s"))
    path = tmp_path / "half.onnx"
    onnx.save(model, path)
    evidence = json.loads(convert(path, opset=13).metadata["conversion"])
    assert evidence["rtol"] == 1e-2


def test_command_prints_evidence(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "old.onnx"
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "13", "-o", str(out)])
    assert result.exit_code == 0, result.output
    assert "13, read back from the file" in result.stdout
    assert "ReduceMean: axes from input to attribute (1)" in result.stdout
    assert read_onnx(out).opset == 13


def test_command_as_json(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "old.onnx"
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "13", "-o", str(out), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["opset"] == 13


@pytest.mark.parametrize(("opset", "code"), [("12", 2), ("26", 2), ("many", 2)])
def test_command_refuses_bad_opsets(source: Path, opset: str, code: int) -> None:
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", opset])
    assert result.exit_code == code
    assert [p.name for p in source.parent.iterdir()] == ["pool.onnx"]
