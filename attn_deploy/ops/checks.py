"""Argument checks with one wording: what was given, what is needed, how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def require_positive(**values: int) -> None:
    """Each value must be an integer of at least 1.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be an integer of at least 1, got {value!r}.")


def require_not_negative(**values: int) -> None:
    """Each value must be an integer of at least 0.

    Raises:
        ValueError: naming the argument.
    """
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise ValueError(f"{name} must be an integer of at least 0, got {value!r}.")


def require_odd(**values: int) -> None:
    """Each value must be a positive odd integer (a kernel with a centre).

    Raises:
        ValueError: naming the argument.
    """
    require_positive(**values)
    for name, value in values.items():
        if value % 2 == 0:
            raise ValueError(f"{name} must be odd, got {value}: use {value - 1 or 1} or {value + 1}.")


def require_divisible(name: str, value: int, by_name: str, by: int) -> None:
    """``value`` must be a multiple of ``by``.

    Raises:
        ValueError: naming both arguments and both values.
    """
    if by < 1 or value % by:
        near = max(by, round(value / by) * by) if by >= 1 else value
        raise ValueError(
            f"{name} must be a multiple of {by_name}, got {name}={value} and {by_name}={by}: use {name}={near}, "
            f"or a {by_name} that divides {value}."
        )


def require_convolution(in_channels: int, out_channels: int, groups: int, **values: int) -> None:
    """Channels must be positive multiples of the groups of a convolution, and each other value at least 1.

    Raises:
        ValueError: naming the argument.
    """
    require_positive(in_channels=in_channels, out_channels=out_channels, groups=groups, **values)
    require_divisible("in_channels", in_channels, "groups", groups)
    require_divisible("out_channels", out_channels, "groups", groups)


def require_reduced(channels: int, reduction: int, *, name: str = "channels") -> int:
    """The reduced width ``channels // reduction``, which must be at least 1.

    Raises:
        ValueError: naming both arguments and both values.
    """
    require_positive(**{name: channels, "reduction": reduction})
    if channels // reduction < 1:
        raise ValueError(
            f"{name} // reduction must be at least 1, got {name}={channels} and reduction={reduction}: "
            f"use a reduction of at most {channels}."
        )
    return channels // reduction


def require_multiple(name: str, value: int, of: int, why: str) -> None:
    """``value`` must be a multiple of a constant of the method.

    Raises:
        ValueError: naming the argument, the constant, its reason and the next value that fits.
    """
    if value % of:
        raise ValueError(f"{name} must be a multiple of {of}, got {value}: {why}. Use {-(-value // of) * of}.")


def require_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """``value`` must be one of ``choices``.

    Raises:
        ValueError: listing the choices.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}.")


def is_traced() -> bool:
    """Whether a graph is being captured, so that shapes are symbols and no Python decision may be taken on them."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore[attr-defined, no-untyped-call]


def check_channels(x: Tensor, channels: int, owner: str) -> None:
    """The input must be (N, channels, H, W); checked in eager mode only, since a traced shape is not a number.

    Raises:
        ValueError: naming the module, the expected and the given shape.
    """
    if is_traced():
        return
    if x.dim() != 4 or x.shape[1] != channels:
        raise ValueError(
            f"{owner}: expected an input of shape (N, {channels}, H, W), got {tuple(x.shape)}: "
            f"construct it with the channel count of its input."
        )


def check_map(x: Tensor, owner: str) -> None:
    """The input must have four axes, of any length: for modules whose weights do not depend on the channel count.

    Raises:
        ValueError: naming the module and the given shape.
    """
    if not is_traced() and x.dim() != 4:
        raise ValueError(f"{owner}: expected an input of shape (N, C, H, W), got {tuple(x.shape)}.")
