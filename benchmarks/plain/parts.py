"""Interaction, aggregation and update (IAU): channel interaction and a graph of soft body parts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PARTS = 4


class MaskLayer(nn.Module):
    """Convolution and BatchNorm of the part masks, under their official names."""

    def __init__(self, channels: int, conv: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv, self.bn = conv(channels, PARTS, 1), norm(PARTS)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.bn(self.conv(x)))


class Masks(nn.Module):
    """The layer above, one level down."""

    def __init__(self, channels: int, conv: type[nn.Module], norm: type[nn.Module]) -> None:
        super().__init__()
        self.conv = MaskLayer(channels, conv, norm)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


class Edges(nn.Module):
    """Weights of the graph: every pair of nodes beside the context in one 2-D convolution, masked by 1e8."""

    def __init__(self, width: int, connected: Tensor) -> None:
        super().__init__()
        self.relation = nn.Sequential(nn.Conv2d(2 * width, 1, 1), nn.BatchNorm2d(1))
        self.mask = (~connected).float() * 1e8

    def forward(self, nodes: Tensor, context: Tensor) -> Tensor:
        batch, count, width = nodes.size()
        pairs = torch.abs(nodes.unsqueeze(2).expand(-1, -1, count, -1) - nodes.unsqueeze(1).expand(-1, count, -1, -1))
        context = context.unsqueeze(1).unsqueeze(1).expand(-1, count, count, -1)
        joint = torch.cat((pairs, context), 3).view(-1, 2 * width, 1, 1)
        scores = self.relation(joint).view(batch, count, count) - self.mask.to(nodes)
        return F.softmax(scores, dim=2)


class Update(nn.Module):
    """New nodes from each node and what it gathered."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fsm = nn.Sequential(nn.Conv2d(2 * width, width, 1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, nodes: Tensor, weights: Tensor) -> Tensor:
        batch, count, width = nodes.size()
        joint = torch.cat((nodes, torch.bmm(weights, nodes)), 2)
        return self.fsm(joint.view(-1, 2 * width, 1, 1)).view(batch, count, width)


class Graph(nn.Module):
    """Edges and update, under their official names."""

    def __init__(self, width: int, connected: Tensor) -> None:
        super().__init__()
        self.module_w = Edges(width, connected)
        self.module_l = Update(width)

    def forward(self, nodes: Tensor, context: Tensor) -> Tensor:
        return self.module_l(nodes, self.module_w(nodes, context))


class IAU(nn.Module):
    """The block on an image."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.width = channels // 2
        self.sa = Masks(channels, nn.Conv2d, nn.BatchNorm2d)
        self.g = nn.Conv2d(channels, self.width, 1)
        self.SIAU = Graph(self.width, ~torch.eye(PARTS, dtype=torch.bool))
        self.W1 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.W2 = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.size()
        rows = x.view(batch, channels, -1)
        weights = F.softmax(torch.bmm(rows, rows.permute(0, 2, 1)), dim=2)
        z = self.W1(torch.bmm(weights, rows).view(batch, channels, height, width)) + x

        pooled = F.adaptive_avg_pool2d(z, 1)
        masks = self.sa(z).view(batch, PARTS, -1)
        parts = torch.bmm(masks, z.view(batch, channels, -1).permute(0, 2, 1))
        nodes = self.g(parts.view(-1, channels, 1, 1)).view(batch, PARTS, self.width)
        context = self.g(pooled).view(batch, self.width)
        mean = self.SIAU(nodes, context).mean(1)
        update = self.W2(torch.cat((mean, context), 1).view(batch, channels, 1, 1))
        return update.expand_as(z) + z


class IAU3d(nn.Module):
    """The block on a clip: 3-D convolutions, and a graph over the parts of all frames."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.width, self.frames = channels // 2, frames
        frame, part = torch.arange(frames).repeat_interleave(PARTS), torch.arange(PARTS).repeat(frames)
        connected = (frame[:, None] == frame) != (part[:, None] == part)
        self.SA = Masks(channels, nn.Conv3d, nn.BatchNorm3d)
        self.g = nn.Conv3d(channels, self.width, 1)
        self.STIAU = Graph(self.width, connected)
        self.W1 = nn.Sequential(nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels))
        self.W2 = nn.Sequential(nn.Conv3d(channels, channels, 1), nn.BatchNorm3d(channels))

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, frames, height, width = x.size()
        rows = x.view(batch, channels * frames, -1)
        weights = F.softmax(torch.bmm(rows, rows.permute(0, 2, 1)), dim=2)
        z = self.W1(torch.bmm(weights, rows).view(batch, channels, frames, height, width)) + x

        pooled = F.adaptive_avg_pool3d(z, 1)
        masks = self.SA(z).permute(0, 2, 1, 3, 4).contiguous().view(batch * frames, PARTS, -1)
        maps = z.permute(0, 2, 3, 4, 1).contiguous().view(batch * frames, -1, channels)
        parts = torch.bmm(masks, maps).view(-1, channels, 1, 1, 1)
        nodes = self.g(parts).view(batch, frames * PARTS, self.width)
        context = self.g(pooled).view(batch, self.width)
        means = self.STIAU(nodes, context).view(batch, frames, PARTS, self.width).mean(2)
        joint = torch.cat((means, context.unsqueeze(1).expand(-1, frames, -1)), 2)
        update = self.W2(joint.permute(0, 2, 1).contiguous().view(batch, channels, frames, 1, 1))
        return update.expand_as(z) + z
