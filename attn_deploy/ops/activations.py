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
    "silu": nn.SiLU,
    "gelu": nn.GELU,
    "mish": _Mish,
    "hardswish": nn.Hardswish,
    "sigmoid": nn.Sigmoid,
}


def activation(name: str | None) -> nn.Module:
    """A new activation layer; None gives nn.Identity.

    Raises:
        ValueError: if the name is unknown.
    """
    if name is None:
        return nn.Identity()
    require_activation("activation", name)
    return ACTIVATIONS[name]()


def require_activation(argument: str, name: str | None) -> None:
    """The name must be that of an activation, or None.

    Raises:
        ValueError: naming the argument and the choices.
    """
    if name is not None:
        require_choice(argument, name, ACTIVATIONS)
