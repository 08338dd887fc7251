"""Convolutions with weights, windows or bands that are made for each map, as they are commonly written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .reparameterised import conv_bn


class _ODAttention(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, kernels: int) -> None:
        super().__init__()
        hidden = max(int(fan_in * 0.0625), 16)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc, self.bn = nn.Conv2d(fan_in, hidden, 1, bias=False), nn.BatchNorm2d(hidden)
        self.channel_fc, self.filter_fc = nn.Conv2d(hidden, fan_in, 1), nn.Conv2d(hidden, fan_out, 1)
        self.spatial_fc, self.kernel_fc = nn.Conv2d(hidden, 9, 1), nn.Conv2d(hidden, kernels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        z = F.relu(self.bn(self.fc(self.avgpool(x))))
        channel = torch.sigmoid(self.channel_fc(z).view(x.size(0), -1, 1, 1))
        filters = torch.sigmoid(self.filter_fc(z).view(x.size(0), -1, 1, 1))
        spatial = torch.sigmoid(self.spatial_fc(z).view(x.size(0), 1, 1, 1, 3, 3))
        kernel = torch.softmax(self.kernel_fc(z).view(x.size(0), -1, 1, 1, 1, 1), dim=1)
        return channel, filters, spatial, kernel


class ODConv(nn.Module):
    """Omni-dimensional dynamic convolution: a kernel for each sample, the batch as groups."""

    def __init__(self, fan_in: int, fan_out: int, kernels: int = 4) -> None:
        super().__init__()
        self.fan_in, self.fan_out = fan_in, fan_out
        self.weight = nn.Parameter(torch.randn(kernels, fan_out, fan_in, 3, 3))
        self.attention = _ODAttention(fan_in, fan_out, kernels)

    def forward(self, x: Tensor) -> Tensor:
        channel, filters, spatial, kernel = self.attention(x)
        batch, _, height, width = x.size()
        x = (x * channel).reshape(1, -1, height, width)
        weight = (spatial * kernel * self.weight.unsqueeze(0)).sum(1).view(-1, self.fan_in, 3, 3)
        y = F.conv2d(x, weight, padding=1, groups=batch)
        return y.view(batch, self.fan_out, y.size(-2), y.size(-1)) * filters


class _Unit(nn.Module):
    def __init__(self, fan_in: int, fan_out: int, norm: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(fan_in, fan_out, 1, bias=not norm)
        if norm:
            self.bn = nn.BatchNorm2d(fan_out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x))) if hasattr(self, "bn") else self.conv(x)


class Involution(nn.Module):
    """Involution: windows by unfold, a weight for each place and position."""

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.kernel, self.groups = kernel_size, channels // 16
        self.conv1 = _Unit(channels, channels // 4, True)
        self.conv2 = _Unit(channels // 4, kernel_size**2 * self.groups, False)
        self.unfold = nn.Unfold(kernel_size, 1, (kernel_size - 1) // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv2(self.conv1(x))
        batch, _, height, width = weight.shape
        weight = weight.view(batch, self.groups, self.kernel**2, height, width).unsqueeze(2)
        windows = self.unfold(x).view(batch, self.groups, 16, self.kernel**2, height, width)
        return (weight * windows).sum(dim=3).view(batch, -1, height, width)


class RFAConv(nn.Module):
    """Receptive-field attention: nine maps for each channel, rearranged to a map three times as high and wide."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.get_weight = nn.Sequential(
            nn.AvgPool2d(3, padding=1, stride=1), nn.Conv2d(fan_in, fan_in * 9, 1, groups=fan_in, bias=False)
        )
        self.generate_feature = nn.Sequential(
            nn.Conv2d(fan_in, fan_in * 9, 3, padding=1, groups=fan_in, bias=False),
            nn.BatchNorm2d(fan_in * 9),
            nn.ReLU(),
        )
        self.conv = nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, stride=3), nn.BatchNorm2d(fan_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        weight = self.get_weight(x)
        height, width = weight.shape[2:]
        weighted = weight.view(batch, channels, 9, height, width).softmax(2)
        feature = self.generate_feature(x).view(batch, channels, 9, height, width)
        data = (feature * weighted).view(batch, channels, 3, 3, height, width).permute(0, 1, 4, 2, 5, 3)
        return self.conv(data.reshape(batch, channels, height * 3, width * 3))


class RFCAConv(nn.Module):
    """Receptive-field coordinate attention: strips by adaptive pooling of the enlarged map."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        hidden = max(8, fan_in // 32)
        self.generate = nn.Sequential(
            nn.Conv2d(fan_in, fan_in * 9, 3, padding=1, groups=fan_in, bias=False),
            nn.BatchNorm2d(fan_in * 9),
            nn.ReLU(),
        )
        self.conv1, self.bn1 = nn.Conv2d(fan_in, hidden, 1), nn.BatchNorm2d(hidden)
        self.conv_h, self.conv_w = nn.Conv2d(hidden, fan_in, 1), nn.Conv2d(hidden, fan_in, 1)
        self.pool_h, self.pool_w = nn.AdaptiveAvgPool2d((None, 1)), nn.AdaptiveAvgPool2d((1, None))
        self.conv = nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, stride=3))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        feature = self.generate(x)
        height, width = feature.shape[2:]
        feature = feature.view(batch, channels, 3, 3, height, width).permute(0, 1, 4, 2, 5, 3)
        feature = feature.reshape(batch, channels, height * 3, width * 3)
        joined = torch.cat([self.pool_h(feature), self.pool_w(feature).permute(0, 1, 3, 2)], dim=2)
        joined = self.bn1(self.conv1(joined))
        joined = joined * (F.relu6(joined + 3) / 6)
        rows, columns = torch.split(joined, [height * 3, width * 3], dim=2)
        gate_w = torch.sigmoid(self.conv_w(columns.permute(0, 1, 3, 2)))
        return self.conv(feature * gate_w * torch.sigmoid(self.conv_h(rows)))


class RFCBAMConv(nn.Module):
    """Receptive-field CBAM: gates of channels and of the places of the enlarged map, one after the other."""

    def __init__(self, fan_in: int, fan_out: int, hidden: int = 16) -> None:
        super().__init__()
        self.generate = nn.Sequential(
            nn.Conv2d(fan_in, fan_in * 9, 3, padding=1, groups=fan_in, bias=False),
            nn.BatchNorm2d(fan_in * 9),
            nn.ReLU(),
        )
        self.get_weight = nn.Sequential(nn.Conv2d(2, 1, 3, padding=1, bias=False), nn.Sigmoid())
        self.se = nn.Module()
        self.se.fc = nn.Sequential(
            nn.Linear(fan_in, hidden, bias=False), nn.ReLU(), nn.Linear(hidden, fan_in, bias=False), nn.Sigmoid()
        )
        self.conv = nn.Sequential(nn.Conv2d(fan_in, fan_out, 3, stride=3), nn.BatchNorm2d(fan_out), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        gate = self.se.fc(F.adaptive_avg_pool2d(x, (1, 1)).view(batch, channels)).view(batch, channels, 1, 1)
        feature = self.generate(x)
        height, width = feature.shape[2:]
        feature = feature.view(batch, channels, 3, 3, height, width).permute(0, 1, 4, 2, 5, 3)
        feature = feature.reshape(batch, channels, height * 3, width * 3)
        gated = feature * gate
        highest = torch.max(feature, dim=1, keepdim=True)[0]
        weight = self.get_weight(torch.cat((highest, torch.mean(feature, dim=1, keepdim=True)), dim=1))
        return self.conv(gated * weight)


class GSConv(nn.Module):
    """GSConv of the YOLOv5 folder: the halves of the channels are exchanged by a reshape of batch and channels."""

    def __init__(self, fan_in: int, fan_out: int, kernel_size: int = 1, act: nn.Module | None = None) -> None:
        super().__init__()
        half = fan_out // 2
        self.cv1, self.cv2 = conv_bn(fan_in, half, kernel_size), conv_bn(half, half, 5, half)
        self.act = act or nn.SiLU()

    def forward(self, x: Tensor) -> Tensor:
        first = self.act(self.cv1(x))
        joined = torch.cat((first, self.act(self.cv2(first))), 1)
        batch, channels, height, width = (int(n) for n in joined.size())
        pairs = joined.reshape(batch * channels // 2, 2, height * width).permute(1, 0, 2)
        pairs = pairs.reshape(2, -1, channels // 2, height, width)
        return torch.cat((pairs[0], pairs[1]), 1)


class _Scale(nn.Module):
    def __init__(self, channels: int, value: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((1, channels, 1, 1), value))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * x


class WTConv(nn.Module):
    """Wavelet convolution: a level pads where its map is odd, and the inverse is cropped to what was there."""

    def __init__(self, channels: int, levels: int = 1) -> None:
        super().__init__()
        self.channels, self.levels = channels, levels
        bands = torch.tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2.0
        filters = bands.reshape(4, 1, 2, 2).repeat(channels, 1, 1, 1)
        self.wt_filter = nn.Parameter(filters.clone(), requires_grad=False)
        self.iwt_filter = nn.Parameter(filters.clone(), requires_grad=False)
        self.base_conv = nn.Conv2d(channels, channels, 5, padding=2, groups=channels)
        self.base_scale = _Scale(channels, 1.0)
        self.wavelet_convs = nn.ModuleList(
            nn.Conv2d(4 * channels, 4 * channels, 5, padding=2, groups=4 * channels, bias=False) for _ in range(levels)
        )
        self.wavelet_scale = nn.ModuleList(_Scale(4 * channels, 0.1) for _ in range(levels))

    def forward(self, x: Tensor) -> Tensor:
        lows, highs, shapes, low = [], [], [], x
        for level in range(self.levels):
            shape = low.shape
            shapes.append(shape)
            if shape[2] % 2 > 0 or shape[3] % 2 > 0:
                low = F.pad(low, (0, shape[3] % 2, 0, shape[2] % 2))
            bands = F.conv2d(low, self.wt_filter, stride=2, groups=self.channels)
            height, width = bands.shape[2:]
            low = bands.reshape(-1, self.channels, 4, height, width)[:, :, 0]
            bands = self.wavelet_scale[level](self.wavelet_convs[level](bands))
            bands = bands.reshape(-1, self.channels, 4, height, width)
            lows.append(bands[:, :, 0])
            highs.append(bands[:, :, 1:])
        inner: Tensor | float = 0.0
        for level in reversed(range(self.levels)):
            bands = torch.cat([(lows[level] + inner).unsqueeze(2), highs[level]], dim=2)
            bands = bands.reshape(-1, 4 * self.channels, bands.shape[3], bands.shape[4])
            inner = F.conv_transpose2d(bands, self.iwt_filter, stride=2, groups=self.channels)
            inner = inner[:, :, : shapes[level][2], : shapes[level][3]]
        return self.base_scale(self.base_conv(x)) + inner
