"""Hard swish.

Paper: Searching for MobileNetV3, ICCV 2019, arXiv:1905.02244.
Official: huggingface/pytorch-image-models, timm/layers/activations.py (hard_swish).
Export: Add, Clip and Mul, so that one graph serves every opset (HardSwish enters at 14). The clipped term is divided
    before the product, so that fp16 stays in range. Equal up to rounding.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.registry import Input, register


@register(
    "hswish",
    aliases=("hard_swish",),
    reference={},
    parameters=0,
    inputs=(Input("x", ("N", 64, "H", "W")),),
)
class HSwish(nn.Module):
    """Multiplies each value by a piecewise linear gate, clip(x + 3, 0, 6) / 6.

    Shape: any; shape kept.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x * ((x + 3).clamp(0, 6) / 6)
