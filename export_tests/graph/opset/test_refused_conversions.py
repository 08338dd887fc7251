"""What has no equivalent in an opset is refused, with node, operator, module and remedy."""

from __future__ import annotations

import re

import onnx
import pytest

from attn_deploy.errors import AttnDeployError, GraphError, OpsetError
from attn_deploy.graph.opset import MAX_OPSET, MIN_OPSET, convert_opset
from export_tests.graph.opset.opset_helpers import parse
from export_tests.graph.opset.scopes import scoped

REFUSED = [
    pytest.param(
        18,
        17,
        "float[N,4] x, int64[1] a",
        "float[B,C] y",
        "y = ReduceMean (x, a)",
        r"ReduceMean \(float32.*module 'block.op'.*opset 17.*computed while the model runs.*first.*18",
        id="axes",
    ),
    pytest.param(
        22,
        21,
        "bfloat16[N,4,H,W] x, bfloat16[4,4,1,1] w",
        "bfloat16[N,4,H,W] y",
        "y = Conv (x, w)",
        r"Conv \(bfloat16.*opset 21.*bfloat16.*first.*22",
        id="element-type",
    ),
    pytest.param(
        18,
        17,
        "int32[N] x",
        "int32[N] y",
        "y = BitwiseNot (x)",
        r"BitwiseNot \(int32.*opset 17: the operator does not exist.*first.*18",
        id="operator",
    ),
    pytest.param(
        18,
        15,
        "float[4,3] x, int64[2,1] i, float[2,3] u",
        "float[4,3] y",
        'y = ScatterND <reduction = "add"> (x, i, u)',
        r"ScatterND.*opset 15.*reduction=add.*first.*16",
        id="attribute",
    ),
    pytest.param(
        18,
        17,
        "float[4,3] x, int64[2,1] i, float[2,3] u",
        "float[4,3] y",
        'y = ScatterND <reduction = "max"> (x, i, u)',
        r"ScatterND.*opset 17.*'max'.*first.*18",
        id="value",
    ),
    pytest.param(
        19,
        18,
        "float[N,1,8,8] x",
        "float[N,A,B,C] y",
        "y = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)",
        r"AveragePool.*opset 18.*\[2, 2\].*first.*19",
        id="dilations",
    ),
    pytest.param(
        18,
        17,
        "float[N,1,8,8] x, int64[2] z",
        "float[A,B,C,D] y",
        'y = Resize <axes = [2, 3], keep_aspect_ratio_policy = "not_larger"> (x, , , z)',
        r"Resize.*opset 17.*keep_aspect_ratio_policy.*first.*18",
        id="aspect",
    ),
    pytest.param(
        20,
        19,
        "float[N,1,4,4,4] x, float[N,2,2,2,3] g",
        "float[A,B,C,D,E] y",
        "y = GridSample (x, g)",
        r"GridSample.*opset 19.*volume.*first.*20",
        id="volume",
    ),
    pytest.param(
        16,
        15,
        "float[1,1,8,8] x, float[K,4] r, int64[K] b",
        "float[A,B,C,D] y",
        "y = RoiAlign (x, r, b)",
        r"RoiAlign.*opset 15.*half_pixel.*first.*16",
        id="roialign",
    ),
    pytest.param(
        14,
        13,
        "float[N,4] x",
        "float[A,B] y",
        "s = Constant <value_ints = [0, 4]> () y = Reshape <allowzero = 1> (x, s)",
        r"Reshape.*opset 13.*extent of 0.*first.*14",
        id="allowzero",
    ),
    pytest.param(
        15,
        13,
        "float[N,2,H,W] x",
        "float[N,2,H,W] y, float[2] m, float[2] v",
        "s = Constant <value_floats = [1.0, 2.0]> () y, m, v = BatchNormalization <training_mode = 1> (x, s, s, s, s)",
        r"BatchNormalization.*opset 13.*training mode.*first.*14",
        id="training",
    ),
    pytest.param(
        24,
        23,
        "float[N,2,4,8] q, float[N,2,4,8] k, int64[N] n",
        "float[A,B,C,D] y",
        "y = Attention (q, k, k, , , , n)",
        r"Attention.*opset 23.*input 7.*first.*24",
        id="attention-input",
    ),
]


@pytest.mark.parametrize(("opset", "target", "inputs", "outputs", "body", "message"), REFUSED)
def test_refusals_name_node_operator_type_and_remedy(
    opset: int, target: int, inputs: str, outputs: str, body: str, message: str
) -> None:
    model = scoped(parse(opset, inputs, outputs, body), "block.op")
    with pytest.raises(OpsetError, match=message) as caught:
        convert_opset(model, target)
    assert "'block.op'" in str(caught.value)
    assert caught.value.exit_code == 1


def test_module_path_from_torchscript_names() -> None:
    model = parse(18, "int32[N] x", "int32[N] y", "y = BitwiseNot (x)")
    model.graph.node[0].name = "/encoder/layer.0/BitwiseNot"
    with pytest.raises(OpsetError, match=re.escape("in module 'encoder.layer.0'")):
        convert_opset(model, 13)


@pytest.mark.parametrize(("source", "target"), [(12, 13), (18, 12), (18, 26), (26, 20), (18, 0)])
def test_opsets_outside_the_range(source: int, target: int) -> None:
    model = parse(source, "float[N] x", "float[N] y", "y = Relu (x)")
    with pytest.raises(OpsetError, match=f"opsets {MIN_OPSET} to {MAX_OPSET}") as caught:
        convert_opset(model, target)
    assert caught.value.exit_code == 2


def test_invalid_models_are_refused() -> None:
    model = parse(18, "float[N] x", "float[N] y", "y = Relu (x)")
    model.graph.node[0].input[0] = "nowhere"
    with pytest.raises(AttnDeployError):
        convert_opset(model, 13)
    mixed = parse(22, "bfloat16[N,4,H,W] x, float[4,4,1,1] w", "bfloat16[N,4,H,W] y", "y = Conv (x, w)")
    with pytest.raises(GraphError, match=r"Conv \(bfloat16.*W is tensor\(float\) where tensor\(bfloat16\) is needed"):
        convert_opset(mixed, 24)
    empty = onnx.ModelProto()
    with pytest.raises(GraphError, match="imports no version"):
        convert_opset(empty, 13)
