"""Convolution, BatchNorm and an activation chosen by name, as most mobile blocks stack them."""

from __future__ import annotations

from torch import nn

from attn_deploy.ops.activations import activation


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    bias: bool = False,
    act: str | None = None,
    bn_eps: float = 1e-5,
) -> nn.Sequential:
    """Convolution, BatchNorm and (if named) an activation, 'same' padding by default; folds as one layer.

    Raises:
        ValueError: if the activation is unknown.
    """
    height, width = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    same = (dilation * (height // 2), dilation * (width // 2))
    layers: list[nn.Module] = [
        nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=same if padding is None else padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
        ),
        nn.BatchNorm2d(out_channels, eps=bn_eps),
    ]
    return nn.Sequential(*layers) if act is None else nn.Sequential(*layers, activation(act))


def conv_bn_relu(
    in_channels: int,
    out_channels: int,
    kernel_size: int | tuple[int, int] = 1,
    *,
    stride: int = 1,
    padding: int | None = None,
    dilation: int = 1,
    groups: int = 1,
    relu: bool = True,
) -> nn.Sequential:
    """`conv_bn_act` without bias, with ReLU if asked."""
    return conv_bn_act(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        act="relu" if relu else None,
    )
