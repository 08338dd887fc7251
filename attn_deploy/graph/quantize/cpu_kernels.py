"""What ONNX Runtime's CPU provider computes in 8 bits, once each input and output has a pair.

Source: the selectors of its QDQ transformer and its list of CPU kernels, seen in the graphs that version 1.31 made.
"""

from __future__ import annotations

# Products with constant weights. ConvTranspose has no kernel in 8 bits there.
PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
# Of these a pair on the output is not needed: the kernel gives float, which is faster than a pair and loses nothing.
FLOAT_OUTPUT = frozenset({"Gemm", "MatMul"})
ARITHMETIC = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"})
# These move values and make none: the same scale in front and behind.
MOVING = frozenset({"MaxPool", "Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Slice", "Gather", "Split"})
# Vanish into the QuantizeLinear behind them, where its range ends where theirs does.
ABSORBED = frozenset({"Relu", "Clip"})

# By operator, the kernels that a session may show in its place.
KERNELS = {
    "Conv": ("QLinearConv",),
    "Gemm": ("QGemm",),
    "MatMul": ("QLinearMatMul", "MatMulIntegerToFloat"),
    "Add": ("QLinearAdd",),
    "Mul": ("QLinearMul",),
    "Concat": ("QLinearConcat",),
    "AveragePool": ("QLinearAveragePool",),
    "GlobalAveragePool": ("QLinearGlobalAveragePool",),
    "Sigmoid": ("QLinearSigmoid",),
    "LeakyRelu": ("QLinearLeakyRelu",),
}
