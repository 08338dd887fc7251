"""RepConv of YOLOv7 and the RepC3 stage that RT-DETR builds of it.

Paper: YOLOv7: Trainable Bag-of-Freebies Sets New State-of-the-Art for Real-Time Object Detectors, CVPR 2023,
    arXiv:2207.02696; RepC3: DETRs Beat YOLOs on Real-time Object Detection, CVPR 2024, arXiv:2304.08069.
Official: ultralytics/ultralytics, ultralytics/nn/modules/conv.py (RepConv) and block.py (RepC3).
Export: fused, the branches of each RepConv are one convolution, exactly, and every other BatchNorm is folded.
Deviations: YOLO trains with BatchNorm eps 1e-3, set over the whole network; give bn_eps for such checkpoints. The identity
    branch is off unless asked for, as it is officially; YOLOv7's own RepConv has it wherever shapes allow.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import (
    ConvNormAct,
    Fusible,
    activation,
    check_channels,
    require_activation,
    require_convolution,
    require_positive,
)
from attn_deploy.ops.branch_merging import merged_with_identity
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 64}


@register("repconv", reference=_REFERENCE, parameters=41216)
class RepConv(Fusible, nn.Module):
    """The activated sum of a 3x3 and a 1x1 convolution and, if asked, the input, each with its own BatchNorm.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: 3, the only one that the block is defined for.
        stride: step of the window.
        groups: groups of channels.
        act: name of the activation, or None.
        bn: whether the input is added through a BatchNorm; only where C_out is C_in and the stride 1.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if kernel_size is not 3, groups does not divide the channels, act is unknown, or bn is asked for where
            the shapes differ.
    """

    official_keys = {"bn": "identity", "conv": "fused"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
        act: str | None = "silu",
        bn: bool = False,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_convolution(in_channels, out_channels, groups, stride=stride)
        require_activation("act", act)
        if kernel_size != 3:
            raise ValueError(f"kernel_size must be 3, got {kernel_size}: the block is a 3x3 and a 1x1 branch.")
        if bn and (in_channels != out_channels or stride != 1):
            raise ValueError(
                f"bn=True adds the input, which needs out_channels = in_channels and stride 1, got "
                f"in_channels={in_channels}, out_channels={out_channels} and stride={stride}: leave bn out."
            )
        self.in_channels, self.groups = in_channels, groups
        self.conv1 = ConvNormAct(in_channels, out_channels, 3, stride=stride, groups=groups, bn_eps=bn_eps, act=None)
        self.conv2 = ConvNormAct(in_channels, out_channels, 1, stride=stride, groups=groups, bn_eps=bn_eps, act=None)
        self.identity = nn.BatchNorm2d(in_channels, eps=bn_eps) if bn else None
        self.act = activation(act)
        self.fused: nn.Conv2d | None = None

    def fuse_(self) -> str | None:
        """Merge the branches into one 3x3 convolution."""
        if self.fused is not None:
            return None
        dense, pointwise = self.conv1, self.conv2
        self.fused, words = merged_with_identity(dense.conv, dense.bn, pointwise.conv, pointwise.bn, self.identity)
        del self.conv1, self.conv2, self.identity
        return words

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RepConv")
        if self.fused is not None:
            return self.act(self.fused(x))
        y = self.conv1(x) + self.conv2(x)
        return self.act(y if self.identity is None else y + self.identity(x))


@register("repc3", reference=_REFERENCE, parameters=132096)
class RepC3(nn.Module):
    """A CSP stage whose main path is a chain of RepConvs: the sum of that path and a 1x1 path, projected if need be.

    Shape: (N, C_in, H, W) -> (N, C_out, H, W); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        n: number of RepConvs.
        e: width of both paths as a share of C_out; at 1 there is no projection behind them.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if a number is below 1, or int(out_channels * e) is.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, n: int = 3, e: float = 1.0, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, n=n)
        width = int(out_channels * e)
        if width < 1:
            raise ValueError(
                f"int(out_channels * e) must be at least 1, got out_channels={out_channels} and e={e}: use a larger e."
            )
        self.in_channels = in_channels
        self.cv1 = ConvNormAct(in_channels, width, act="silu", bn_eps=bn_eps)
        self.cv2 = ConvNormAct(in_channels, width, act="silu", bn_eps=bn_eps)
        self.m = nn.Sequential(*(RepConv(width, width, bn_eps=bn_eps) for _ in range(n)))
        self.cv3: nn.Module = nn.Identity()
        if width != out_channels:
            self.cv3 = ConvNormAct(width, out_channels, act="silu", bn_eps=bn_eps)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "RepC3")
        return self.cv3(self.m(self.cv1(x)) + self.cv2(x))
