"""Attention to regions, parts or pooled cells: asymmetric non-local, OCR, interaction and aggregation."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn


def conv_norm(in_channels: int, out_channels: int) -> list[nn.Module]:
    """A biasless 1x1 convolution and a nested (BatchNorm, ReLU), as the official code nests them."""
    return [nn.Conv2d(in_channels, out_channels, 1, bias=False), nn.Sequential(nn.BatchNorm2d(out_channels), nn.ReLU())]


class PSPModule(nn.Module):
    """Adaptive average pooling to several grids, one layer and one view for each."""

    def __init__(self, sizes: tuple[int, ...] = (1, 3, 6, 8)) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.AdaptiveAvgPool2d((n, n)) for n in sizes)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        return torch.cat([stage(x).view(batch, channels, -1) for stage in self.stages], -1)


class AsymmetricBlock(nn.Module):
    """The attention of APNB and AFNB: queries from the high map, pooled keys and values from the low one."""

    def __init__(self, low: int, high: int, out: int, inner: int, shared: bool) -> None:
        super().__init__()

        def embedding(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(width, inner, 1), nn.Sequential(nn.BatchNorm2d(inner), nn.ReLU()))

        self.inner = inner
        self.f_key = embedding(low)
        self.f_query = self.f_key if shared else embedding(high)
        self.f_value = nn.Conv2d(low, inner, 1)
        self.W = nn.Conv2d(inner, out, 1)
        self.psp = PSPModule()
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        batch, height, width = high.size(0), high.size(2), high.size(3)
        value = self.psp(self.f_value(low)).permute(0, 2, 1)
        query = self.f_query(high).view(batch, self.inner, -1).permute(0, 2, 1)
        key = self.psp(self.f_key(low))
        weights = F.softmax((self.inner**-0.5) * torch.matmul(query, key), dim=-1)
        context = torch.matmul(weights, value).permute(0, 2, 1).contiguous()
        return self.W(context.view(batch, self.inner, height, width))


class APNB(nn.Module):
    """Attention of a map to its own pyramid."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([AsymmetricBlock(channels, channels, channels, channels // 2, True)])
        self.conv_bn_dropout = nn.Sequential(
            nn.Conv2d(2 * channels, channels, 1),
            nn.Sequential(nn.BatchNorm2d(channels), nn.ReLU()),
            nn.Dropout2d(0.05),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.stages[0](x, x), x], 1))


class AFNB(nn.Module):
    """Attention of a high map to the pyramid of a low one."""

    def __init__(self, low: int, high: int, out: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList([AsymmetricBlock(low, high, out, high // 2, False)])
        self.conv_bn_dropout = nn.Sequential(nn.Conv2d(out + high, out, 1), nn.BatchNorm2d(out), nn.Dropout2d(0.05))

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        return self.conv_bn_dropout(torch.cat([self.stages[0](low, high), high], 1))


class SpatialGather(nn.Module):
    """OCR's soft regions."""

    def forward(self, feats: Tensor, logits: Tensor) -> Tensor:
        batch, classes = logits.size(0), logits.size(1)
        regions = F.softmax(1.0 * logits.view(batch, classes, -1), dim=2)
        feats = feats.view(batch, feats.size(1), -1).permute(0, 2, 1)
        return torch.matmul(regions, feats).permute(0, 2, 1).unsqueeze(3)


class ObjectAttention(nn.Module):
    """OCR's attention of pixels to regions."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.inner = inner
        self.f_pixel = nn.Sequential(*conv_norm(channels, inner), *conv_norm(inner, inner))
        self.f_object = nn.Sequential(*conv_norm(channels, inner), *conv_norm(inner, inner))
        self.f_down = nn.Sequential(*conv_norm(channels, inner))
        self.f_up = nn.Sequential(*conv_norm(inner, channels))

    def forward(self, x: Tensor, proxy: Tensor) -> Tensor:
        batch, height, width = x.size(0), x.size(2), x.size(3)
        query = self.f_pixel(x).view(batch, self.inner, -1).permute(0, 2, 1)
        key = self.f_object(proxy).view(batch, self.inner, -1)
        value = self.f_down(proxy).view(batch, self.inner, -1).permute(0, 2, 1)
        weights = F.softmax((self.inner**-0.5) * torch.matmul(query, key), dim=-1)
        context = torch.matmul(weights, value).permute(0, 2, 1).contiguous()
        return self.f_up(context.view(batch, self.inner, height, width))


class SpatialOCR(nn.Module):
    """Both, and the last convolution over context and features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gather = SpatialGather()
        self.object_context_block = ObjectAttention(channels, channels // 2)
        self.conv_bn_dropout = nn.Sequential(*conv_norm(2 * channels, channels), nn.Dropout2d(0.05))

    def forward(self, feats: Tensor, logits: Tensor) -> Tensor:
        context = self.object_context_block(feats, self.gather(feats, logits))
        return self.conv_bn_dropout(torch.cat([context, feats], 1))


class IABlock(nn.Module):
    """Interaction and aggregation, bound to one map size by a stored matrix of distances."""

    def __init__(self, channels: int, height: int, width: int, alpha_x: float = 10.0, alpha_y: float = 20.0) -> None:
        super().__init__()
        self.channels = channels
        row, column = np.divmod(np.arange(height * width), width)
        across = (column[:, None] - column) ** 2 / (2 * alpha_x**2)
        down = (row[:, None] - row) ** 2 / (2 * alpha_y**2)
        self.distance = torch.from_numpy(-(across + down)).float()
        self.W1, self.W2 = nn.BatchNorm2d(channels), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = self.aggregate_positions(x)
        batch, channels, height, width = x.size()
        rows = x.view(batch, channels, -1)
        weights = F.softmax(torch.bmm(rows, rows.permute(0, 2, 1)), dim=2)
        return self.W2(torch.bmm(weights, rows).view(batch, channels, height, width)) + x

    def aggregate_positions(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        columns = x.view(batch, channels, -1)
        similar = F.softmax(torch.bmm(columns.permute(0, 2, 1), columns) / (self.channels**0.5), dim=2)
        near = F.softmax(self.distance.to(x).unsqueeze(0).expand(batch, height * width, height * width), dim=2)
        both = torch.cat([similar.unsqueeze(1), near.unsqueeze(1)], dim=1).prod(dim=1)
        mixed = torch.bmm(F.softmax(both, dim=2), columns.permute(0, 2, 1)).permute(0, 2, 1).contiguous()
        return self.W1(mixed.view(batch, channels, height, width)) + x
