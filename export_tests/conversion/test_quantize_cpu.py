"""Graphs quantized for CPUs: what ONNX Runtime makes of them, how exact they are, what patterns keep, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from typer.testing import CliRunner

from attn_deploy import export, quantize
from attn_deploy.cli import app
from attn_deploy.errors import InvalidRequestError, PrecisionError
from attn_deploy.graph.artifact import load_model
from attn_deploy.graph.quantize.read_back import read_back
from attn_deploy.inputs.grammar import parse_inputs
from attn_deploy.runtimes.optimised import optimised_graph

SHAPE = (2, 3, 32, 32)


class Net(nn.Module):
    """What networks of convolutions are made of: ReLU and ReLU6, a residual sum, pools, a gate, joined maps, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.wide, self.deep = nn.Conv2d(16, 16, 1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.gate = nn.Conv2d(16, 16, 1)
        self.last = nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(x + self.deep(nn.functional.relu6(self.wide(x))))
        y = y * torch.sigmoid(self.gate(y.mean((2, 3), keepdim=True)))
        return self.head(torch.relu(self.last(torch.cat([x, y], 1))).mean((2, 3)))


class Tokens(nn.Module):
    """A block of a transformer: three products with weights and two of activations."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.queries, self.values = nn.LayerNorm(32), nn.Linear(32, 32), nn.Linear(32, 32)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        queries = self.queries(y)
        return self.head(x + (queries @ queries.transpose(1, 2) * 0.2).softmax(-1) @ self.values(y))


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cpu") / "net.onnx"
    torch.manual_seed(0)
    export(Net().eval(), path, inputs=parse_inputs(["2x3x32x32"]))
    return path


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cpu") / "tokens.onnx"
    torch.manual_seed(0)
    export(Tokens().eval(), path, inputs=parse_inputs(["2x16x32"]), dynamic=["N"])
    return path


def images(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, *SHAPE[1:])).astype(np.float32) + 0.5


@pytest.fixture(scope="module")
def samples(net: Path) -> Path:
    path = net.with_name("samples.npz")
    np.savez(path, **{taken(net): images(16, 1)})
    return path


def taken(path: Path) -> str:
    return str(onnx.load(path).graph.input[0].name)


def ran(path: Path, array: np.ndarray) -> np.ndarray:
    """By a session of the user's, with nothing set."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: array})[0])


def error(path: Path, source: Path, array: np.ndarray) -> float:
    right = ran(source, array)
    return float(np.sqrt(((ran(path, array) - right) ** 2).mean() / (right**2).mean()))


def evidence(artifact) -> dict:
    return json.loads(artifact.metadata["quantization"])


def test_all_that_has_a_kernel_runs_in_8_bits(net, samples, tmp_path):
    artifact = quantize(net, tmp_path / "q.onnx", target="cpu", calibration=samples, method="minmax")
    optimised = optimised_graph(load_model(artifact.path))
    kinds = {n.op_type for n in optimised.graph.node}
    wanted = {"QLinearConv", "QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearConcat", "QLinearGlobalAveragePool"}
    assert wanted | {"QGemm"} <= kinds
    assert not kinds & {"Conv", "Relu", "Clip", "Add", "Mul", "Sigmoid", "Concat", "DequantizeLinear"}
    assert sum(n.op_type == "QuantizeLinear" for n in optimised.graph.node) == 1, "the image, and nothing after it"
    record = evidence(artifact)
    assert record["target"] == "cpu"
    assert record["onnxruntime"]["kernels_words"] == "5 of 5 convolutions, 1 of 1 Gemm run in 8 bits"
    assert error(artifact.path, net, images(8, 2)) < 0.02
    # Another size and another batch than those that ranges were measured on.
    other = np.random.default_rng(3).standard_normal((3, 3, 46, 38)).astype(np.float32)
    assert error(artifact.path, net, other) < 0.1


def with_onnxruntime(source: Path, target: Path, data: np.ndarray) -> Path:
    quantization = pytest.importorskip("onnxruntime.quantization")
    name = taken(source)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([{name: data[k : k + 8]} for k in range(0, len(data), 8)])

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.batches, None)

    quantization.quantize_static(
        str(source),
        str(target),
        Reader(),
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
    )
    return target


def test_it_is_at_least_as_exact_as_the_library_of_onnxruntime(net, samples, tmp_path):
    torch.manual_seed(1)
    second = export(Net().eval(), tmp_path / "second.onnx", inputs=parse_inputs(["2x3x32x32"])).path
    errors = np.zeros(2)  # of both nets together: by itself a net of a few layers may be lucky with its rounding
    for source in (net, second):
        ours = quantize(source, tmp_path / "ours.onnx", target="cpu", calibration=samples).path
        theirs = with_onnxruntime(source, tmp_path / "theirs.onnx", images(16, 1))
        errors += [error(path, source, images(32, 5)) for path in (ours, theirs)]
    assert errors[0] <= errors[1]
    counts = read_back(optimised_graph(load_model(ours))).small
    others = read_back(optimised_graph(onnx.load(theirs))).small
    assert all(counts.get(k, 0) >= n for k, n in others.items() if k in ("Conv", "Gemm", "Add", "Mul", "Concat"))


def test_zero_points_and_biases(net, samples, tmp_path):
    model = load_model(quantize(net, tmp_path / "q.onnx", target="cpu", calibration=samples, method="minmax").path)
    constants = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    readers = {i: n for n in model.graph.node for i in n.input}
    made_by = {o: n for n in model.graph.node for o in n.output}
    behind = 0
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            assert constants[node.input[2]].dtype == np.uint8
            producer = made_by.get(node.input[0])
            if producer is not None and producer.op_type in ("Relu", "Clip"):
                behind += 1
                assert constants[node.input[2]] == 0, "else the node would not vanish into it"
        if node.op_type == "DequantizeLinear" and node.input[0] in constants:
            kind = constants[node.input[0]].dtype
            place = list(readers[node.output[0]].input).index(node.output[0])
            assert kind == (np.int8 if place == 1 else np.int32)
            assert not constants[node.input[2]].any()
    assert behind == 4


def test_a_bias_takes_back_what_rounding_of_weights_adds():
    """Weights that all round the same way, and an input that is never zero: without the correction 3 % off."""
    import onnx_ir as ir

    from attn_deploy.graph.quantize import QuantOptions, quant_format, scheme_for

    torch.manual_seed(0)
    weights = np.full((4, 8, 1, 1), 0.0049, np.float32)
    weights[:, 0] = 1.0
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]> g (float[N,8,H,W] x) => (float[N,4,H,W] y) { y = Conv (x, w, b) }'
    )
    model.graph.initializer.extend(
        numpy_helper.from_array(a, n) for n, a in (("w", weights), ("b", np.zeros(4, np.float32)))
    )
    scheme = scheme_for(model, quant_format("int8"), QuantOptions(target="cpu"))
    rng = np.random.default_rng(0)
    values = (rng.random((2, 8, 6, 6)) + np.array([0.0, *[9.0] * 7]).reshape(1, 8, 1, 1)).astype(np.float32)
    right = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": values}
    )[0]
    for name in scheme.names:
        scheme.add(name, values if name == "x" else right)
    scheme.choose("minmax")
    small = scheme.write().model
    assert ir.from_proto(small).graph.name
    ours = onnxruntime.InferenceSession(small.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"x": values}
    )[0]
    assert abs(float((ours - right).mean())) < 0.01
    rounded = np.rint(weights * 127.0) / 127.0
    assert float(((rounded - weights).sum(1) * 9.0).max()) > 0.1, "the case does not show anything"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": ["deep"]}, "4 of 5 convolutions"),
        ({"exclude": ["Add", "Concat"]}, "5 of 5 convolutions"),
        ({"only": ["stem", "head"]}, "1 of 5 convolutions, 1 of 1 Gemm"),
        ({"only": ["Conv"]}, "5 of 5 convolutions, 0 of 1 Gemm"),
        ({"per_tensor": True}, "5 of 5 convolutions"),
        ({"format": "qoperator"}, "5 of 5 convolutions"),
        ({"activations": "int8"}, "Gemm run in 8 bits"),
    ],
)
def test_options(options, words, net, samples, tmp_path):
    options = {"target": "cpu", "calibration": samples, "method": "minmax", **options}
    artifact = quantize(net, tmp_path / "q.onnx", **options)
    record = evidence(artifact)
    assert words in record["onnxruntime"]["kernels_words"]
    assert error(artifact.path, net, images(8, 2)) < 0.05
    if "exclude" in options and "Add" in options["exclude"]:
        kinds = read_back(optimised_graph(load_model(artifact.path))).small
        assert "Add" not in kinds
        assert "Concat" not in kinds
    if "exclude" in options and options["exclude"] == ["deep"]:
        assert [y["reason"] for y in record["left"]] == ["--exclude 'deep' names it"]
    if options.get("format") == "qoperator":
        assert "QLinearConv" in artifact.operators
        assert "DequantizeLinear" not in artifact.operators
        assert load_model(artifact.path).metadata_props, "the seal matches the file as it was written"


def test_products_of_two_activations(tokens, tmp_path):
    plain = quantize(tokens, tmp_path / "p.onnx", target="cpu", method="minmax")
    assert "3 of 3 Gemm, 0 of 2 matrix products" in evidence(plain)["onnxruntime"]["kernels_words"]
    both = quantize(tokens, tmp_path / "b.onnx", target="cpu", method="minmax", attention=True)
    assert "3 of 3 Gemm, 2 of 2 matrix products" in evidence(both)["onnxruntime"]["kernels_words"]
    array = np.random.default_rng(1).standard_normal((5, 16, 32)).astype(np.float32)
    assert error(plain.path, tokens, array) < error(both.path, tokens, array) < 0.1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"exclude": ["dep"]}, r"--exclude 'dep' matches no node, module or operator type\..*modules stem"),
        ({"only": ["Convolution"]}, r"--only 'Convolution' matches no node"),
        ({"target": "tpu"}, r"--target 'tpu' is unknown; use cpu or gpu"),
        ({"target": "gpu", "attention": True}, r"--attention is for --target cpu"),
        ({"target": "gpu", "format": "qoperator"}, r"--format qoperator is for --target cpu"),
        ({"target": "gpu", "activations": "uint8"}, r"--activations uint8 is for --target cpu"),
        ({"precision": "fp8"}, r"fp8 has no kernels on CPUs: use --precision int8, or --target gpu"),
        ({"format": "onnx"}, r"--format 'onnx' is unknown; use qdq or qoperator"),
    ],
)
def test_requests_that_cannot_be_used(options, words, net, tmp_path):
    with pytest.raises(InvalidRequestError, match=words):
        quantize(net, tmp_path / "q.onnx", **{"target": "cpu", "method": "minmax", **options})
    assert not (tmp_path / "q.onnx").exists()


def test_a_file_in_fp16_is_for_gpus(tmp_path):
    torch.manual_seed(0)
    half = export(Net().eval(), tmp_path / "half.onnx", inputs=parse_inputs(["2x3x32x32"]), precision="fp16")
    with pytest.raises(PrecisionError, match=r"in fp16.*quantize the fp32 file, or choose --target gpu"):
        quantize(half, tmp_path / "q.onnx", target="cpu")
    assert evidence(quantize(half, tmp_path / "g.onnx", method="minmax"))["target"] == "gpu"


def test_the_command_says_what_the_file_is_for(net, samples, tmp_path):
    arguments = [
        "quantize",
        str(net),
        "-o",
        str(tmp_path / "q.onnx"),
        "--calibration",
        str(samples),
        "--method",
        "minmax",
    ]
    result = CliRunner().invoke(app, [*arguments, "--target", "cpu", "--exclude", "gate"])
    assert result.exit_code == 0, result.output
    text = " ".join(result.output.split())
    assert "CPUs, by ONNX Runtime: uint8 activations, a scale for each channel of weights" in text
    assert "4 of 5 convolutions, 1 of 1 Gemm run in 8 bits" in text
    other = " ".join(CliRunner().invoke(app, [*arguments, "--target", "gpu"]).output.split())
    assert "GPUs, by TensorRT" in other
    assert "5 of 5 convolutions" not in other, "symmetric pairs are no 8-bit convolutions there"
