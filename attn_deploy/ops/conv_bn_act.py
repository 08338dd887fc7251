"""Convolution, BatchNorm and activation under the names that most repositories give them: conv, bn, act."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from attn_deploy.ops.activations import activation
"""Convolution, BatchNorm and an activation chosen by name, as most mobile blocks stack them."""
from collections.abc import Callable
from attn_deploy.ops.checks import require_choice
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "hardswish": nn.Hardswish,
}
def activation(name: str, *, argument: str = "act") -> nn.Module:
    """A new activation layer: "relu", "relu6", "silu", "gelu" or "hardswish".
    Raises:
        ValueError: naming the argument and the choices.
    """
    require_choice(argument, name, ACTIVATIONS)
    return ACTIVATIONS[name]()


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
    kernel_size: int | tuple[int, int] = 1,
    dilation: int = 1,
    bias: bool = False,
    """Convolution, BatchNorm and (if named) an activation, 'same' padding by default; folds as one layer.
    Raises:
        ValueError: if the activation is unknown.
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
