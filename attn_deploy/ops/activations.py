"""Activations by name, for modules that leave the choice to the caller."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops.checks import require_choice


class _Mish(nn.Module):
    """Mish as Softplus, Tanh and Mul, one graph for every opset."""

    def forward(self, x: Tensor) -> Tensor:
        return x * F.softplus(x).tanh()


ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": lambda: nn.LeakyReLU(0.1),  # the slope of detection networks
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": _Mish,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
}


def activation(name: str | None, *, argument: str = "act") -> nn.Module:
    """A new activation layer; None gives nn.Identity.

    Raises:
        ValueError: naming the argument and the choices, if the name is unknown.
    """
    require_activation(argument, name)
    return nn.Identity() if name is None else ACTIVATIONS[name]()


def require_activation(argument: str, name: str | None) -> None:
    """The name must be that of an activation, or None.

    Raises:
        ValueError: naming the argument and the choices.
    """
    if name is not None:
        require_choice(argument, name, ACTIVATIONS)
