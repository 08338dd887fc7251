"""nn.MultiheadAttention over the positions of a map."""

from __future__ import annotations

from torch import nn


class AttentionNeck(nn.Module):
    def __init__(self, in_channels=3, dim=16, heads=4):
        super().__init__()
        self.stem = nn.Conv2d(in_channels, dim, 3, stride=2, padding=1)
        self.norm = nn.LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.encoder = nn.TransformerEncoderLayer(dim, heads, dim_feedforward=32, batch_first=True, norm_first=True)

    def forward(self, x):
        x = self.stem(x)
        b, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        normed = self.norm(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        tokens = self.encoder(tokens)
        return tokens.transpose(1, 2).reshape(b, c, h, w)
