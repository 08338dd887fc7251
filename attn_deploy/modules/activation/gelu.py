"""GELU: exact, with a hyperbolic tangent, and with a sigmoid.

Paper: Gaussian Error Linear Units (GELUs), 2016, arXiv:1606.08415.
Official: pytorch/pytorch, torch.nn.functional.gelu; openai/CLIP, clip/model.py (QuickGELU).
Export: one Gelu from opset 20 on for the first two, their primitive operators below. Where the graph is to run in fp16,
    the tangent's argument is written without a cube, which leaves the range above 40. Equal up to rounding.
Deviations: the three differ: by at most 4.7e-4 between the error function and the tangent, and by 2.0e-2 with the
    sigmoid. A checkpoint wants the one that it was trained with.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import require_choice
from attn_deploy.ops.bounded import in_half_range
from attn_deploy.registry import Input, register

FORMS = ("erf", "tanh", "quick")
_QUICK_SLOPE = 1.702
_TANH_SLOPE = math.sqrt(2 / math.pi)
_CUBE = 0.044715
_INPUTS = (Input("x", ("N", 64, "H", "W")),)


@register(
    "gelu_quick",
    aliases=("quick_gelu",),
    reference={"approximate": "quick"},
    parameters=0,
    inputs=_INPUTS,
    summary="Multiplies each value by a sigmoid that stands for the normal distribution function.",
)
@register(
    "gelu_tanh",
    aliases=("tanh_gelu", "gelu_new"),
    reference={"approximate": "tanh"},
    parameters=0,
    inputs=_INPUTS,
    summary="Multiplies each value by a hyperbolic tangent that stands for the normal distribution function.",
)
@register("gelu_erf", aliases=("gelu",), reference={}, parameters=0, inputs=_INPUTS)
class GELU(nn.Module):
    """Multiplies each value by the normal distribution function at it, or by what stands for that function.

    Shape: any; shape kept.

    Args:
        approximate: "erf" for the function itself ("none", as PyTorch calls it, is the same), "tanh", or "quick" for the
            sigmoid of 1.702 x.

    Raises:
        ValueError: if approximate is another word.
    """

    def __init__(self, *, approximate: str = "erf") -> None:
        super().__init__()
        require_choice("approximate", approximate, (*FORMS, "none"))
        self.approximate = "erf" if approximate == "none" else approximate

    def forward(self, x: Tensor) -> Tensor:
        if self.approximate == "quick":
            return x * (x * _QUICK_SLOPE).sigmoid()
        if self.approximate == "erf":
            return F.gelu(x)
        if in_half_range(x):
            return x * (0.5 + 0.5 * ((_TANH_SLOPE * x) * (1 + _CUBE * x * x)).tanh())
        return F.gelu(x, approximate="tanh")
