"""The evidence in a file: what is written is what is read, and a seal holds it to the graph."""

from __future__ import annotations

import json
import random
import warnings

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import attn_deploy
from attn_deploy.cli import app
from attn_deploy.errors import EvidenceError, FileWarning
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.graph.evidence import Evidence, read_evidence, seal_state, write_evidence
from attn_deploy.graph.seal import seal_of

RNG = np.random.default_rng(0)


def network(opset: int = 17) -> onnx.ModelProto:
    """Conv, Relu and a small If, with weights as raw bytes, as floats and in a subgraph."""
    weights = RNG.standard_normal((4, 3, 3, 3)).astype(np.float32)
    branch = helper.make_graph(
        [helper.make_node("Mul", ["r", "two"], ["s"])],
        "branch",
        [],
        [helper.make_tensor_value_info("s", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.float32(2), "two")],
    )
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("If", ["flag"], ["y"], then_branch=branch, else_branch=branch),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [
            numpy_helper.from_array(weights, "w"),
            helper.make_tensor("b", TensorProto.FLOAT, [4], [0.1, 0.2, 0.3, 0.4]),
            numpy_helper.from_array(np.array(True), "flag"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.fixture
def sealed() -> onnx.ModelProto:
    model = network()
    model.metadata_props.add(key="theirs", value="stays")
    write_evidence(model, Evidence(model="net", precision="fp32").after("export", {"exporter": "dynamo"}, opset=17))
    return model


def test_what_is_written_is_read(sealed):
    evidence = read_evidence(sealed)
    assert (evidence.model, evidence.opset, evidence.precision) == ("net", 17, "fp32")
    assert [h["step"] for h in evidence.history] == ["export"]
    later = evidence.after("quantize", {"precision": "int8"}, precision="int8", parity={"max_abs_error": 0.1})
    write_evidence(sealed, later)
    again = read_evidence(sealed)
    assert [h["step"] for h in again.history] == ["export", "quantize"]
    assert (again.precision, again.parity) == ("int8", {"max_abs_error": 0.1})
    assert {p.key: p.value for p in sealed.metadata_props}["theirs"] == "stays"
    assert read_evidence(network()) is None, "a foreign file has none"


def test_the_record_of_the_export_follows_later_steps():
    evidence = Evidence(record={"opset": 18, "model": "se"}).after("opset", {"to": 15}, opset=15)
    assert evidence.record == {"opset": 15, "model": "se"}


@pytest.mark.parametrize("external", [False, True], ids=["one file", "data beside it"])
def test_the_seal_outlives_saving_and_loading(sealed, tmp_path, external):
    path = tmp_path / "net.onnx"
    onnx.save(sealed, path, save_as_external_data=external, location="net.data", size_threshold=0)
    assert read_onnx(path).seal == "whole"
    moved = load_model(path)
    order = list(moved.graph.initializer)
    del moved.graph.initializer[:]
    moved.graph.initializer.extend(reversed(order))
    moved.producer_name = "another"
    onnx.save(moved, tmp_path / "again.onnx")
    assert read_onnx(tmp_path / "again.onnx").seal == "whole", "the order of weights changes no number"


BREAKS = {
    "raw weight": lambda m: m.graph.initializer[0].__setattr__("raw_data", bytes(len(m.graph.initializer[0].raw_data))),
    "float weight": lambda m: m.graph.initializer[1].float_data.__setitem__(2, 0.5),
    "inner weight": lambda m: (
        m.graph.node[2].attribute[0].g.initializer[0].__setattr__("raw_data", np.float32(3).tobytes())
    ),
    "attribute": lambda m: m.graph.node[0].attribute[0].ints.__setitem__(0, 0),
    "operator": lambda m: m.graph.node[1].__setattr__("op_type", "Sigmoid"),
    "interface": lambda m: m.graph.output[0].__setattr__("name", "r"),
    "opset": lambda m: m.opset_import[0].__setattr__("version", 16),
}


@pytest.mark.parametrize("change", BREAKS.values(), ids=BREAKS.keys())
def test_a_change_breaks_the_seal(sealed, change):
    assert seal_state(sealed) == "whole"
    change(sealed)
    assert seal_state(sealed) == "broken"


def test_flipped_bits_in_weights_are_seen(sealed, tmp_path):
    """No flip of a byte of the weights passes: the numbers of such a file are not those that were proven."""
    data = sealed.SerializeToString()
    start = data.index(sealed.graph.initializer[0].raw_data)
    flips = random.Random(0).sample(range(start, start + 4 * 3 * 9 * 4), 20)
    for position in flips:
        damaged = bytearray(data)
        damaged[position] ^= 1 << (position % 8)
        assert seal_state(onnx.load_from_string(bytes(damaged))) == "broken"


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("record", "{no", "attn_deploy.record is '{no'"),
        ("record", "[1]", "attn_deploy.record"),
        ("opset", "true", "attn_deploy.opset"),
        ("parity", "3", "attn_deploy.parity"),
        ("history", '["a"]', "attn_deploy.history"),
        ("conversion", "[" * 100_000, "attn_deploy.conversion"),
    ],
)
def test_damaged_evidence_is_one_line(tmp_path, key, value, words):
    model = network()
    model.metadata_props.add(key=f"attn_deploy.{key}", value=value)
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(EvidenceError, match=words):
        read_onnx(tmp_path / "net.onnx")
    run = CliRunner().invoke(app, ["inspect", str(tmp_path / "net.onnx")])
    assert (run.exit_code, run.stderr.count("\n")) == (1, 1)


def test_commands_say_that_a_file_changed(sealed, tmp_path):
    path = tmp_path / "net.onnx"
    onnx.save(sealed, path)
    whole = CliRunner().invoke(app, ["inspect", "--check", str(path)])
    assert (whole.exit_code, "warning" in whole.stderr) == (0, False)
    assert "matches this file" in whole.stdout
    BREAKS["raw weight"](sealed)
    onnx.save(sealed, path)
    broken = CliRunner().invoke(app, ["inspect", "--check", str(path)])
    assert broken.exit_code == 1
    assert "error: " in broken.stderr
    assert "changed after it was proven" in broken.stderr
    other = CliRunner().invoke(app, ["convert", str(path), "--opset", "18", "-o", str(tmp_path / "new.onnx")])
    assert other.exit_code == 0
    assert other.stderr.count("warning: ") == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", FileWarning)
        assert read_onnx(tmp_path / "new.onnx").seal == "whole", "the new file is proven anew"
    bare = network()
    onnx.save(bare, path)
    run = CliRunner().invoke(app, ["inspect", "--check", str(path)])
    assert (run.exit_code, "holds no evidence" in run.stderr) == (1, True)


def test_every_writer_seals(tmp_path):
    exported = attn_deploy.export("squeeze_excite", tmp_path / "a.onnx", opset=18)
    converted = attn_deploy.convert(exported, tmp_path / "b.onnx", opset=17)
    half = attn_deploy.convert(converted, tmp_path / "c.onnx", precision="fp16")
    small = attn_deploy.quantize(converted, tmp_path / "d.onnx")
    simple = attn_deploy.simplify(converted, tmp_path / "e.onnx")
    steps = {
        "a": ["export"],
        "b": ["export", "opset"],
        "c": ["export", "opset", "precision"],
        "d": ["export", "opset", "quantize"],
        "e": ["export", "opset", "simplify"],
    }
    for artifact in (exported, converted, half, small, simple):
        assert artifact.seal == "whole"
        assert [h["step"] for h in artifact.evidence.history] == steps[artifact.path.stem]


def test_a_change_of_the_evidence_breaks_the_seal(sealed):
    entry = next(p for p in sealed.metadata_props if p.key.startswith("attn_deploy.") and not p.key.endswith(".seal"))
    entry.value += " "
    assert seal_state(sealed) == "broken"


def test_a_seal_of_an_earlier_version_is_read(sealed):
    entry = next(p for p in sealed.metadata_props if p.key.endswith(".seal"))
    entry.value = seal_of(sealed)
    assert seal_state(sealed) == "whole"
    sealed.graph.node[1].op_type = "Sigmoid"
    assert seal_state(sealed) == "broken"


@pytest.mark.parametrize(
    ("key", "value", "field"),
    [
        ("record", {"versions": []}, "record.versions"),
        ("record", {"verified_shapes": [3]}, r"record.verified_shapes\[0\]"),
        ("record", {"multiple": {"N": "x"}}, "record.multiple.N"),
        ("record", {"preprocess": {"mean": [1]}}, "record.preprocess"),
        ("record", {"postprocess": {"k": "x"}}, "record.postprocess.k"),
        ("record", {"weights": 5}, "record.weights"),
        ("record", {"arguments": 3}, "record"),
        ("parity", {"max_abs_error": "<b>"}, "parity.max_abs_error"),
        ("history", [{"step": {"a": 1}}], r"history\[0\].step"),
    ],
)
def test_evidence_of_strangers_is_typed(key, value, field, sealed):
    for entry in [p for p in sealed.metadata_props if p.key == f"attn_deploy.{key}"]:
        sealed.metadata_props.remove(entry)
    sealed.metadata_props.add(key=f"attn_deploy.{key}", value=json.dumps(value))
    with pytest.raises(EvidenceError, match=f"the evidence in the file is damaged: attn_deploy.{field}"):
        read_evidence(sealed)
