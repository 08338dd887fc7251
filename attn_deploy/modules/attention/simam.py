"""SimAM.

Paper: SimAM: A Simple, Parameter-Free Attention Module for Convolutional Neural Networks, ICML 2021,
    proceedings.mlr.press/v139/yang21o.html.
Official: ZjjConan/SimAM, networks/attentions/simam_module.py (simam_module).
Export: the variance is a mean of squares with a correction instead of a sum over H * W, which leaves the range of fp16
    from 80 x 80 on; the factor 1/4 is taken along by halving the centred map before it is squared. Equal up to rounding.
Limits: at least two positions; the unbiased variance of one is undefined (the official code gives NaN).
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_map, require_two_positions, unbiased_variance
from attn_deploy.registry import Input, register


@register(
    "simam",
    aliases=("simam_module",),
    reference={},
    parameters=0,
    inputs=(Input("x", ("N", 64, "H", "W")),),
    minimum={"W": 2},
)
class SimAM(nn.Module):
    """Gates each value by how much it stands out from the others of its channel; has no parameters.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: accepted so that it fits wherever an attention does, and ignored.
        e_lambda: added to the variance.

    Raises:
        ValueError: if e_lambda is not above 0, or the input is a single position.
    """

    def __init__(self, channels: int | None = None, *, e_lambda: float = 1e-4) -> None:
        super().__init__()
        if not e_lambda > 0:
            raise ValueError(
                f"e_lambda must be above 0, got {e_lambda}: it keeps a constant channel from dividing by 0."
            )
        self.e_lambda = e_lambda

    def forward(self, x: Tensor) -> Tensor:
        check_map(x, "SimAM")
        require_two_positions(x, "SimAM")
        half = 0.5 * (x - x.mean((2, 3), keepdim=True))
        energy = half * half / (4.0 * unbiased_variance(half) + self.e_lambda) + 0.5
        return x * energy.sigmoid()
