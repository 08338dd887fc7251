"""Blocks that select among branches or fuse maps: SK, split attention, self-calibration, MS-CAM, AFF, DCANet."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .gates import ConvNorm


class SelectiveKernel(nn.Module):
    """SK with its branches stacked, weighted and summed."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        inner = max(channels // 16, 32)
        self.channels = channels
        for i in (1, 2):
            conv = nn.Conv2d(channels, channels, 3, padding=i, dilation=i, groups=groups, bias=False)
            self.add_module(f"conv_d{i}", conv)
            self.add_module(f"bn_d{i}", nn.BatchNorm2d(channels))
        self.gap = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn_fc1 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, 2 * channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        maps = [F.relu(self.bn_d1(self.conv_d1(x))), F.relu(self.bn_d2(self.conv_d2(x)))]
        stacked = torch.stack(maps, dim=1)
        pooled = self.gap(stacked.sum(dim=1))
        logits = self.fc2(F.relu(self.bn_fc1(self.fc1(pooled))))
        weights = torch.softmax(logits.view(logits.size(0), 2, self.channels, 1, 1), dim=1)
        return (stacked * weights).sum(dim=1)


class SplitAttention(nn.Module):
    """ResNeSt's convolution with radix 2: split, sum, pool, softmax over the splits."""

    def __init__(self, channels: int, radix: int = 2) -> None:
        super().__init__()
        inner = max(channels * radix // 4, 32)
        self.radix = radix
        self.conv = nn.Conv2d(channels, channels * radix, 3, padding=1, groups=radix, bias=False)
        self.bn0 = nn.BatchNorm2d(channels * radix)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.bn1 = nn.BatchNorm2d(inner)
        self.fc2 = nn.Conv2d(inner, channels * radix, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn0(self.conv(x)))
        batch, width = x.shape[:2]
        splits = torch.split(x, int(width) // self.radix, dim=1)
        gap = F.adaptive_avg_pool2d(sum(splits), 1)
        logits = self.fc2(F.relu(self.bn1(self.fc1(gap))))
        weights = F.softmax(logits.view(batch, 1, self.radix, -1).transpose(1, 2), dim=1).reshape(batch, -1)
        parts = torch.split(weights.view(batch, -1, 1, 1), int(width) // self.radix, dim=1)
        return sum(part * split for part, split in zip(parts, splits, strict=True)).contiguous()


class SelfCalibrated(nn.Module):
    """SCNet's convolution, with nearest interpolation to the size of the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()

        def conv() -> list[nn.Module]:
            return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels)]

        self.k2 = nn.Sequential(nn.AvgPool2d(kernel_size=4, stride=4), *conv())
        self.k3 = nn.Sequential(*conv())
        self.k4 = nn.Sequential(*conv())

    def forward(self, x: Tensor) -> Tensor:
        gate = torch.sigmoid(torch.add(x, F.interpolate(self.k2(x), x.size()[2:])))
        return self.k4(torch.mul(self.k3(x), gate))


class SCBottleneck(nn.Module):
    """SCNet's residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4 // 2
        self.conv1_a = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1_a = nn.BatchNorm2d(inner)
        self.k1 = nn.Sequential(nn.Conv2d(inner, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner))
        self.conv1_b = nn.Conv2d(channels, inner, 1, bias=False)
        self.bn1_b = nn.BatchNorm2d(inner)
        self.scconv = SelfCalibrated(inner)
        self.conv3 = nn.Conv2d(2 * inner, channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.k1(F.relu(self.bn1_a(self.conv1_a(x)))))
        b = F.relu(self.scconv(F.relu(self.bn1_b(self.conv1_b(x)))))
        return F.relu(self.bn3(self.conv3(torch.cat([a, b], dim=1))) + x)


def attention_branch(channels: int, inner: int, pooled: bool) -> nn.Sequential:
    """One branch of MS-CAM; the pooled one begins with the pooling."""
    layers = [nn.Conv2d(channels, inner, 1), nn.BatchNorm2d(inner), nn.ReLU()]
    layers += [nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels)]
    return nn.Sequential(*([nn.AdaptiveAvgPool2d(1)] if pooled else []), *layers)


class MSCAM(nn.Module):
    """MS-CAM."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.local_att = attention_branch(channels, channels // reduction, pooled=False)
        self.global_att = attention_branch(channels, channels // reduction, pooled=True)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.local_att(x) + self.global_att(x))


class AFF(MSCAM):
    """AFF: both maps weighted, and doubled."""

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        total = x + residual
        weight = torch.sigmoid(self.local_att(total) + self.global_att(total))
        return 2 * x * weight + 2 * residual * (1 - weight)


class IAFF(MSCAM):
    """AFF twice, without the factor."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__(channels, reduction)
        self.local_att2 = attention_branch(channels, channels // reduction, pooled=False)
        self.global_att2 = attention_branch(channels, channels // reduction, pooled=True)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        total = x + residual
        weight = torch.sigmoid(self.local_att(total) + self.global_att(total))
        first = x * weight + residual * (1 - weight)
        weight = torch.sigmoid(self.local_att2(first) + self.global_att2(first))
        return x * weight + residual * (1 - weight)


class ConnectedSE(nn.Module):
    """DCANet's SE: both vectors stacked as the channels of a small map, a 2-to-1 convolution, LayerNorm."""

    def __init__(self, channels: int, connected: bool) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // 16), nn.ReLU(), nn.Linear(channels // 16, channels), nn.Sigmoid()
        )
        if connected:
            self.conv = nn.Sequential(nn.Conv2d(2, 1, 1), nn.LayerNorm(channels), nn.ReLU())

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, channels, _, _ = x.size()
        gap = self.avg_pool(x).view(batch, channels)
        joined = gap
        if previous is not None:
            stacked = torch.cat((gap.view(batch, 1, 1, channels), previous.view(batch, 1, 1, channels)), dim=1)
            joined = self.conv(stacked).view(batch, channels)
        attention = self.fc(joined)
        return x * attention.view(batch, channels, 1, 1), gap * attention


class ConnectedContext(nn.Module):
    """DCANet's GC."""

    def __init__(self, channels: int, connected: bool) -> None:
        super().__init__()
        planes = channels // 16
        if connected:
            self.weight = nn.Parameter(torch.zeros(1))
        self.conv_mask = nn.Conv2d(channels, 1, 1)
        self.softmax = nn.Softmax(dim=2)
        self.channel_add_conv = nn.Sequential(
            nn.Conv2d(channels, planes, 1), nn.LayerNorm([planes, 1, 1]), nn.ReLU(), nn.Conv2d(planes, channels, 1)
        )

    def forward(self, x: Tensor, previous: Tensor | None = None) -> tuple[Tensor, Tensor]:
        batch, channels, height, width = x.size()
        values = x.view(batch, channels, height * width).unsqueeze(1)
        mask = self.softmax(self.conv_mask(x).view(batch, 1, height * width)).unsqueeze(3)
        context = torch.matmul(values, mask).view(batch, channels, 1, 1)
        if previous is not None:
            context = context + self.weight * previous
        term = self.channel_add_conv(context)
        return x + term, term


class ConnectedChannelGate(nn.Module):
    """DCANet's channel gate of CBAM: poolings with a kernel of the whole map, of this map and the adapted previous one."""

    def __init__(self, channels: int, previous: int) -> None:
        super().__init__()
        inner = channels // 16
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))
        if previous:
            self.att_fc = nn.Sequential(nn.Conv2d(previous, channels, 1), nn.BatchNorm2d(channels), nn.ReLU())
            self.alpha = nn.Sequential(nn.Conv2d(2, 1, 1, bias=False), nn.LayerNorm(channels), nn.ReLU())

    def forward(self, x: Tensor, previous: Tensor | None) -> Tensor:
        batch, channels = x.size(0), x.size(1)
        adapted = None if previous is None else self.att_fc(previous)
        gate = 0
        for pool in (F.avg_pool2d, F.max_pool2d):
            pooled = pool(x, (x.size(2), x.size(3)))
            if adapted is not None:
                before = pool(adapted, (adapted.size(2), adapted.size(3)))
                stacked = torch.cat((pooled.view(batch, 1, 1, channels), before.view(batch, 1, 1, channels)), dim=1)
                pooled = self.alpha(stacked).view(batch, channels, 1, 1)
            gate = gate + self.mlp(pooled)
        return x * torch.sigmoid(gate).unsqueeze(2).unsqueeze(3).expand_as(x)


class ConnectedSpatialGate(nn.Module):
    """DCANet's spatial gate of CBAM."""

    def __init__(self, ratio: int, connected: bool) -> None:
        super().__init__()
        self.ratio = ratio
        self.spatial = ConvNorm()
        if connected:
            self.p1, self.p2 = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))
            self.bnrelu = nn.Sequential(nn.BatchNorm2d(2), nn.ReLU())

    @staticmethod
    def compress(x: Tensor) -> Tensor:
        return torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)

    def forward(self, x: Tensor, previous: Tensor | None) -> Tensor:
        view = self.compress(x)
        if previous is not None:
            before = self.compress(F.avg_pool2d(previous, self.ratio, stride=self.ratio))
            view = self.bnrelu(self.p1 * view + self.p2 * before)
        return x * torch.sigmoid(self.spatial(view))


class ConnectedCBAM(nn.Module):
    """DCANet's CBAM."""

    def __init__(self, channels: int, previous: int = 0, ratio: int = 1) -> None:
        super().__init__()
        self.ChannelGate = ConnectedChannelGate(channels, previous)
        self.SpatialGate = ConnectedSpatialGate(ratio, bool(previous))

    def forward(
        self, x: Tensor, previous_channel: Tensor | None = None, previous_spatial: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        gated = self.ChannelGate(x, previous_channel)
        y = self.SpatialGate(gated, previous_spatial)
        return y, gated, y
