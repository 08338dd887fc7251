"""RepLKNet: a very large depthwise kernel trained beside a small one, and the two blocks that the network stacks.

Paper: Scaling Up Your Kernels to 31x31: Revisiting Large Kernel Design in CNNs, CVPR 2022, arXiv:2203.06717.
Official: DingXiaoH/RepLKNet-pytorch, replknet.py (ReparamLargeKernelConv, RepLKBlock, ConvFFN).
Export: fused, the small kernel is added onto the centre of the large one, and the BatchNorm before the first 1x1
    convolution is folded into it, which is exact because it does not pad. Equal up to rounding.
Deviations: the official class takes its CUDA kernel for large depthwise convolutions by an environment variable; PyTorch's
    own convolution gives the same numbers.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import (
    DropPath,
    Fusible,
    add_parallel_conv_,
    check_channels,
    conv_bn_act,
    fold_bn_before_conv,
    fold_bn_into_conv,
    fold_sequential,
    require_convolution,
    require_odd,
    require_positive,
)
from attn_deploy.registry import register


@register(
    "replk_reparam_conv",
    aliases=("reparam_large_kernel_conv", "large_kernel_conv"),
    reference={"in_channels": 64, "out_channels": 64, "kernel_size": 31, "small_kernel": 5},
    parameters=63360,
)
class ReparamLargeKernelConv(Fusible, nn.Module):
    """The sum of a large and a small convolution, each with its own BatchNorm.

    Shape: (N, C_in, H, W) -> (N, C_out, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: of the large kernel.
        stride: step of both.
        groups: groups of channels; None is C_in, for depthwise kernels.
        small_kernel: of the small kernel; None leaves it out.

    Raises:
        ValueError: if a kernel is even, small_kernel exceeds kernel_size, or groups does not divide the channels.
    """

    official_keys = {
        "lkb_origin.conv": "large.0",
        "lkb_origin.bn": "large.1",
        "small_conv.conv": "small.0",
        "small_conv.bn": "small.1",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int,
        stride: int = 1,
        groups: int | None = None,
        small_kernel: int | None = None,
    ) -> None:
        super().__init__()
        groups = in_channels if groups is None else groups
        require_convolution(in_channels, out_channels, groups, stride=stride)
        require_odd(kernel_size=kernel_size)
        if small_kernel is not None:
            require_odd(small_kernel=small_kernel)
            if small_kernel > kernel_size:
                raise ValueError(
                    f"small_kernel must be at most kernel_size, got small_kernel={small_kernel} and "
                    f"kernel_size={kernel_size}: use small_kernel=5, or None to leave it out."
                )
        self.in_channels = in_channels

        def branch(kernel: int) -> nn.Sequential:
            return conv_bn_act(in_channels, out_channels, kernel, stride=stride, groups=groups)

        self.large: nn.Module = branch(kernel_size)
        self.small: nn.Module | None = None if small_kernel is None else branch(small_kernel)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ReparamLargeKernelConv")
        y = self.large(x)
        return y if self.small is None else y + self.small(x)

    def fuse_(self) -> str | None:
        """Fold both BatchNorms, then add the small kernel onto the centre of the large one."""
        if not isinstance(self.large, nn.Sequential):
            return None
        merged = fold_bn_into_conv(*self.large)
        if self.small is not None:
            add_parallel_conv_(merged, fold_bn_into_conv(*self.small))
        self.large, self.small = merged, None
        return "merged the large and the small kernel into one convolution"


@register(
    "replk_block",
    aliases=("replk", "replknet_block"),
    reference={"channels": 64, "kernel_size": 31},
    parameters=71936,
)
class RepLKBlock(Fusible, nn.Module):
    """Filters each channel by a very large kernel between two 1x1 convolutions, around a skip.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        dw_channels: width of the large kernel's maps; None is C.
        kernel_size: of the large kernel.
        small_kernel: of the small kernel beside it; None leaves it out.
        drop_path: share of the samples whose branch is left out in training.

    Raises:
        ValueError: if a kernel is even, small_kernel exceeds kernel_size, a number is below 1, or drop_path is not a rate.
    """

    official_keys = {
        "pw1.conv": "widen.0",
        "pw1.bn": "widen.1",
        "pw2.conv": "narrow.0",
        "pw2.bn": "narrow.1",
        "large_kernel.lkb_origin.conv": "large_kernel.large.0",
        "large_kernel.lkb_origin.bn": "large_kernel.large.1",
        "large_kernel.small_conv.conv": "large_kernel.small.0",
        "large_kernel.small_conv.bn": "large_kernel.small.1",
        "prelkb_bn": "norm",
    }

    def __init__(
        self,
        channels: int,
        *,
        dw_channels: int | None = None,
        kernel_size: int = 31,
        small_kernel: int | None = 5,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        width = channels if dw_channels is None else dw_channels
        require_positive(channels=channels, dw_channels=width)
        self.channels = channels
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.widen = conv_bn_act(channels, width, act="relu")
        self.large_kernel = ReparamLargeKernelConv(
            width, width, kernel_size=kernel_size, groups=width, small_kernel=small_kernel
        )
        self.act = nn.ReLU()
        self.narrow = conv_bn_act(width, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "RepLKBlock")
        y = self.act(self.large_kernel(self.widen(self.norm(x))))
        return x + self.drop_path(self.narrow(y))

    def fuse_(self) -> str | None:
        """Fold the first BatchNorm into the 1x1 convolution after it."""
        return _fold_leading_norm_(self, self.widen)


@register("replk_ffn", aliases=("conv_ffn", "replknet_ffn"), parameters=33536)
class ConvFFN(Fusible, nn.Module):
    """A widened pair of 1x1 convolutions with BatchNorm before and after each, around a skip.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        hidden_channels: width of the middle; None is 4 * C.
        drop_path: share of the samples whose branch is left out in training.

    Raises:
        ValueError: if a number is below 1, or drop_path is not a rate.
    """

    official_keys = {
        "preffn_bn": "norm",
        "pw1.conv": "widen.0",
        "pw1.bn": "widen.1",
        "pw2.conv": "narrow.0",
        "pw2.bn": "narrow.1",
    }

    def __init__(self, channels: int, *, hidden_channels: int | None = None, drop_path: float = 0.0) -> None:
        super().__init__()
        require_positive(channels=channels)
        width = 4 * channels if hidden_channels is None else hidden_channels
        require_positive(hidden_channels=width)
        self.channels = channels
        self.norm: nn.Module = nn.BatchNorm2d(channels)
        self.widen = conv_bn_act(channels, width, act="gelu")
        self.narrow = conv_bn_act(width, channels)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ConvFFN")
        return x + self.drop_path(self.narrow(self.widen(self.norm(x))))

    def fuse_(self) -> str | None:
        """Fold the first BatchNorm into the 1x1 convolution after it."""
        return _fold_leading_norm_(self, self.widen)


def _fold_leading_norm_(block: RepLKBlock | ConvFFN, layers: nn.Sequential) -> str | None:
    if isinstance(block.norm, nn.Identity):
        return None
    fold_sequential(layers)
    layers[0] = fold_bn_before_conv(block.norm, layers[0])
    block.norm = nn.Identity()
    return "folded the leading BatchNorm into the 1x1 convolution after it"
