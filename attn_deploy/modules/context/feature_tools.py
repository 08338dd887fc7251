"""Descriptors of a whole feature map: flattened, averaged, or as a Gram matrix.

Paper: Image Style Transfer Using Convolutional Neural Networks, CVPR 2016 (the Gram matrix); Context Encoding for
    Semantic Segmentation, arXiv:1803.08904 (the code).
Official: zhanghang1989/PyTorch-Encoding (GramMatrix, GlobalAvgPool2d), ultralytics/yolov3, utils/layers.py (Flatten).
Export: the batch stays symbolic, since shapes are never turned into numbers. The Gram matrix divides its factors by H
    and W before the product, where fp16 would overflow after it. Equal up to rounding.
Deviations: collections use .view(batch, -1), which fails for channels-last tensors and bakes the batch into the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.registry import Input, register

_MAP = (Input("x", ("N", 64, "H", "W")),)


@register("flatten", reference={}, parameters=0, inputs=_MAP)
class Flatten(nn.Module):
    """Lays out everything but the batch in one axis.

    Shape: (N, C, H, W) -> (N, C H W); dynamic N, H, W.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)


@register("global_avg_pool", reference={}, parameters=0, inputs=_MAP)
class GlobalAvgPool2d(nn.Module):
    """Averages each channel over the whole map.

    Shape: (N, C, H, W) -> (N, C); dynamic N, H, W.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


@register("gram_matrix", reference={}, parameters=0, inputs=_MAP)
class GramMatrix(nn.Module):
    """Correlates every pair of channels over the map: F F^T / (C H W).

    Shape: (N, C, H, W) -> (N, C, C); dynamic N, H, W.
    """

    def __init__(self) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        left = (x / x.shape[2]).flatten(2)
        right = (x / x.shape[3]).flatten(2)
        return torch.matmul(left, right.transpose(1, 2)) / x.shape[1]
