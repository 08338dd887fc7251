"""ONNX's operator DeformConv, of opset 19, from either exporter; PyTorch itself has no such operator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

LEAST_OPSET = 19


def is_exported() -> bool:
    """Whether a graph for a file is being captured, by torch.export or by tracing."""
    return bool(torch.compiler.is_exporting() or torch.onnx.is_in_onnx_export())


def deform_conv_operator(
    x: Tensor,
    weight: Tensor,
    offset: Tensor,
    bias: Tensor | None,
    mask: Tensor,
    *,
    stride: int,
    padding: int,
    dilation: int,
    groups: int,
    deform_groups: int,
) -> Tensor:
    """The node DeformConv, while a model is exported; there are no values in it.

    Args:
        x: (N, C_in, H, W).
        weight: (C_out, C_in / groups, k, k).
        offset: (N, deform_groups * k * k * 2, H', W'), rows before columns.
        bias: C_out values, or None.
        mask: (N, deform_groups * k * k, H', W').
        stride: step of the window.
        padding: zeros on every side.
        dilation: distance of the taps.
        groups: groups of channels.
        deform_groups: groups of channels with offsets of their own.
    """
    bias = weight.new_zeros(weight.shape[0]) if bias is None else bias
    attributes: dict[str, Any] = {
        "kernel_shape": list(weight.shape[2:]),
        "strides": [stride] * 2,
        "pads": [padding] * 4,
        "dilations": [dilation] * 2,
        "group": groups,
        "offset_group": deform_groups,
    }
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]
        apply: Any = _DeformConv.apply
        output: Tensor = apply(x, weight, offset, bias, mask, attributes)
        return output
    shape = (x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])
    return torch.onnx.ops.symbolic(
        "DeformConv", (x, weight, offset, bias, mask), attributes, dtype=x.dtype, shape=shape, version=LEAST_OPSET
    )


class _DeformConv(torch.autograd.Function):
    """The node for the TorchScript exporter, which asks a Function for its symbol."""

    @staticmethod
    def symbolic(g: Any, *arguments: Any) -> Any:
        if g.opset < LEAST_OPSET:
            raise ValueError(
                f"sampling='deform_conv' needs opset {LEAST_OPSET}, where the operator DeformConv enters, got opset "
                f"{g.opset}: export at {LEAST_OPSET} or above, or use sampling='gather'."
            )
        *tensors, attributes = arguments
        names = {k: f"{k}_i" for k in attributes}
        return g.op("DeformConv", *tensors, **{names[k]: v for k, v in attributes.items()})

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, offset: Tensor, bias: Tensor, mask: Tensor, _: Any) -> Tensor:
        return x.new_zeros(x.shape[0], weight.shape[0], offset.shape[2], offset.shape[3])
