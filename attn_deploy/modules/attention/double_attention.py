"""Double Attention (A2-Nets).

Paper: A^2-Nets: Double Attention Networks, NeurIPS 2018, arXiv:1810.11579.
Official: the authors published none; nguyenvo09/Double-Attention-Network, double_attention_layer.py,
    DoubleAttentionLayer, is followed, which agrees with equations 5 to 7 of the paper.
Export: flatten and reshape in place of views. Cost is linear in H * W: features are gathered into a c_m x c_n matrix
    and distributed from it. Fused, the three input convolutions are one, and the last one acts on that matrix.
Deviations: External-Attention takes the softmax over the batch (attention is 1 at batch 1), and ANN's a2block takes the
    second one over positions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_positive
from attn_deploy.ops.parallel_convs import join_parallel_convs, split_channels
from attn_deploy.registry import register


@register(
    "a2_double_attention",
    aliases=("a2_net", "a2", "a2_attention", "double_attention_layer"),
    reference={"in_channels": 64},
    parameters=6240,
)
class DoubleAttention(nn.Module, Fusible):
    """Gathers global features by one softmax attention and distributes them to each position by a second one.

    Shape: (N, C, H, W) -> (N, c_m, H, W), or (N, C, H, W) with reconstruct; dynamic N, H, W.

    Args:
        in_channels: C.
        c_m: channels of the gathered features, C // 2 by default.
        c_n: number of attention maps, C // 2 by default.
        reconstruct: whether a last 1x1 convolution leads back to C channels.
        residual: whether the input is added, as in the paper's networks; needs reconstruct.

    Raises:
        ValueError: if c_m or c_n is below 1, or residual is asked without reconstruct.
    """

    official_keys = {
        "convA": "features",
        "convB": "gathering",
        "convV": "distribution",
        "conv_reconstruct": "reconstruction",
    }

    def __init__(
        self,
        in_channels: int,
        *,
        c_m: int | None = None,
        c_n: int | None = None,
        reconstruct: bool = False,
        residual: bool = False,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels)
        self.c_m = in_channels // 2 if c_m is None else c_m
        self.c_n = in_channels // 2 if c_n is None else c_n
        require_positive(c_m=self.c_m, c_n=self.c_n)
        if residual and not reconstruct:
            raise ValueError(
                f"residual=True needs reconstruct=True, got reconstruct={reconstruct}: only the reconstruction has the "
                f"{in_channels} channels of the input. Set both."
            )
        self.in_channels = in_channels
        self.residual = residual
        self.features = nn.Conv2d(in_channels, self.c_m, 1)
        self.gathering = nn.Conv2d(in_channels, self.c_n, 1)
        self.distribution = nn.Conv2d(in_channels, self.c_n, 1)
        self.reconstruction = nn.Conv2d(self.c_m, in_channels, 1) if reconstruct else None
        self.projection: nn.Conv2d | None = None  # all three input convolutions, once fused

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        if self.projection is None:
            return self.features(x).flatten(2), self.gathering(x).flatten(2), self.distribution(x).flatten(2)
        widths = [self.c_m, self.c_n, self.c_n]
        return split_channels(self.projection(x).flatten(2), widths)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DoubleAttention")
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        features, gathering, distribution = self._projected(x)
        gathered = torch.matmul(features, gathering.softmax(2).transpose(1, 2))
        vectors = distribution.softmax(1)
        last = self.reconstruction
        if last is None:
            return torch.matmul(gathered, vectors).reshape(batch, self.c_m, height, width)
        if self.projection is None:
            out = last(torch.matmul(gathered, vectors).reshape(batch, self.c_m, height, width))
        else:
            out = torch.matmul(torch.matmul(last.weight.flatten(1), gathered), vectors)
            out = (out + last.bias.unsqueeze(1)).reshape(batch, self.in_channels, height, width)
        return out + x if self.residual else out

    def fuse_(self) -> str | None:
        """Join the input convolutions; from then on the reconstruction acts on the gathered matrix."""
        if self.projection is not None:
            return None
        self.projection = join_parallel_convs(self.features, self.gathering, self.distribution)
        self.features = self.gathering = self.distribution = None
        return "joined the three input convolutions"
