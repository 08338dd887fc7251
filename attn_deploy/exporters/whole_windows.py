"""Pooling windows that are as large as the map, as ``F.avg_pool2d(x, (x.size(2), x.size(3)))`` has them.

A window in a graph is a constant; a mean or a maximum over an axis is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor

WORDS = "pooling over the whole map as a reduction"
POOLS: tuple[Callable[..., Any], ...] = (F.avg_pool2d, F.max_pool2d)

Window = tuple[bool, bool]


def whole_axes(args: Sequence[Any], keywords: Mapping[str, Any]) -> Window | None:
    """Along which of H and W the window is the map; None where the other axis has a window too, or anything is padded."""
    arguments = dict(zip(("input", "kernel_size", "stride", "padding"), args, strict=False)) | dict(keywords)
    x, kernel = arguments["input"], _pair(arguments["kernel_size"])
    stride = arguments.get("stride")
    steps = kernel if stride is None or stride == [] else _pair(stride)
    if any(_pair(arguments.get("padding", 0))) or any(n != 1 for n in _pair(arguments.get("dilation", 1))):
        return None
    if arguments.get("divisor_override") is not None or arguments.get("return_indices"):
        return None
    axes = [int(k) == int(n) for k, n in zip(kernel, x.shape[-2:], strict=True)]
    plain = all(whole or (int(k) == 1 and int(s) == 1) for whole, k, s in zip(axes, kernel, steps, strict=True))
    return (axes[0], axes[1]) if plain and any(axes) and max(map(int, kernel)) > 1 else None


def reduced(pool: Callable[..., Any], input: Tensor, axes: Window) -> Tensor:
    """The mean or the maximum over the axes that the window takes whole."""
    dims = [d for d, whole in zip((-2, -1), axes, strict=True) if whole]
    return input.mean(dims, keepdim=True) if pool is F.avg_pool2d else input.amax(dims, keepdim=True)


def common(runs: Sequence[Sequence[Window | None]]) -> dict[int, Window]:
    """For each call, by its order, the axes that its window takes whole in every run."""
    windows = {}
    for index, calls in enumerate(zip(*runs, strict=False)):
        axes = [all(c is not None and c[k] for c in calls) for k in (0, 1)]
        if any(axes) and all(c is not None for c in calls):
            windows[index] = (axes[0], axes[1])
    return windows


def _pair(value: Any) -> tuple[Any, Any]:
    return (value[0], value[-1]) if isinstance(value, (tuple, list)) else (value, value)
