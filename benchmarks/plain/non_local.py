"""Attention over all positions, with the affinity matrices that the public code builds."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class NonLocalBlock(nn.Module):
    """The non-local block: embeddings as (N, positions, C') views and one (positions, keys) matrix in every mode."""

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        inner = channels // 2
        self.mode, self.inner = mode, inner
        self.g = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), nn.BatchNorm2d(channels))
        if mode == "gaussian":
            self.phi: nn.Module = nn.MaxPool2d(2)
        else:
            self.theta = nn.Conv2d(channels, inner, 1)
            self.phi = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.MaxPool2d(2))
        if mode == "concatenation":
            self.concat_project = nn.Sequential(nn.Conv2d(2 * inner, 1, 1, bias=False), nn.ReLU())

    def affinity(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        if self.mode == "concatenation":
            theta = self.theta(x).view(batch, self.inner, -1, 1)
            phi = self.phi(x).view(batch, self.inner, 1, -1)
            rows, columns = theta.size(2), phi.size(3)
            pairs = torch.cat([theta.repeat(1, 1, 1, columns), phi.repeat(1, 1, rows, 1)], dim=1)
            scores = self.concat_project(pairs)
            scores = scores.view(batch, scores.size(2), scores.size(3))
            return scores / scores.size(-1)
        if self.mode == "gaussian":
            theta, phi = x.view(batch, x.size(1), -1), self.phi(x).view(batch, x.size(1), -1)
        else:
            theta, phi = self.theta(x).view(batch, self.inner, -1), self.phi(x).view(batch, self.inner, -1)
        scores = torch.matmul(theta.permute(0, 2, 1), phi)
        return scores / scores.size(-1) if self.mode == "dot_product" else F.softmax(scores, dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        values = self.g(x).view(batch, self.inner, -1).permute(0, 2, 1)
        y = torch.matmul(self.affinity(x), values).permute(0, 2, 1).contiguous()
        y = y.view(batch, self.inner, *x.size()[2:])
        return self.W(y) + x


class LightNonLocal(nn.Module):
    """AutoNL's block: einsum over unflattened maps, in the order that needs fewer multiplications at the traced size."""

    def __init__(self, channels: int, ratio: float) -> None:
        super().__init__()
        self.width = int(ratio * channels)
        self.depthwise_conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)

    def forward(self, x: Tensor) -> Tensor:
        channels, height, width = int(x.shape[1]), int(x.shape[2]), int(x.shape[3])
        leading = x[:, : self.width]
        if height * width * (self.width + channels) > 2 * self.width * channels:
            mixing = torch.einsum("nihw,njhw->nij", leading, x)
            y = torch.einsum("nij,nihw->njhw", mixing, leading)
        else:
            scores = torch.einsum("niab,nicd->nabcd", leading, leading)
            y = torch.einsum("nabcd,njcd->njab", scores, x)
        return x + self.bn(self.depthwise_conv(y / (height * width)))


class DoubleAttention(nn.Module):
    """A2: gathers by one softmax and distributes by another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.c_m = self.c_n = channels // 2
        self.convA = nn.Conv2d(channels, self.c_m, 1)
        self.convB = nn.Conv2d(channels, self.c_n, 1)
        self.convV = nn.Conv2d(channels, self.c_n, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        features = self.convA(x).view(batch, self.c_m, -1)
        maps = F.softmax(self.convB(x).view(batch, self.c_n, -1), dim=-1)
        vectors = F.softmax(self.convV(x).view(batch, self.c_n, -1), dim=1)
        gathered = torch.bmm(features, maps.permute(0, 2, 1))
        return gathered.matmul(vectors).view(batch, self.c_m, height, width)


class EfficientAttention(nn.Module):
    """Efficient attention with a loop over slices for the heads."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.width, self.heads = channels // 2, heads
        self.keys = nn.Conv2d(channels, self.width, 1)
        self.queries = nn.Conv2d(channels, self.width, 1)
        self.values = nn.Conv2d(channels, self.width, 1)
        self.reprojection = nn.Conv2d(self.width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        keys = self.keys(x).reshape((batch, self.width, height * width))
        queries = self.queries(x).reshape(batch, self.width, height * width)
        values = self.values(x).reshape((batch, self.width, height * width))
        per_head = self.width // self.heads
        attended = []
        for i in range(self.heads):
            own = slice(i * per_head, (i + 1) * per_head)
            key = F.softmax(keys[:, own, :], dim=2)
            query = F.softmax(queries[:, own, :], dim=1)
            context = key @ values[:, own, :].transpose(1, 2)
            attended.append((context.transpose(1, 2) @ query).reshape(batch, per_head, height, width))
        return self.reprojection(torch.cat(attended, dim=1)) + x


class RNANNonLocal(nn.Module):
    """RNAN's non-local block, whose softmax runs over the axis of the queries."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = channels // 2
        self.g = nn.Conv2d(channels, self.inner, 1)
        self.W = nn.Conv2d(self.inner, channels, 1)
        self.theta = nn.Conv2d(channels, self.inner, 1)
        self.phi = nn.Conv2d(channels, self.inner, 1)
        nn.init.zeros_(self.W.weight)
        nn.init.zeros_(self.W.bias)

    def forward(self, x: Tensor) -> Tensor:
        batch = x.size(0)
        values = self.g(x).view(batch, self.inner, -1).permute(0, 2, 1)
        theta = self.theta(x).view(batch, self.inner, -1).permute(0, 2, 1)
        phi = self.phi(x).view(batch, self.inner, -1)
        weights = F.softmax(torch.matmul(theta, phi), dim=1)
        y = torch.matmul(weights, values).permute(0, 2, 1).contiguous().view(batch, self.inner, *x.size()[2:])
        return self.W(y) + x


class ResBlock(nn.Module):
    """Two convolutions and a skip connection."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x) + x


class TrunkBranch(nn.Module):
    """RNAN's trunk."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(ResBlock(channels), ResBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


class MaskBranch(nn.Module):
    """RNAN's mask, down and up again."""

    def __init__(self, channels: int, non_local: bool) -> None:
        super().__init__()
        first = [RNANNonLocal(channels)] if non_local else []
        self.MB_RB1 = nn.Sequential(*first, ResBlock(channels))
        self.MB_Down = nn.Sequential(nn.Conv2d(channels, channels, 3, stride=2, padding=1))
        self.MB_RB2 = nn.Sequential(ResBlock(channels), ResBlock(channels))
        self.MB_Up = nn.Sequential(nn.ConvTranspose2d(channels, channels, 6, stride=2, padding=2))
        self.MB_RB3 = nn.Sequential(ResBlock(channels))
        self.MB_1x1conv = nn.Sequential(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        entry = self.MB_RB1(x)
        up = self.MB_Up(self.MB_RB2(self.MB_Down(entry)))
        return torch.sigmoid(self.MB_1x1conv(self.MB_RB3(entry + up)))


class ResidualAttention(nn.Module):
    """RNAN's residual attention block, local or non-local."""

    def __init__(self, channels: int, non_local: bool) -> None:
        super().__init__()
        self.RA_RB1 = nn.Sequential(ResBlock(channels))
        self.RA_TB = nn.Sequential(TrunkBranch(channels))
        self.RA_MB = nn.Sequential(MaskBranch(channels, non_local))
        self.RA_tail = nn.Sequential(ResBlock(channels), ResBlock(channels))

    def forward(self, x: Tensor) -> Tensor:
        entry = self.RA_RB1(x)
        return self.RA_tail(self.RA_TB(entry) * self.RA_MB(entry) + entry)


class PositionAttention(nn.Module):
    """DANet's PAM."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query_conv = nn.Conv2d(channels, channels // 8, 1)
        self.key_conv = nn.Conv2d(channels, channels // 8, 1)
        self.value_conv = nn.Conv2d(channels, channels, 1)
        self.gamma = nn.Parameter(torch.zeros(1))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        query = self.query_conv(x).view(batch, -1, width * height).permute(0, 2, 1)
        key = self.key_conv(x).view(batch, -1, width * height)
        attention = self.softmax(torch.bmm(query, key))
        value = self.value_conv(x).view(batch, -1, width * height)
        out = torch.bmm(value, attention.permute(0, 2, 1)).view(batch, channels, height, width)
        return self.gamma * out + x


class ChannelAttention(nn.Module):
    """DANet's CAM: the row maximum, expanded, minus the energy."""

    def __init__(self) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1))
        self.softmax = nn.Softmax(dim=-1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        rows = x.view(batch, channels, -1)
        energy = torch.bmm(rows, x.view(batch, channels, -1).permute(0, 2, 1))
        attention = self.softmax(torch.max(energy, -1, keepdim=True)[0].expand_as(energy) - energy)
        out = torch.bmm(attention, x.view(batch, channels, -1)).view(batch, channels, height, width)
        return self.gamma * out + x


class DANetHead(nn.Module):
    """Both of them between convolutions, and three classifiers."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        inner = channels // 4

        def conv(width: int) -> nn.Sequential:
            return nn.Sequential(nn.Conv2d(width, inner, 3, padding=1, bias=False), nn.BatchNorm2d(inner), nn.ReLU())

        def classifier() -> nn.Sequential:
            return nn.Sequential(nn.Dropout2d(0.1), nn.Conv2d(inner, classes, 1))

        self.conv5a, self.conv5c = conv(channels), conv(channels)
        self.sa, self.sc = PositionAttention(inner), ChannelAttention()
        self.conv51, self.conv52 = conv(inner), conv(inner)
        self.conv6, self.conv7, self.conv8 = classifier(), classifier(), classifier()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        position = self.conv51(self.sa(self.conv5a(x)))
        channel = self.conv52(self.sc(self.conv5c(x)))
        return self.conv8(position + channel), self.conv6(position), self.conv7(channel)
