"""Convolution, BatchNorm and activation as one layer whose tensors are called conv and bn, as in YOLO's networks."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops.activations import activation
from attn_deploy.ops.folding import Fusible, fold_bn_into_conv


class ConvNormAct(Fusible, nn.Module):
    """A convolution that keeps the size (but for its stride), BatchNorm and an activation.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)) for odd kernels; dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k.
        stride: step of the window.
        padding: None for dilation * (kernel_size // 2).
        dilation: distance of the taps.
        groups: groups of channels.
        act: name of the activation (`attn_deploy.ops.activations`), or None.
        norm: BatchNorm; without it the convolution has a bias.
        bn_eps: of the BatchNorm.
        bn_momentum: of the BatchNorm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        *,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        act: str | None = "silu",
        norm: bool = True,
        bn_eps: float = 1e-5,
        bn_momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2) if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=not norm,
        )
        self.bn: nn.Module = nn.Identity()
        if norm:
            self.bn = nn.BatchNorm2d(out_channels, eps=bn_eps, momentum=bn_momentum)
        self.act = activation(act)

    def fuse_(self) -> str | None:
        """Fold the BatchNorm into the convolution."""
        # What takes the convolution's place in a backbone's slot keeps its BatchNorm.
        if type(self.conv) is not nn.Conv2d or not isinstance(self.bn, nn.BatchNorm2d):
            return None
        self.conv, self.bn = fold_bn_into_conv(self.conv, self.bn), nn.Identity()
        return "folded BatchNorm into the convolution"

    def forward(self, x: Tensor) -> Tensor:
        """Convolve, normalise and activate."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


@torch.no_grad()
def folded_conv(layer: ConvNormAct) -> nn.Conv2d:
    """The layer's convolution with its BatchNorm folded in, and with a bias; the layer is left alone."""
    if isinstance(layer.bn, nn.BatchNorm2d):
        return fold_bn_into_conv(layer.conv, layer.bn)
    return layer.conv
