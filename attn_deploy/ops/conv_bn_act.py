"""Convolution, BatchNorm and activation under the names that most repositories give them: conv, bn, act."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from attn_deploy.ops.activations import activation


def conv_bn_act(
    in_channels: int,
    out_channels: int,
    kernel_size: int = 1,
    *,
    stride: int = 1,
    padding: int | None = None,
    groups: int = 1,
    act: str | None = None,
    bn_eps: float = 1e-5,
) -> nn.Sequential:
    """A convolution without bias as ``conv``, its BatchNorm as ``bn`` and, if named, an activation as ``act``.

    Args:
        in_channels: of the input.
        out_channels: of the output.
        kernel_size: of the square kernel.
        stride: step of the window.
        padding: zeros on every side; half the kernel by default.
        groups: groups of channels.
        act: name of the activation, or None.
        bn_eps: eps of the BatchNorm.
    """
    padding = kernel_size // 2 if padding is None else padding
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
    layers: OrderedDict[str, nn.Module] = OrderedDict(conv=conv, bn=nn.BatchNorm2d(out_channels, eps=bn_eps))
    if act is not None:
        layers["act"] = activation(act)
    return nn.Sequential(layers)
