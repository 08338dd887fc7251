"""What `attn_deploy.exporters.pixels` describes, in torch operators that both exporters and TensorRT take."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from attn_deploy.exporters.pixels import Pixels

_GREY = 114.0  # of the borders of a letterbox, as detectors are trained with


def from_pixels(images: Tensor, pixels: Pixels, dtype: torch.dtype) -> Tensor:
    """Images of 0 to 255 as the model takes them.

    Bytes are cast before they are moved, since TensorRT moves no bytes.

    Args:
        images: (N, C, H, W) or (N, H, W, C).
        pixels: what is done.
        dtype: of the model.
    """
    x = images.to(dtype)
    if pixels.layout == "nhwc":
        x = x.permute(0, 3, 1, 2)
    if pixels.color == "bgr":
        x = torch.cat((x[:, 2:3], x[:, 1:2], x[:, 0:1]), 1)
    if pixels.size is not None:
        x = letterbox(x, pixels.size) if pixels.resize == "letterbox" else stretch(x, pixels.size)
    mean, std = (torch.tensor(v, dtype=dtype).reshape(1, -1, 1, 1) for v in (pixels.mean, pixels.std))
    return (x * pixels.scale - mean) / std


def stretch(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear to ``size``, pixel centres aligned and no smoothing, as OpenCV's INTER_LINEAR."""
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def letterbox(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear until one side fits and the other is not too long, in the middle of grey: (N, C, H, W) -> (N, C, *size).

    Sizes that depend on the image's are no numbers for an exporter, so each axis is a product with a matrix of
    interpolation weights, made from integers.
    """
    height, width = size
    rows, columns = _extent(x.shape[2], x), _extent(x.shape[3], x)
    new_rows = _fitted(rows, columns, width, height)
    new_columns = _fitted(columns, rows, height, width)
    down, inside_rows = _taps(rows, new_rows, x.shape[2], height, x)
    across, inside_columns = _taps(columns, new_columns, x.shape[3], width, x)
    resized = torch.matmul(torch.matmul(down, x), across.transpose(0, 1))
    inside = inside_rows.reshape(1, 1, -1, 1) * inside_columns.reshape(1, 1, 1, -1)
    return resized * inside + (1 - inside) * _GREY


def _extent(length: int, like: Tensor) -> Tensor:
    """The length of an axis as a tensor of one integer, whatever it is when the file runs."""
    return torch.arange(length, device=like.device).amax().reshape(1) + 1


def _fitted(side: Tensor, other: Tensor, other_limit: int, limit: int) -> Tensor:
    """``side * other_limit / other`` rounded to the nearest, at least 1 and at most ``limit``; exact in integers."""
    scaled = torch.div(side * (2 * other_limit) + other, other * 2, rounding_mode="trunc")
    return scaled.clamp(min=1, max=limit)


def _taps(old: Tensor, new: Tensor, length: int, limit: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Interpolation weights (limit, length) of one axis, and which of the ``limit`` places the image covers."""
    start = torch.div(limit - new, 2, rounding_mode="trunc").to(torch.float32)
    wide, narrow = old.to(torch.float32), new.to(torch.float32)
    place = torch.arange(limit, device=like.device, dtype=torch.float32) - start
    source = (place + 0.5) * wide / narrow - 0.5
    source = torch.minimum(source.clamp(min=0), wide - 1)
    taps = torch.arange(length, device=like.device).to(torch.float32)
    weights = (1 - (source.reshape(-1, 1) - taps.reshape(1, -1)).abs()).clamp(min=0)
    inside = (place >= 0) & (place < narrow)
    return weights.to(like.dtype), inside.to(like.dtype)
