"""The transformers of the Feature Pyramid Transformer."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MixtureOfSoftmax(nn.Module):
    """Several softmaxes, weighted by what the mean query says."""

    def __init__(self, mixtures: int, key_channels: int) -> None:
        super().__init__()
        self.mixtures, self.temperature = mixtures, key_channels**0.5
        bound = mixtures**-0.5
        self.weight = nn.Parameter(torch.empty(mixtures, key_channels).uniform_(-bound, bound))
        self.dropout = nn.Dropout(0.1)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, width, queries = query.size()
        keys, part = key.size(2), width // self.mixtures
        mean = torch.mean(query, 2, True)
        shares = F.softmax(torch.matmul(self.weight, mean), dim=1).view(batch * self.mixtures, 1, 1)
        query = query.view(batch * self.mixtures, part, queries).transpose(1, 2)
        key = key.view(batch * self.mixtures, part, keys)
        attention = F.softmax(torch.bmm(query, key) / self.temperature, dim=-1)
        attention = (self.dropout(attention) * shares).view(batch, self.mixtures, queries, keys).sum(1)
        return torch.bmm(attention, value.transpose(1, 2))


class SelfTransformer(nn.Module):
    """Self-attention with pooled keys and values, pooled once for each."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.pool = nn.AvgPool2d(3, 2, padding=1, count_include_pad=False)
        self.conv_qs = nn.Conv2d(channels, channels, 1)
        self.conv_ks = self.conv_qs
        self.conv_vs = nn.Conv2d(channels, channels, 1)
        self.attention = MixtureOfSoftmax(2, channels)
        self.conv = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm_layer = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        query = self.conv_qs(x).view(batch, self.channels, height * width)
        key = self.conv_ks(self.pool(x)).view(batch, self.channels, height * width // 4)
        value = self.conv_vs(self.pool(x)).view(batch, self.channels, height * width // 4)
        out = self.attention(query, key, value).transpose(1, 2).contiguous()
        return self.norm_layer(self.conv(out.view(batch, self.channels, height, width))) + x


class GroundTransformer(nn.Module):
    """A non-local block between two maps, with the full matrix in every mode."""

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        inner = channels // 2
        self.mode, self.inner = mode, inner
        self.g = nn.Conv2d(channels, inner, 1)
        self.W_z = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        if mode != "gaussian":
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Conv2d(channels, inner, 1)
        if mode == "concatenate":
            self.W_f = nn.Sequential(nn.Conv2d(2 * inner, 1, 1), nn.ReLU())

    def weights(self, low: Tensor, high: Tensor) -> Tensor:
        batch = low.size(0)
        if self.mode == "concatenate":
            theta = self.theta(low).view(batch, self.inner, -1, 1)
            phi = self.phi(high).view(batch, self.inner, 1, -1)
            rows, columns = theta.size(2), phi.size(3)
            pairs = torch.cat([theta.repeat(1, 1, 1, columns), phi.repeat(1, 1, rows, 1)], dim=1)
            scores = self.W_f(pairs).view(batch, rows, columns)
            return scores / scores.size(-1)
        if self.mode == "gaussian":
            theta, phi = low.view(batch, low.size(1), -1), high.view(batch, high.size(1), -1)
        else:
            theta, phi = self.theta(low).view(batch, self.inner, -1), self.phi(high).view(batch, self.inner, -1)
        scores = torch.matmul(theta.permute(0, 2, 1), phi)
        return scores / scores.size(-1) if self.mode == "dot" else F.softmax(scores, dim=-1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        batch = low.size(0)
        values = self.g(high).view(batch, self.inner, -1).permute(0, 2, 1)
        y = torch.matmul(self.weights(low, high), values).permute(0, 2, 1).contiguous()
        return self.W_z(y.view(batch, self.inner, *low.size()[2:]))


class RenderTransformer(nn.Module):
    """A coarse map gated by the fine map's average, by a pooling layer made for its size, plus its strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv3x3 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn_low = nn.BatchNorm2d(channels)
        self.conv1x1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.bn_high = nn.BatchNorm2d(channels)
        self.str_conv3x3 = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
        self.bn_reduction = nn.BatchNorm2d(channels)

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        pooled = nn.AvgPool2d((low.size(2), low.size(3)))(low).view(low.size(0), -1, 1, 1)
        gate = F.relu(self.bn_low(self.conv1x1(pooled)))
        gated = self.bn_high(self.conv3x3(high)) * gate
        return F.relu(self.bn_reduction(self.str_conv3x3(low)) + gated)
