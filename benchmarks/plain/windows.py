"""Attention over local windows cut by unfold, and generalized attention with its repeated position embeddings."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SAM(nn.Module):
    """The attention of SAN by nn.Unfold, as its repository writes it beside the CUDA kernels."""

    def __init__(self, channels: int, out: int, patchwise: bool, share: int = 8, kernel_size: int = 7) -> None:
        super().__init__()
        relation, self.places = channels // 16, kernel_size * kernel_size
        self.out, self.share, self.patchwise = out, share, patchwise
        self.conv1 = nn.Conv2d(channels, relation, 1)
        self.conv2 = nn.Conv2d(channels, relation, 1)
        self.conv3 = nn.Conv2d(channels, out, 1)
        joint = relation * (self.places + 1) if patchwise else relation + 2
        inner = out // share if patchwise else relation
        weights = self.places * out // share if patchwise else out // share
        self.conv_w = nn.Sequential(
            nn.BatchNorm2d(joint),
            nn.ReLU(),
            nn.Conv2d(joint, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU(),
            nn.Conv2d(inner, weights, 1),
        )
        if not patchwise:
            self.conv_p = nn.Conv2d(2, 2, 1)
        self.softmax = nn.Softmax(dim=-2)
        self.pad = nn.ReflectionPad2d(kernel_size // 2)
        self.unfold_centre = nn.Unfold(1)
        self.unfold_window = nn.Unfold(kernel_size)

    def difference(self, centre: Tensor, window: Tensor) -> Tensor:
        batch, channels = centre.shape[0], centre.shape[1]
        here = self.unfold_centre(centre).view(batch, channels, 1, -1)
        return here - self.unfold_window(self.pad(window)).view(batch, channels, self.places, -1)

    @staticmethod
    def position(height: int, width: int) -> Tensor:
        across = torch.linspace(-1.0, 1.0, width).unsqueeze(0).repeat(height, 1)
        down = torch.linspace(-1.0, 1.0, height).unsqueeze(1).repeat(1, width)
        return torch.cat([across.unsqueeze(0), down.unsqueeze(0)], 0).unsqueeze(0)

    def forward(self, x: Tensor) -> Tensor:
        x1, x2, x3 = self.conv1(x), self.conv2(x), self.conv3(x)
        batch, height, width = x.shape[0], x.shape[2], x.shape[3]
        if self.patchwise:
            centre = self.unfold_centre(x1).view(batch, x1.shape[1], 1, -1)
            window = self.unfold_window(self.pad(x2)).view(batch, -1, 1, centre.shape[-1])
            weights = self.conv_w(torch.cat([centre, window], 1)).view(batch, -1, self.places, centre.shape[-1])
        else:
            p = self.conv_p(self.position(height, width).to(x))
            positions = self.difference(p, p).repeat(batch, 1, 1, 1)
            weights = self.softmax(self.conv_w(torch.cat([self.difference(x1, x2), positions], 1)))
        values = self.unfold_window(self.pad(x3)).view(batch, self.share, self.out // self.share, self.places, -1)
        return (weights.unsqueeze(1) * values).sum(-2).view(batch, self.out, height, width)


class SANBottleneck(nn.Module):
    """SAN's residual block."""

    def __init__(self, channels: int, patchwise: bool) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(channels)
        self.sam = SAM(channels, channels // 4, patchwise)
        self.bn2 = nn.BatchNorm2d(channels // 4)
        self.conv = nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(x))
        out = F.relu(self.bn2(self.sam(out)))
        return self.conv(out) + x


class LocalityConstrained(nn.Module):
    """FPT's local self-attention: Tensor.unfold twice, einsum over the window."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        self.out_channels, self.kernel_size = out_channels, kernel_size
        self.rel_h = nn.Parameter(torch.randn(out_channels // 2, 1, 1, kernel_size, 1))
        self.rel_w = nn.Parameter(torch.randn(out_channels // 2, 1, 1, 1, kernel_size))
        self.key_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.query_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.value_conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.size()
        padded = F.pad(x, [self.kernel_size // 2] * 4)
        query, key, value = self.query_conv(x), self.key_conv(padded), self.value_conv(padded)
        key = key.unfold(2, self.kernel_size, 1).unfold(3, self.kernel_size, 1)
        value = value.unfold(2, self.kernel_size, 1).unfold(3, self.kernel_size, 1)
        key_h, key_w = key.split(self.out_channels // 2, dim=1)
        key = torch.cat((key_h + self.rel_h, key_w + self.rel_w), dim=1)
        key = key.contiguous().view(batch, 1, self.out_channels, height, width, -1)
        value = value.contiguous().view(batch, 1, self.out_channels, height, width, -1)
        weights = F.softmax(query.view(batch, 1, self.out_channels, height, width, 1) * key, dim=-1)
        return torch.einsum("bnchwk,bnchwk->bnchw", weights, value).view(batch, -1, height, width)


class GeneralizedAttention(nn.Module):
    """All four energy terms in a 6-D tensor, or key content alone."""

    def __init__(self, channels: int, num_heads: int = 9, only_key_content: bool = False) -> None:
        super().__init__()
        self.heads, self.dim, self.channels = num_heads, channels // num_heads, channels
        self.only_key_content = only_key_content
        width = self.heads * self.dim
        bound = 1 / math.sqrt(2 * self.dim)
        self.appr_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
        self.gamma = nn.Parameter(torch.zeros(1))
        self.kv_downsample = nn.AvgPool2d(kernel_size=1, stride=2)
        self.key_conv = nn.Conv2d(channels, width, 1, bias=False)
        self.value_conv = nn.Conv2d(channels, width, 1, bias=False)
        self.proj_conv = nn.Conv2d(width, channels, 1)
        if not only_key_content:
            self.geom_bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))
            self.query_conv = nn.Conv2d(channels, width, 1, bias=False)
            self.appr_geom_fc_x = nn.Linear(channels // 2, width, bias=False)
            self.appr_geom_fc_y = nn.Linear(channels // 2, width, bias=False)

    def embedding(self, queries: int, keys: int) -> Tensor:
        query = torch.linspace(0, queries - 1, queries).view(queries, 1)
        key = torch.linspace(0, keys - 1, keys).view(keys, 1) * 2
        difference = query - key.permute(1, 0)
        steps = torch.arange(0, self.channels // 4).float()
        wave = torch.pow(torch.full((1,), 1000.0), (4.0 / self.channels) * steps).view(1, 1, -1)
        return torch.cat(((difference.unsqueeze(-1) / wave).sin(), (difference.unsqueeze(-1) / wave).cos()), dim=2)

    def position_feature(self, layer: nn.Linear, queries: int, keys: int, like: Tensor) -> Tensor:
        embedded = layer(self.embedding(queries, keys).to(like))
        embedded = embedded.view(1, queries, keys, self.heads, self.dim).permute(0, 3, 1, 2, 4)
        return embedded.repeat(like.shape[0], 1, 1, 1, 1) / math.sqrt(2)

    def energy(self, x: Tensor, key: Tensor, size: tuple[int, int]) -> Tensor:
        batch, _, height, width = x.shape
        query = self.query_conv(x).view(batch, self.heads, self.dim, height * width).permute(0, 1, 3, 2)
        content = query + self.appr_bias.view(1, self.heads, 1, self.dim)
        energy = torch.matmul(content, key).view(batch, self.heads, height, width, *size)
        relative = (query + self.geom_bias.view(1, self.heads, 1, self.dim)).view(
            batch, self.heads, height, width, self.dim
        )
        feature_x = self.position_feature(self.appr_geom_fc_x, width, size[1], x)
        feature_y = self.position_feature(self.appr_geom_fc_y, height, size[0], x)
        energy_x = torch.matmul(relative.permute(0, 1, 3, 2, 4), feature_x.permute(0, 1, 2, 4, 3))
        energy_x = energy_x.permute(0, 1, 3, 2, 4).unsqueeze(4)
        energy_y = torch.matmul(relative, feature_y.permute(0, 1, 2, 4, 3)).unsqueeze(5)
        energy = energy + energy_x + energy_y
        return energy.view(batch, self.heads, height * width, size[0] * size[1])

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        sparse = self.kv_downsample(x)
        size = (sparse.shape[2], sparse.shape[3])
        key = self.key_conv(sparse).view(batch, self.heads, self.dim, size[0] * size[1])
        if self.only_key_content:
            bias = self.appr_bias.view(1, self.heads, 1, self.dim).repeat(batch, 1, 1, 1)
            energy = torch.matmul(bias, key).view(batch, self.heads, 1, size[0] * size[1])
            height, width = 1, 1
        else:
            energy = self.energy(x, key, size)
        attention = F.softmax(energy, 3)
        value = self.value_conv(sparse).view(batch, self.heads, self.dim, size[0] * size[1]).permute(0, 1, 3, 2)
        out = torch.matmul(attention, value).permute(0, 1, 3, 2).contiguous()
        out = self.proj_conv(out.view(batch, self.heads * self.dim, height, width))
        return self.gamma * out + x
