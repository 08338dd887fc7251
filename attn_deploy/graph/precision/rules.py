"""Which operators stay in fp32, and why: one row for each kind."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KeepRule:
    """Operators that stay in fp32.

    Attributes:
        reason: in words, for the record.
        operators: their types.
    """

    reason: str
    operators: frozenset[str]


def _rule(reason: str, operators: str) -> KeepRule:
    return KeepRule(reason, frozenset(operators.split()))


RULES = (
    _rule("softmax: a sum of exponentials", "Softmax LogSoftmax Softplus Mish"),
    _rule(
        "normalisation: a mean of squares and its root",
        "LayerNormalization InstanceNormalization GroupNormalization BatchNormalization LpNormalization "
        "MeanVarianceNormalization LRN RMSNormalization",
    ),
    _rule(
        "reduction: its sum grows with the map",
        "ReduceMean ReduceSum ReduceSumSquare ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceProd CumSum CumProd "
        "GlobalAveragePool GlobalLpPool LpPool Det",
    ),
    _rule("exponential, power or root: its result leaves the range quickly", "Exp Log Pow Sqrt Reciprocal Sinh Cosh"),
    _rule("rounding: a neighbour of a half value is another element", "Floor Ceil Round"),
    _rule("random numbers", "RandomNormal RandomNormalLike RandomUniform RandomUniformLike Bernoulli Multinomial"),
)
_REASONS = {operator: rule.reason for rule in RULES for operator in rule.operators}

# Between two nodes that stay in fp32 these stay too: rounding there would undo what keeping the two is for.
CHEAP = frozenset(
    """Abs Add And Cast Ceil Clip Concat Cos DepthToSpace Div Equal Erf Expand Flatten Floor Gather GatherElements
    GatherND Greater GreaterOrEqual Identity LeakyRelu Less LessOrEqual Max Mean Min Mod Mul Neg Not Pad Relu
    Reshape Sigmoid Sign Sin Slice Split Squeeze Sub Sum Tanh Tile Transpose Unsqueeze Where""".split()  # noqa: SIM905 - a list, one name a line
)
# These read a tensor of any element type and give none of it on.
INDIFFERENT = frozenset({"Shape", "Size", "Cast", "IsNaN", "IsInf", "NonZero"})
QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul"})
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "Einsum", "Attention"})

# A small error before these is a large one, or another element, behind them.
DECISIVE = frozenset(
    """ArgMax ArgMin Equal Exp Greater GreaterOrEqual Less LessOrEqual LogSoftmax Softmax TopK""".split()  # noqa: SIM905
)

DECIDES = "feeds an exponential or a comparison: its error is not a rounding behind that"
DECIDED_ON = "compares values in fp32"
TAKES_SIZE = "takes a size or a position: those pass the range, or the digits, of a half type in larger maps"
INDEX = "becomes an index: a rounded position is another element"
FRACTION = "takes the whole part off: the fraction is a small difference of what would be rounded first"
SCATTERS = frozenset({"ScatterElements", "ScatterND"})
SCATTERED = "sums what it scatters: ONNX Runtime has no such kernel in half precision"
BETWEEN = "between nodes in fp32"
BY_NAME = "named with --keep"
NO_HALF_FORM = "the standard has no such form of the operator"


# What TensorRT-RTX 1.7 refuses to build, by half type.
_REFUSED = {
    ("bf16", operator): "kernel: TensorRT-RTX has none of this operator in bf16"
    for operator in ("ConvTranspose", "HardSwish")
}


def reason_to_keep(operator: str, half: str) -> str:
    """Why nodes of this type stay in fp32 in a graph in ``half`` (fp16 or bf16); empty if they need not."""
    return _REASONS.get(operator) or _REFUSED.get((half, operator), "")
