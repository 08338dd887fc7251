"""Convolution and BatchNorm that become one convolution at inference.

Paper: Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift, ICML 2015,
    arXiv:1502.03167.
Official: the algebra of torch.nn.utils.fusion; grouped transposed kernels, which it refuses, derived by hand.
Export: fused by default, which leaves one Conv or ConvTranspose; attn_deploy.ops.fuse_conv_bn and fold_bn_ do it to
    layers that are not in the zoo. Computed in float64, so that the two forms differ by float rounding only.
Deviations: most collections build the fused layer without dilation and groups, which is wrong in silence where shapes
    still fit, and handle Conv2d only.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, fuse_conv_bn, require_convolution, require_not_negative
from attn_deploy.registry import register


@register(
    "fused_conv_bn",
    aliases=("fuse_bn", "conv_bn_fold"),
    reference={"in_channels": 64, "out_channels": 64},
    parameters=36992,
)
class ConvBN2d(Fusible, nn.Module):
    """A convolution, plain or transposed, then BatchNorm; one convolution once fused.

    Shape: (N, C, H, W) -> (N, out_channels, H', W') with the H' and W' of nn.Conv2d or nn.ConvTranspose2d; dynamic N,
    H, W.

    Args:
        in_channels: C.
        out_channels: channels of the output.
        kernel_size: of the convolution.
        stride: of the convolution.
        padding: None for dilation * (kernel_size // 2).
        dilation: of the convolution.
        groups: of the convolution.
        bias: whether the convolution has a bias of its own.
        transposed: nn.ConvTranspose2d in place of nn.Conv2d.
        output_padding: rows and columns added at the end; transposed only.
        bn_eps: of the BatchNorm.

    Raises:
        ValueError: if a channel count is not a multiple of groups, or output_padding is given without transposed.
    """

    official_keys = {"0": "conv", "1": "bn"}

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int | None = None,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = False,
        transposed: bool = False,
        output_padding: int = 0,
        bn_eps: float = 1e-5,
    ) -> None:
        super().__init__()
        require_convolution(
            in_channels, out_channels, groups, kernel_size=kernel_size, stride=stride, dilation=dilation
        )
        require_not_negative(padding=padding or 0, output_padding=output_padding)
        if output_padding and not transposed:
            raise ValueError(
                f"output_padding={output_padding} needs transposed=True, got transposed={transposed}: "
                "a plain convolution has no output padding."
            )
        self.in_channels = in_channels
        common = {
            "stride": stride,
            "padding": dilation * (kernel_size // 2) if padding is None else padding,
            "dilation": dilation,
            "groups": groups,
            "bias": bias,
        }
        self.conv: nn.Module
        if transposed:
            self.conv = nn.ConvTranspose2d(
                in_channels, out_channels, kernel_size, output_padding=output_padding, **common
            )
        else:
            self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, **common)
        self.bn: nn.Module = nn.BatchNorm2d(out_channels, eps=bn_eps)

    def fuse_(self) -> str | None:
        if isinstance(self.bn, nn.Identity):
            return None
        self.conv = fuse_conv_bn(self.conv, self.bn)
        self.bn = nn.Identity()
        return "folded BatchNorm into the convolution"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "ConvBN2d")
        return self.bn(self.conv(x))
