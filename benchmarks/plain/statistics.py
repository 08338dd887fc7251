"""Gates from statistics of channels, and gates that hardly need any: written as they are commonly written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SimAM(nn.Module):
    """SimAM: the energy of each position from squared deviations."""

    def forward(self, x: Tensor) -> Tensor:
        _, _, height, width = x.size()
        n = width * height - 1
        deviation = (x - x.mean(dim=[2, 3], keepdim=True)).pow(2)
        energy = deviation / (4 * (deviation.sum(dim=[2, 3], keepdim=True) / n + 1e-4)) + 0.5
        return x * torch.sigmoid(energy)


class SRM(nn.Module):
    """Style recalibration: mean and standard deviation stacked, weighted by channel, normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cfc = nn.Parameter(torch.randn(channels, 2))
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        flat = x.view(batch, channels, -1)
        mean = flat.mean(dim=2, keepdim=True)
        deviation = (flat.var(dim=2, keepdim=True) + 1e-5).sqrt()
        style = torch.cat((mean, deviation), dim=2)
        z = torch.sum(style * self.cfc[None, :, :], dim=2)[:, :, None, None]
        return x * torch.sigmoid(self.bn(z))


class GCT(nn.Module):
    """Gated channel transformation with the l2 norm."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.gamma = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        embedding = (x.pow(2).sum((2, 3), keepdim=True) + 1e-5).pow(0.5) * self.alpha
        norm = self.gamma / (embedding.pow(2).mean(dim=1, keepdim=True) + 1e-5).pow(0.5)
        return x * (1.0 + torch.tanh(embedding * norm + self.beta))


class _ChannelNAM(nn.Module):
    def __init__(self, channels: int, data: bool) -> None:
        super().__init__()
        self.bn2, self.data = nn.BatchNorm2d(channels), data

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(x)
        gamma = self.bn2.weight.data if self.data else self.bn2.weight
        weight = gamma.abs() / torch.sum(gamma.abs())
        y = torch.mul(weight, y.permute(0, 2, 3, 1).contiguous()).permute(0, 3, 1, 2).contiguous()
        return torch.sigmoid(y) * x


class NAM(nn.Module):
    """Normalisation-based attention: the map is permuted so that channels are weighted along the last axis.

    Args:
        channels: of the map.
        data: read the weight through ``.data``, as the published code does; the torch.export exporter does not survive it.
    """

    def __init__(self, channels: int, data: bool = False) -> None:
        super().__init__()
        self.Channel_Att = _ChannelNAM(channels, data)

    def forward(self, x: Tensor) -> Tensor:
        return self.Channel_Att(x)


class EffectiveSE(nn.Module):
    """Effective squeeze-excitation: one 1x1 convolution on the pooled vector, hard sigmoid by ReLU6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * (F.relu6(self.fc(self.avg_pool(x)) + 3.0) / 6.0)


class GRN(nn.Module):
    """Global response normalisation on channels-last tokens, between two permutations of the map."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, channels))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, channels))

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        norm = torch.norm(x, p=2, dim=(1, 2), keepdim=True)
        scale = norm / (norm.mean(dim=-1, keepdim=True) + 1e-6)
        return (self.gamma * (x * scale) + self.beta + x).permute(0, 3, 1, 2)


class GAM(nn.Module):
    """Global attention mechanism: linear layers on permuted maps, then two 7x7 convolutions."""

    def __init__(self, channels: int, rate: int = 4) -> None:
        super().__init__()
        hidden = channels // rate
        self.linear1, self.linear2 = nn.Linear(channels, hidden), nn.Linear(hidden, channels)
        self.conv1, self.norm1 = nn.Conv2d(channels, hidden, 7, padding=3), nn.BatchNorm2d(hidden)
        self.conv2, self.norm2 = nn.Conv2d(hidden, channels, 7, padding=3), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.permute(0, 2, 3, 1).view(batch, -1, channels)
        gate = self.linear2(F.relu(self.linear1(tokens))).view(batch, height, width, channels).permute(0, 3, 1, 2)
        x = x * gate
        spatial = F.relu(self.norm1(self.conv1(x)))
        return x * self.norm2(self.conv2(spatial)).sigmoid()


class ParNetAttention(nn.Module):
    """ParNet's three branches, as the popular re-implementation has them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.sse = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1), nn.Sigmoid())
        self.conv1x1 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.conv3x3 = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.conv1x1(x) + self.conv3x3(x) + self.sse(x) * x)


class _SEWeight(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, channels // 16, 1), nn.Conv2d(channels // 16, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.fc2(F.relu(self.fc1(self.avg_pool(x)))))


class PyramidSqueeze(nn.Module):
    """EPSA: four convolutions, one shared gate, a softmax over branches, and the joined parts one at a time."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.quarter = fan_out // 4
        for number, (kernel, groups) in enumerate(zip((3, 5, 7, 9), (1, 4, 8, 16), strict=True), 1):
            conv = nn.Conv2d(fan_in, self.quarter, kernel, padding=kernel // 2, groups=groups, bias=False)
            setattr(self, f"conv_{number}", conv)
        self.se = _SEWeight(self.quarter)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        parts = [self.conv_1(x), self.conv_2(x), self.conv_3(x), self.conv_4(x)]
        features = torch.cat(parts, dim=1)
        features = features.view(batch, 4, self.quarter, features.shape[2], features.shape[3])
        weights = torch.cat([self.se(p) for p in parts], dim=1).view(batch, 4, self.quarter, 1, 1).softmax(dim=1)
        weighted = features * weights
        out = weighted[:, 0, :, :]
        for number in range(1, 4):
            out = torch.cat((weighted[:, number, :, :], out), 1)
        return out
