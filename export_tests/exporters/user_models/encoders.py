"""Attention over tokens and maps, as users write it."""

import torch
import torch.nn.functional as F
from torch import nn


class PooledEncoder(nn.Module):
    """The mean over all tokens, so that what stands at padded ones counts."""

    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2)
        self.head = nn.Linear(16, 3)

    def forward(self, tokens, padding):
        return self.head(self.encoder(tokens, src_key_padding_mask=padding).mean(1))


class Decoder(nn.Module):
    """Queries that look at each other through a mask, and at a memory of another length with padding."""

    def __init__(self):
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, batch_first=True), 1)

    def forward(self, tokens, memory, mask, padding):
        return self.decoder(tokens, memory, mask, memory_key_padding_mask=padding)


class DecidesBesideAttention(nn.Module):
    """One batch size of its own beside multi-head attention, whose calls are redirected."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        y = self.attention(tokens, tokens, tokens)[0]
        if tokens.shape[0] == 64:
            return y * 2
        return y


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)

    def forward(self, tokens):
        return self.attention(tokens)


class Attention(nn.Module):
    """Attention over tokens, with a mask or without."""

    def __init__(self, masked=False):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.bias = nn.Parameter(torch.randn(1, 2, 7, 7)) if masked else None

    def forward(self, tokens):
        n, length, _ = tokens.shape
        q, k, v = (t.reshape(n, length, 2, 4).transpose(1, 2) for t in self.qkv(tokens).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.bias).transpose(1, 2).flatten(2)


class GroupedAttention(nn.Module):
    """Attention in groups of four tokens, over five axes with heads and over three without; with a table or a mask."""

    def __init__(self, masked=False):
        super().__init__()
        self.qkv = nn.Linear(8, 24)
        self.table = nn.Parameter(torch.randn(2, 4, 4)) if masked else None

    def forward(self, tokens):
        n, length, _ = tokens.shape
        groups = length // 4
        q, k, v = self.qkv(tokens).reshape(n, groups, 4, 3, 2, 4).permute(3, 0, 1, 4, 2, 5)
        mask = None if self.table is None else self.table[None, None] + torch.arange(groups).view(1, -1, 1, 1, 1)
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=0.3)
        flat = y.transpose(2, 3).reshape(n, length, 8)
        return F.scaled_dot_product_attention(flat, flat * 2, flat, attn_mask=None)
