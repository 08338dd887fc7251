"""What is known to help against what TensorRT says."""

from __future__ import annotations

import re
from collections.abc import Iterable

_REMEDIES = (
    (
        r"Plugin not found|plugin creator .*not found",
        "It has no kernel for this operator: write the module without it.",
    ),
    (
        r"FP32 GEMM is not supported",
        "Turing (sm75) multiplies matrices in fp16 only: convert the graph to fp16 first, or leave sm75 out of --target.",
    ),
    (r"HW-specific datatypes: fp(8|4)", "Only newer GPUs have that type: --target sm89,sm120 for fp8, sm120 for fp4."),
    (
        r"Non-zero zero point|UINT8|QLinear|must have type FP8, FP4, Int4, Int8",
        "Quantize with symmetric int8 activations and weights and unquantized biases, as 'attn-deploy quantize --target gpu' "
        "does.",
    ),
    (
        r"must have (the )?same (input )?types?|kernel is of type|same type as",
        "The graph mixes element types: convert its precision from the fp32 file again, with 'attn-deploy convert'.",
    ),
    (r"build-time constant", "Simplify the graph first: 'attn-deploy simplify'."),
    (
        r"not self-consistent|incompatible .*dimension|reshape would change volume",
        "An axis declared dynamic is fixed inside the graph: export again with the axis verified, or give --profile "
        "the shapes that the graph accepts.",
    ),
    (
        r"Could not find any implementation|out of memory|OutOfMemory|insufficient memory|workspace (limit|size)",
        "Give it more scratch memory with --workspace, or narrow the shapes with --profile.",
    ),
)


_ATTENTION = "The Attention operator of opset 23 has few kernels: export at opset 22 or lower, where it is decomposed."


def remedy_for(text: str, operators: Iterable[str] = ()) -> str:
    """Advice for a message of TensorRT about nodes of these operators; empty if none is known."""
    if "Attention" in operators:
        return _ATTENTION
    return next((advice for pattern, advice in _REMEDIES if re.search(pattern, text, re.IGNORECASE)), "")
