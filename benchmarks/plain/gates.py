"""Gates over channels, positions or groups, written as they are commonly written.

Pooling is an adaptive or a full-size average pooling followed by ``view``, gates are expanded to the size of the map,
BatchNorm and GroupNorm are layers. The attributes carry the official state-dict keys.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SELayer(nn.Module):
    """Squeeze-and-Excitation with linear layers on the pooled vector."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Sequential(
            nn.Linear(channels, channels // reduction),
            nn.ReLU(),
            nn.Linear(channels // reduction, channels),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        pooled = self.avg_pool(x).view(batch, channels)
        gate = self.fc(pooled).view(batch, channels, 1, 1)
        return x * gate.expand_as(x)


class ChannelSELayer(nn.Module):
    """cSE: the mean of a flattened view, two linear layers."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, channels // 2)
        self.fc2 = nn.Linear(channels // 2, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, _, _ = x.size()
        squeezed = x.view(batch, channels, -1).mean(dim=2)
        gate = torch.sigmoid(self.fc2(torch.relu(self.fc1(squeezed))))
        return torch.mul(x, gate.view(batch, channels, 1, 1))


class SpatialSELayer(nn.Module):
    """sSE: a 1x1 convolution to one channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        gate = torch.sigmoid(self.conv(x))
        return torch.mul(x, gate.view(batch, 1, height, width))


class ChannelSpatialSELayer(nn.Module):
    """scSE: the elementwise maximum of both."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cSE = ChannelSELayer(channels)
        self.sSE = SpatialSELayer(channels)

    def forward(self, x: Tensor) -> Tensor:
        return torch.max(self.cSE(x), self.sSE(x))


class ECALayer(nn.Module):
    """ECA: a 1-D convolution over the squeezed and transposed vector."""

    def __init__(self, kernel_size: int = 3) -> None:
        super().__init__()
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(1, 1, kernel_size, padding=(kernel_size - 1) // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.avg_pool(x)
        y = self.conv(y.squeeze(-1).transpose(-1, -2)).transpose(-1, -2).unsqueeze(-1)
        return x * torch.sigmoid(y).expand_as(x)


class ECANonSharedLayer(nn.Module):
    """ECA-NS: windows by unfold, a kernel for each channel by a depthwise 1-D convolution."""

    def __init__(self, channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.conv = nn.Conv1d(channels, channels, kernel_size, groups=channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.avg_pool(x).transpose(-1, -3)
        windows = F.unfold(y, kernel_size=(1, self.kernel_size), padding=(0, (self.kernel_size - 1) // 2))
        gate = torch.sigmoid(self.conv(windows.transpose(-1, -2)).unsqueeze(-1))
        return x * gate.expand_as(x)


class ChannelGate(nn.Module):
    """CBAM's channel gate: average and maximum pooling with a kernel of the whole map, the MLP once for each."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.mlp = nn.Sequential(nn.Flatten(), nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        size = (x.size(2), x.size(3))
        average = self.mlp(F.avg_pool2d(x, size, stride=size))
        maximum = self.mlp(F.max_pool2d(x, size, stride=size))
        gate = torch.sigmoid(average + maximum).unsqueeze(2).unsqueeze(3).expand_as(x)
        return x * gate


class ConvNorm(nn.Module):
    """Convolution and BatchNorm under the names that CBAM gives them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, 7, padding=3, bias=False)
        self.bn = nn.BatchNorm2d(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


class SpatialGate(nn.Module):
    """CBAM's spatial gate."""

    def __init__(self) -> None:
        super().__init__()
        self.spatial = ConvNorm()

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat((torch.max(x, 1)[0].unsqueeze(1), torch.mean(x, 1).unsqueeze(1)), dim=1)
        return x * torch.sigmoid(self.spatial(pooled))


class CBAM(nn.Module):
    """Both gates, one after the other."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.ChannelGate = ChannelGate(channels)
        self.SpatialGate = SpatialGate()

    def forward(self, x: Tensor) -> Tensor:
        return self.SpatialGate(self.ChannelGate(x))


class BAMChannelGate(nn.Module):
    """BAM's channel branch, expanded to the size of the map."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = channels // reduction
        self.gate_c = nn.Sequential()
        self.gate_c.add_module("flatten", nn.Flatten())
        self.gate_c.add_module("gate_c_fc_0", nn.Linear(channels, hidden))
        self.gate_c.add_module("gate_c_bn_1", nn.BatchNorm1d(hidden))
        self.gate_c.add_module("gate_c_relu_1", nn.ReLU())
        self.gate_c.add_module("gate_c_fc_final", nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        size = (x.size(2), x.size(3))
        pooled = F.avg_pool2d(x, size, stride=size)
        return self.gate_c(pooled).unsqueeze(2).unsqueeze(3).expand_as(x)


class BAMSpatialGate(nn.Module):
    """BAM's dilated branch, expanded to all channels."""

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4) -> None:
        super().__init__()
        hidden = channels // reduction
        self.gate_s = nn.Sequential()
        self.gate_s.add_module("gate_s_conv_reduce0", nn.Conv2d(channels, hidden, 1))
        self.gate_s.add_module("gate_s_bn_reduce0", nn.BatchNorm2d(hidden))
        self.gate_s.add_module("gate_s_relu_reduce0", nn.ReLU())
        for i in range(2):
            conv = nn.Conv2d(hidden, hidden, 3, padding=dilation, dilation=dilation)
            self.gate_s.add_module(f"gate_s_conv_di_{i}", conv)
            self.gate_s.add_module(f"gate_s_bn_di_{i}", nn.BatchNorm2d(hidden))
            self.gate_s.add_module(f"gate_s_relu_di_{i}", nn.ReLU())
        self.gate_s.add_module("gate_s_conv_final", nn.Conv2d(hidden, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.gate_s(x).expand_as(x)


class BAM(nn.Module):
    """The product of both branches at full size, through a sigmoid, plus one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channel_att = BAMChannelGate(channels)
        self.spatial_att = BAMSpatialGate(channels)

    def forward(self, x: Tensor) -> Tensor:
        gate = 1 + torch.sigmoid(self.channel_att(x) * self.spatial_att(x))
        return gate * x


class SpatialGroupEnhance(nn.Module):
    """SGE: groups merged into the batch by views, the unbiased standard deviation by ``std``."""

    def __init__(self, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.weight = nn.Parameter(torch.zeros(1, groups, 1, 1))
        self.bias = nn.Parameter(torch.ones(1, groups, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        x = x.view(batch * self.groups, -1, height, width)
        similarity = (x * self.avg_pool(x)).sum(dim=1, keepdim=True)
        t = similarity.view(batch * self.groups, -1)
        t = t - t.mean(dim=1, keepdim=True)
        t = t / (t.std(dim=1, keepdim=True) + 1e-5)
        t = t.view(batch, self.groups, height, width) * self.weight + self.bias
        t = t.view(batch * self.groups, 1, height, width)
        return (x * torch.sigmoid(t)).view(batch, channels, height, width)


class ShuffleAttention(nn.Module):
    """SA: groups merged into the batch, a GroupNorm layer, channel shuffle by a 5-D view."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        half = channels // (2 * groups)
        self.groups = groups
        self.avg_pool = nn.AdaptiveAvgPool2d(1)
        self.cweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.cbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.sweight = nn.Parameter(torch.zeros(1, half, 1, 1))
        self.sbias = nn.Parameter(torch.ones(1, half, 1, 1))
        self.gn = nn.GroupNorm(half, half)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        x = x.reshape(batch * self.groups, -1, height, width)
        first, second = x.chunk(2, dim=1)
        by_channel = first * torch.sigmoid(self.cweight * self.avg_pool(first) + self.cbias)
        by_position = second * torch.sigmoid(self.sweight * self.gn(second) + self.sbias)
        out = torch.cat([by_channel, by_position], dim=1).reshape(batch, -1, height, width)
        out = out.reshape(batch, 2, -1, height, width).permute(0, 2, 1, 3, 4)
        return out.reshape(batch, -1, height, width)


class SubSpace(nn.Module):
    """One subspace of ULSAM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_dws = nn.Conv2d(channels, channels, 1, groups=channels)
        self.bn_dws = nn.BatchNorm2d(channels, momentum=0.9)
        self.maxpool = nn.MaxPool2d(3, stride=1, padding=1)
        self.conv_point = nn.Conv2d(channels, 1, 1)
        self.bn_point = nn.BatchNorm2d(1, momentum=0.9)
        self.softmax = nn.Softmax(dim=2)

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn_dws(self.conv_dws(x)))
        out = torch.relu(self.bn_point(self.conv_point(self.maxpool(out))))
        batch, one, height, width = out.shape
        attention = self.softmax(out.view(batch, one, -1)).view(batch, one, height, width)
        attention = attention.expand(x.shape[0], x.shape[1], x.shape[2], x.shape[3])
        return attention * x + x


class ULSAM(nn.Module):
    """A loop over chunks of the channels."""

    def __init__(self, channels: int, num_splits: int = 4) -> None:
        super().__init__()
        self.num_splits = num_splits
        self.subspaces = nn.ModuleList(SubSpace(channels // num_splits) for _ in range(num_splits))

    def forward(self, x: Tensor) -> Tensor:
        parts = torch.chunk(x, self.num_splits, dim=1)
        return torch.cat([subspace(part) for subspace, part in zip(self.subspaces, parts, strict=True)], dim=1)
