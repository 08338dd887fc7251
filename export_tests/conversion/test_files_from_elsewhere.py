"""Files that other tools wrote: read, raised, typed, quantized, and never wrong in silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from typer.testing import CliRunner

from attn_deploy import convert, diagnose, inspect, quantize, verify_files
from attn_deploy.cli import app
from attn_deploy.errors import FileWarning, GraphError, InvalidRequestError, OpsetError, ParityError
from attn_deploy.graph.artifact import load_model, read_onnx
from attn_deploy.parity.given import given_inputs
from export_tests.conversion import graphs_from_elsewhere as elsewhere


def run(path: Path, **feeds: np.ndarray) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"]).run(None, feeds)


def images(count: int = 4, seed: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32)).astype(np.float32)


# --- a detector's scores beside its boxes ------------------------------------------------------------------------------


def relative(path: Path, other: Path) -> np.ndarray:
    """The error of boxes and of scores, each in its own scale; judged by numpy alone."""
    right, got = run(path, x=images())[0], run(other, x=images())[0]
    parts = (slice(0, 4), slice(4, 12))
    return np.array([np.sqrt(((right - got)[:, p] ** 2).mean() / (right[:, p] ** 2).mean()) for p in parts])


@pytest.mark.parametrize(
    ("target", "left"),
    [
        ("gpu", ["head.score"]),
        ("cpu", ["head.score", "body"]),  # whose 8 bits are on both sides of a layer: the scores read what body gives
    ],
)
def test_scores_that_eight_bits_would_spoil_keep_their_layer_in_float(tmp_path, target, left):
    source = elsewhere.detector(tmp_path / "d.onnx", spread=100.0)
    artifact = quantize(source, tmp_path / "q.onnx", method="minmax", target=target)
    record = artifact.evidence.quantization
    assert [s["node"] for s in record["sensitive"]] == left
    assert (relative(source, artifact.path) < 0.1).all()
    assert "channels" in record["judged"]["worst"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_scores_that_half_precision_would_spoil_keep_what_leads_to_them_in_fp32(tmp_path, precision):
    source = elsewhere.detector(tmp_path / "d.onnx", cancels=True)
    artifact = convert(source, tmp_path / "h.onnx", precision=precision)
    wide = {n.name for n in load_model(artifact.path).graph.node} & {"head.up", "head.down"}
    assert wide == {"head.up", "head.down"}
    assert artifact.evidence.typing["products"]["float32"] >= 1
    if precision == "fp16":
        assert (relative(source, artifact.path) < 0.02).all()


def test_a_spoiled_output_is_seen_in_one_output_as_in_two(tmp_path):
    """Scores of another network under the right boxes: the error of the whole is a thousandth."""
    source = elsewhere.detector(tmp_path / "a.onnx")
    model = load_model(source)
    scores = next(i for i in model.graph.initializer if i.name == "ws")
    scores.CopyFrom(onnx.numpy_helper.from_array(np.flip(onnx.numpy_helper.to_array(scores), 0).copy(), "ws"))
    onnx.save(model, tmp_path / "b.onnx")
    for precision in ("fp32", "fp16", "int8"):
        comparison = verify_files(source, tmp_path / "b.onnx", precision=precision)
        assert [(o.part, o.passed) for o in comparison.outputs] == [
            ("channels 0 to 3", True),
            ("channels 4 to 11", False),
        ]
        worst = comparison.outputs[1]
        assert worst.where[1] >= 4, "the index is that of the whole output"
        assert abs(worst.expected - worst.got) == pytest.approx(worst.max_abs_error, rel=1e-5)


def test_a_pattern_keeps_nodes_in_fp32(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", keep=["head.*"])
    assert artifact.evidence.typing["products"] == {"float16": 2, "float32": 2}
    assert artifact.evidence.typing["kept"]["named with --keep"] == 2
    with pytest.raises(InvalidRequestError, match=r"--keep 'haed\.box' fits no node.*head\.box"):
        convert(source, tmp_path / "h.onnx", precision="fp16", keep=["haed.box"])


# --- choices -----------------------------------------------------------------------------------------------------------


def test_choices_are_compared_as_choices(tmp_path):
    source = elsewhere.chooser(tmp_path / "c.onnx")
    for artifact in (
        convert(source, tmp_path / "h.onnx", precision="fp16"),
        quantize(source, tmp_path / "q.onnx", method="minmax"),
    ):
        evidence = artifact.evidence
        shares = evidence.quantization["judged"]["choices"] if evidence.quantization else evidence.typing["choices"]
        assert set(shares) == {"labels", "places"}
        assert min(shares.values()) > 0.9


def test_other_choices_are_refused(tmp_path):
    source = elsewhere.chooser(tmp_path / "c.onnx")
    model = load_model(source)
    next(n for n in model.graph.node if n.op_type == "ArgMax").op_type = "ArgMin"
    onnx.save(model, tmp_path / "other.onnx")
    comparison = verify_files(source, tmp_path / "other.onnx", precision="int8")
    verdicts = {o.output: o.passed for o in comparison.outputs}
    assert verdicts == {"labels": False, "best": True, "places": True}
    result = CliRunner().invoke(app, ["verify", str(source), str(tmp_path / "other.onnx")])
    assert result.exit_code == 1
    assert "WRONG" in result.stdout


# --- nothing compared --------------------------------------------------------------------------------------------------


def empty_output(path: Path) -> Path:
    nodes = [
        elsewhere.node("Conv", ["x", "w"], ["s"], pads=[1, 1, 1, 1]),
        elsewhere.node("Reshape", ["s", "flat"], ["row"]),
        elsewhere.node("Greater", ["row", "limit"], ["k"]),
        elsewhere.node("Compress", ["row", "k"], ["y"]),
    ]
    constants = [
        elsewhere.weights("w", 4, 3, 3, 3),
        elsewhere.constant("flat", [-1], np.int64),
        elsewhere.constant("limit", 1e9),
    ]
    return elsewhere.save(path, nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["K"])], constants)


@pytest.mark.parametrize(
    "step",
    [
        lambda s, t: convert(s, t, opset=20),
        lambda s, t: convert(s, t, precision="fp16"),
        lambda s, t: quantize(s, t),
        lambda s, t: verify_files(s, s),
    ],
    ids=["opset", "fp16", "int8", "verify"],
)
def test_zero_elements_are_no_proof(tmp_path, step):
    with pytest.raises(ParityError, match=r"nothing (was|can be) compared at the output 'y', which (was|is) empty"):
        step(empty_output(tmp_path / "e.onnx"), tmp_path / "o.onnx")
    assert not (tmp_path / "o.onnx").exists()


def test_a_batch_of_zero_is_no_proof(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    inputs, outputs = [elsewhere.value("x", 1, [0, 3, 32, 32])], [elsewhere.value("y", 1, [0, 16, 8, 8])]
    path = elsewhere.save(tmp_path / "zero.onnx", nodes, inputs, outputs, constants)
    for step in (lambda: convert(path, opset=20), lambda: quantize(path)):
        with pytest.raises(GraphError, match="'x' has the fixed size 0 on an axis"):
            step()


# --- files that the checker or a conversion refused ---------------------------------------------------------------------

GRAPHS = {
    "opset 11": elsewhere.old,
    "defaults": elsewhere.defaults,
    "group norm": elsewhere.group_norm,
    "if": elsewhere.branches,
    "camera, transpose first": lambda p: elsewhere.camera(p, transpose_first=True),
    "camera, cast first": lambda p: elsewhere.camera(p, transpose_first=False),
    "mask": elsewhere.masked,
    "infinite mask": lambda p: elsewhere.masked(p, -np.inf, -3.0),
    "choices": elsewhere.chooser,
}


@pytest.mark.filterwarnings("ignore:.*repaired in a copy:attn_deploy.errors.FileWarning")
@pytest.mark.parametrize("make", GRAPHS.values(), ids=GRAPHS.keys())
def test_files_are_converted_and_right(tmp_path, make):
    """Right by ONNX Runtime on the untouched source, on inputs that the conversion has not seen."""
    source = make(tmp_path / "source.onnx")
    if "image" in {i.name for i in read_onnx(source).inputs}:
        feeds = {"image": np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)}
    else:
        feeds = {"x": images(3, seed=11)}
    right = run(source, **feeds)
    steps = {
        "opset": (lambda t: convert(source, t, opset=20), 1e-5),
        "fp16": (lambda t: convert(source, t, precision="fp16"), 2e-2),
        "int8": (lambda t: quantize(source, t, method="minmax"), 0.2),
    }
    for name, (step, allowed) in steps.items():
        artifact = step(tmp_path / f"{name}.onnx")
        assert artifact.seal == "whole"
        assert {i.name for i in artifact.inputs} == set(feeds)
        for a, b in zip(right, run(artifact.path, **feeds), strict=True):
            if a.dtype.kind == "f":
                assert np.sqrt(np.mean((a - b) ** 2)) <= allowed * np.sqrt(np.mean(a**2)), name


@pytest.mark.filterwarnings("ignore:.*repaired in a copy:attn_deploy.errors.FileWarning")
def test_every_command_reads_them(tmp_path):
    for index, make in enumerate(GRAPHS.values()):
        source = make(tmp_path / f"{index}.onnx")
        assert inspect(source).artifact.nodes > 3
        assert verify_files(source, source).passed


def test_what_was_repaired_is_said(tmp_path):
    source = elsewhere.group_norm(tmp_path / "g.onnx")
    with pytest.warns(FileWarning, match="repaired in a copy: GroupNormalization of opset 18 written with Instance"):
        read_onnx(source)
    result = CliRunner().invoke(app, ["convert", str(source), "--opset", "20", "-o", str(tmp_path / "o.onnx")])
    assert result.exit_code == 0
    assert result.stderr.count("warning: ") == 1


def reversed_nodes(model: onnx.ModelProto) -> str:
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return "nodes sorted"


def wrong_rank(model: onnx.ModelProto) -> str:
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 7
    return "declared shape of y replaced"


def negative_batch(model: onnx.ModelProto) -> str:
    for v in (*model.graph.input, *model.graph.output):
        v.type.tensor_type.shape.dim[0].dim_value = -1
    return "sizes of -1 in x, y read as unknown"


@pytest.mark.parametrize("spoil", [reversed_nodes, wrong_rank, negative_batch])
def test_what_runtimes_bear_is_repaired(tmp_path, spoil):
    nodes, constants = elsewhere.trunk(end="y")
    source = elsewhere.save(
        tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["N", 16, 8, 8])], constants
    )
    right = run(source, x=images())[0]
    model = load_model(source)
    words = spoil(model)
    onnx.save(model, source)
    with pytest.warns(FileWarning, match=words):
        artifact = convert(source, tmp_path / "o.onnx", opset=20)
    np.testing.assert_allclose(run(artifact.path, x=images())[0], right, atol=1e-5)


def test_the_whole_message_of_the_checker_is_told(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    nodes[1].op_type = "Rellu"
    outputs = [elsewhere.value("y", 1, ["N", 16, 8, 8])]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], outputs, constants)
    with pytest.raises(GraphError, match=r"No Op registered for Rellu.*Context: Bad node spec.*OpType: Rellu"):
        read_onnx(path)


def test_opsets_that_nothing_reads_are_refused(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    outputs = [elsewhere.value("y", 1, ["N", 16, 8, 8])]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], outputs, constants, opset=3, ir=4)
    with pytest.raises(OpsetError, match="opset is 3; opsets 4 and above"):
        convert(path, opset=17)


# --- inputs that a user gives ------------------------------------------------------------------------------------------


def test_names_with_slashes_and_colons(tmp_path):
    source = elsewhere.embedded(tmp_path / "e.onnx")
    given = given_inputs(load_model(source), ["serving/ids:0:2x5"])
    assert given.shapes == {"serving/ids:0": (2, 5)}
    artifact = convert(source, tmp_path / "o.onnx", opset=20, inputs=["serving/ids:0:2x5"])
    assert {"serving/ids:0": [2, 5]} in artifact.evidence.conversion["shapes"]
    result = CliRunner().invoke(app, ["inspect", str(source), "--input", "serving/ids:0:2x5"])
    assert (result.exit_code, "2x5" in result.stdout) == (0, True)
    with pytest.raises(InvalidRequestError, match=r"the graph's inputs are serving/ids:0"):
        convert(source, opset=20, inputs=["ids:2x5"])


def test_diagnose_and_profile_take_them(tmp_path):
    source = elsewhere.embedded(tmp_path / "e.onnx")
    np.savez(tmp_path / "ids.npz", **{"serving/ids:0": np.array([[0, 2, 1]])})
    report = diagnose(source, precision="fp16", build=False, samples=[tmp_path / "ids.npz"])
    assert (report.passed, report.compared_at) == (True, {"serving/ids:0": (1, 3)})
    words = ["diagnose", str(source), "--precision", "fp16", "--no-build", "--input", "serving/ids:0:2x5"]
    assert "2x5" in CliRunner().invoke(app, words).stdout
    words = ["profile", str(source), "--runtimes", "ort-cpu", "--input", "serving/ids:0:2x5:int64", "--json"]
    assert json.loads(CliRunner().invoke(app, words).stdout)["rows"][0]["status"] in ("ok", "noisy")


def test_integers_stay_within_the_table_that_they_index(tmp_path):
    """A table of three rows: 0 to 7, as integers were drawn once, would not run."""
    assert convert(elsewhere.embedded(tmp_path / "e.onnx"), tmp_path / "o.onnx", precision="fp16").seal == "whole"


def test_real_inputs_decide(tmp_path):
    source = elsewhere.detector(tmp_path / "d.onnx")
    np.savez(tmp_path / "real.npz", x=images(2))
    artifact = convert(source, tmp_path / "h.onnx", precision="fp16", samples=[tmp_path / "real.npz"])
    assert artifact.evidence.typing["calibration"] == {"data": "the samples given"}
    assert artifact.evidence.typing["shapes"] == [{"x": [2, 3, 32, 32]}, {"x": [4, 3, 32, 32]}]
    small = quantize(source, tmp_path / "q.onnx", samples=[tmp_path / "real.npz"], method="minmax")
    assert small.evidence.quantization["calibration"] == {"data": "the samples given"}


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": images()}, "holds y, and the graph's input 'x' is not among them"),
        ({"x": images()[:, :2], "z": 1}, "has the shape 4x2x32x32, and the graph takes"),
        ({"x": images().astype(complex)}, "'x' is complex128 of shape"),
        ({"x": np.array(["a"])}, "'x' is <U1 of shape"),
        ({}, "holds no array"),
    ],
)
def test_samples_that_do_not_fit(tmp_path, arrays, words):
    np.savez(tmp_path / "s.npz", **arrays)
    if len(arrays) == 1 and "y" in arrays:
        arrays = {"y": images(), "z": images()}
        np.savez(tmp_path / "s.npz", **arrays)
        words = "holds y, z, and the graph's input 'x' is not among them"
    with pytest.raises(InvalidRequestError, match=words):
        convert(elsewhere.detector(tmp_path / "d.onnx"), opset=20, samples=[tmp_path / "s.npz"])


def test_axes_without_names_are_axes_of_their_own(tmp_path):
    """Two inputs of other lengths, all axes called '?': one symbol for both would not run."""
    nodes = [
        elsewhere.node("MatMul", ["a", "wa"], ["p"]),
        elsewhere.node("ReduceSum", ["p"], ["y"], keepdims=0),
        elsewhere.node("MatMul", ["b", "wb"], ["q"]),
        elsewhere.node("Identity", ["q"], ["z"]),
    ]
    constants = [elsewhere.weights("wa", 3, 4), elsewhere.weights("wb", 5, 4)]
    inputs = [elsewhere.value("a", 1, ["?", "?", 3]), elsewhere.value("b", 1, ["?", 5])]
    outputs = [elsewhere.value("y", 1, []), elsewhere.value("z", 1, ["?", 4])]
    path = elsewhere.save(tmp_path / "u.onnx", nodes, inputs, outputs, constants)
    shapes = convert(path, tmp_path / "o.onnx", opset=20).evidence.conversion["shapes"]
    assert any(s["a"][0] != s["a"][1] for s in shapes)


# --- simplify, verify, run ---------------------------------------------------------------------------------------------


def test_the_commands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    call = lambda *words: CliRunner().invoke(app, list(words))  # noqa: E731
    elsewhere.detector(tmp_path / "d.onnx")
    simple = call("simplify", "d.onnx", "-o", "s.onnx")
    assert (simple.exit_code, read_onnx("s.onnx").evidence.history[-1]["step"]) == (0, "simplify")
    np.savez("x.npz", x=images(2))
    same = call("verify", "d.onnx", "s.onnx", "--data", "x.npz")
    assert (same.exit_code, "verdict" in same.stdout) == (0, True)
    ran = call("run", "s.onnx", "--data", "x.npz", "-o", "y.npz")
    assert ran.exit_code == 0, ran.stderr
    with np.load("y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], run(tmp_path / "d.onnx", x=images(2))[0], rtol=1e-4, atol=1e-3)
    assert call("verify", "d.onnx", "none.onnx").exit_code == 2
    assert call("run", "d.onnx", "--data", "none.npz", "-o", "y.npz").exit_code == 2


def test_images_are_run_in_the_order_of_their_names(tmp_path):
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "images"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    for name, array in zip(("b", "a", "c"), pixels, strict=True):
        image.fromarray(array).save(folder / f"{name}.png")
    source = elsewhere.camera(tmp_path / "c.onnx", transpose_first=True)
    result = CliRunner().invoke(
        app, ["run", str(source), "--data", str(folder), "--size", "32", "-o", str(tmp_path / "y.npz")]
    )
    assert result.exit_code == 0, result.stderr
    assert "bytes of 0 to 255" in result.stdout
    with np.load(tmp_path / "y.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], run(source, image=pixels[[1, 0, 2]])[0], atol=1e-5)


def test_simplify_refuses_other_numbers(tmp_path, monkeypatch):
    from attn_deploy.conversion import convert as module
    from attn_deploy.graph.simplify import Simplified

    source = elsewhere.detector(tmp_path / "d.onnx")
    other = load_model(elsewhere.detector(tmp_path / "e.onnx"))
    monkeypatch.setattr(module, "simplify_model", lambda model: Simplified(other, "planted", 13, 12))
    with pytest.raises(ParityError, match="simplified by planted"):
        module.simplify(source, tmp_path / "s.onnx")  # in this process, where the plant is


def test_weights_behind_a_cast_or_a_transpose_are_weights(tmp_path):
    nodes, constants = elsewhere.trunk("x", "f")
    wide = constants[0]
    constants[0] = elsewhere.constant("w0_half", onnx.numpy_helper.to_array(wide), np.float16)
    constants += [elsewhere.constant("wt", np.random.default_rng(0).standard_normal((5, 16)))]
    nodes = [
        elsewhere.node("Cast", ["w0_half"], ["w0"], to=elsewhere.FLOAT),
        *nodes,
        elsewhere.node("GlobalAveragePool", ["f"], ["p"]),
        elsewhere.node("Flatten", ["p"], ["row"]),
        elsewhere.node("Transpose", ["wt"], ["wm"], perm=[1, 0]),
        elsewhere.node("MatMul", ["row", "wm"], ["y"], name="last"),
    ]
    path = elsewhere.save(tmp_path / "w.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, ["N", 5])], constants)
    record = quantize(path, tmp_path / "q.onnx", method="minmax").evidence.quantization
    assert (record["weights"], record["left"]) == (3, [])
    half = convert(path, tmp_path / "h.onnx", precision="fp16")
    assert "Transpose" not in half.operators
    np.testing.assert_allclose(run(half.path, x=images())[0], run(path, x=images())[0], rtol=0.05, atol=0.02)


def test_finite_tensors_whose_sum_overflows_are_finite(tmp_path):
    nodes = [
        elsewhere.node("Mul", ["x", "huge"], ["m"]),
        elsewhere.node("Clip", ["m", "low", "high"], ["c"]),
        elsewhere.node("Div", ["c", "huge"], ["d"]),
        elsewhere.node("Conv", ["d", "w"], ["y"], name="conv"),
    ]
    constants = [
        elsewhere.constant("huge", 1e36),
        elsewhere.constant("low", -1e38),
        elsewhere.constant("high", 1e38),
        elsewhere.weights("w", 4, 3, 3, 3),
    ]
    path = elsewhere.save(tmp_path / "s.onnx", nodes, [elsewhere.IMAGE], [elsewhere.value("y", 1, None)], constants)
    model = load_model(path)
    model.graph.output[0].CopyFrom(elsewhere.value("y", 1, ["N", 4, 30, 30]))
    onnx.save(model, path)
    assert convert(path, tmp_path / "h.onnx", precision="fp16").evidence.typing["products"] == {"float16": 1}


@pytest.mark.parametrize("name", ["", "invented"])
def test_what_a_tool_learns_of_an_output_is_no_change(name):
    from attn_deploy.graph.simplify import _same_interface

    def graph(axis: str | int | None) -> onnx.ModelProto:
        nodes = [onnx.helper.make_node("Relu", ["x"], ["y"])]
        inputs = [elsewhere.value("x", elsewhere.FLOAT, ["N", 4])]
        outputs = [elsewhere.value("y", elsewhere.FLOAT, [axis, 4])]
        return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", inputs, outputs))

    before, after = graph(name or None), graph(1)
    _same_interface(before, after, "it")
    assert after.graph.output[0] == before.graph.output[0]
    with pytest.raises(GraphError, match="changed the inputs or outputs"):
        _same_interface(graph("N"), graph(1), "it")  # the batch of the input


def test_a_profile_takes_sizes_of_minus_one(tmp_path):
    nodes, constants = elsewhere.trunk(end="y")
    source = elsewhere.save(
        tmp_path / "m.onnx",
        nodes,
        [elsewhere.value("x", elsewhere.FLOAT, [-1, 3, 32, 32])],
        [elsewhere.value("y", elsewhere.FLOAT, [-1, 16, 8, 8])],
        constants,
    )
    result = CliRunner().invoke(app, ["profile", str(source), "--seconds", "0.01", "--threads", "1"])
    assert result.exit_code == 0, result.output
