"""Sizes of padded maps in a form that torch.export can go on with.

SAME padding computes its amounts from a map's size, layer after layer, and each size is an expression of the one before:
after five layers torch spends minutes on comparing them. What comes out of a SAME convolution of stride s is n/s rounded
up, whatever the amounts; `claim_size` says so to the trace, and writes nothing into the file. Whether it is true is
compared at the traced size here, and at others by the proof.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("attn_deploy::claim_size", mutates_args=())
def claim_size(x: Tensor, height: int, width: int) -> Tensor:
    """The map itself, of a size that is known in a simpler form.

    Args:
        x: (N, C, H, W).
        height: H.
        width: W.
    """
    return x.clone()


@claim_size.register_fake
def _(x: Tensor, height: int, width: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], height, width))


def rounded_up(x: Tensor, size: tuple[Any, Any], stride: tuple[int, int]) -> Tensor:
    """``x`` with the size that a SAME convolution gives for a map of ``size``; as it is where that is another one."""
    claimed = [(n + s - 1) // s for n, s in zip(size, stride, strict=True)]
    if [_hint(n) for n in claimed] != [_hint(n) for n in x.shape[2:]]:
        return x
    result: Tensor = claim_size(x, *claimed)
    return result


def _hint(extent: Any) -> int:
    """The number at the traced size."""
    return int(extent.node.hint) if isinstance(extent, torch.SymInt) else int(extent)


def translations() -> dict[Any, Any]:
    """What the torch.export exporter writes for it: nothing."""
    from onnxscript import opset18

    def identity(x: Any, height: Any, width: Any) -> Any:
        return opset18.Identity(x)

    return {torch.ops.attn_deploy.claim_size.default: identity}
