"""MobileViT block: convolutions around a transformer over the patches of a map.

Paper: MobileViT: Light-weight, General-purpose, and Mobile-friendly Vision Transformer, ICLR 2022, arXiv:2110.02178.
Official: apple/ml-cvnets, cvnets/modules/mobilevit_block.py (MobileViTBlock) and cvnets/modules/transformer.py, with
    activation swish and batch_norm.
Export: the official code computes sizes with math.ceil, which bakes them: its files fail at every other size. Here the
    map is always resized to the next multiple of the patch and back, which changes nothing where it is one;
    resize=False leaves both out. Patches are reshapes and permutations. Equal up to rounding. Fusing
    folds every BatchNorm and puts the scale into the queries.
Deviations: where the number of patches equals the transformer's width, the official LayerNorm normalises over the
    patches instead of the channels, by (x - mean) / (std + eps): at 128x128 for MobileViT-XXS, at 192x192 for
    MobileViT-S. Here it is always over the channels. External-Attention's MobileViTAttention has no BatchNorm, no
    activations and other widths: it is not this module.
Limits: memory grows with the square of H * W / patch_size ** 2.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_odd, require_positive, resize_bilinear
from attn_deploy.ops.patches import merge_patches, split_patches
from attn_deploy.ops.sizes import require_multiple_size, sizes_are_known
from attn_deploy.registry import register

_PATCHES = dict.fromkeys(("H", "W"), "patch_size - resize * (patch_size - 1)")
_NAMES = (
    (".pre_norm_mha.0.", ".attention_norm."),
    (".pre_norm_mha.1.", ".attention."),
    (".pre_norm_ffn.0.", ".hidden.0."),
    (".pre_norm_ffn.1.", ".hidden.1."),
    (".pre_norm_ffn.4.", ".hidden.3."),
)


def conv_bn_silu(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, BatchNorm and SiLU, at the size of its input."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.SiLU(),
    )


class MultiHeadSelfAttention(Fusible, nn.Module):
    """Self-attention of tokens, (B, L, d) -> (B, L, d), with one layer for queries, keys and values.

    Args:
        dim: d.
        num_heads: heads that d is cut into.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.dim, self.num_heads = dim, num_heads
        self.scale = (dim // num_heads) ** -0.5
        self.qkv_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix the tokens of each sequence."""
        query, key, value = (self._by_head(t) for t in torch.split(self.qkv_proj(tokens), self.dim, 2))
        if self.scale != 1.0:
            query = query * self.scale
        weights = torch.matmul(query, key.transpose(2, 3)).softmax(3)
        return self.out_proj(torch.matmul(weights, value).transpose(1, 2).flatten(2))

    def _by_head(self, tokens: Tensor) -> Tensor:
        heads = tokens.reshape(tokens.shape[0], -1, self.num_heads, self.dim // self.num_heads)
        return heads.transpose(1, 2)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Put the scale into the queries."""
        if self.scale == 1.0:
            return None
        self.qkv_proj.weight[: self.dim] *= self.scale
        self.qkv_proj.bias[: self.dim] *= self.scale
        self.scale = 1.0
        return "put the scale into the queries"


class _EncoderLayer(nn.Module):
    def __init__(self, dim: int, ffn_dim: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = MultiHeadSelfAttention(dim, num_heads)
        self.hidden = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, ffn_dim), nn.SiLU(), nn.Linear(ffn_dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.attention_norm(tokens))
        return tokens + self.hidden(tokens)


@register(
    "mobilevit",
    aliases=("mobilevit_block", "mobilevit_attention"),
    reference={"channels": 64, "dim": 96, "ffn_dim": 192, "head_dim": 24},
    parameters=273024,
    multiple=_PATCHES,
)
class MobileViTBlock(nn.Module):
    """Mixes the pixels at the same place of every patch by a transformer, between convolutions, and fuses with the input.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        dim: width of the transformer.
        ffn_dim: width of the hidden layer of its feed-forward parts.
        depth: number of its layers.
        head_dim: width of a head.
        patch_size: side of a patch.
        kernel_size: of the first convolution and the fusing one.
        fusion: concatenate the input and the result and convolve both; without it, the result is returned.
        resize: resize maps to a multiple of the patch and back; without it, H and W must be multiples.

    Raises:
        ValueError: if head_dim does not divide dim, kernel_size is even, a number is below 1, or H or W is not a multiple
            of patch_size with resize=False.
    """

    official_keys = {
        "local_rep.conv_3x3.block.conv": "local.0",
        "local_rep.conv_3x3.block.norm": "local.1",
        "local_rep.conv_1x1.block.conv": "widen",
        "conv_proj.block.conv": "project.0",
        "conv_proj.block.norm": "project.1",
        "fusion.block.conv": "fuse_maps.0",
        "fusion.block.norm": "fuse_maps.1",
    }

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        ffn_dim: int,
        depth: int = 2,
        head_dim: int = 32,
        patch_size: int = 2,
        kernel_size: int = 3,
        fusion: bool = True,
        resize: bool = True,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, dim=dim, ffn_dim=ffn_dim, depth=depth, head_dim=head_dim)
        require_positive(patch_size=patch_size)
        require_odd(kernel_size=kernel_size)
        require_divisible("dim", dim, "head_dim", head_dim)
        self.channels, self.dim, self.patch_size, self.resize = channels, dim, patch_size, resize
        self.local = conv_bn_silu(channels, channels, kernel_size)
        self.widen = nn.Conv2d(channels, dim, 1, bias=False)
        layers = [_EncoderLayer(dim, ffn_dim, dim // head_dim) for _ in range(depth)]
        self.global_rep = nn.Sequential(*layers, nn.LayerNorm(dim))
        self.project = conv_bn_silu(dim, channels)
        self.fuse_maps = conv_bn_silu(2 * channels, channels, kernel_size) if fusion else None

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the parts of the transformer's layers."""
        renamed = {}
        for key, value in state.items():
            for official, ours in _NAMES:
                key = key.replace(official, ours)
            renamed[key] = value
        return renamed

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "MobileViTBlock")
        if not self.resize:
            require_multiple_size(x, self.patch_size, "MobileViTBlock(resize=False)")
        y = self.widen(self.local(x))
        height, width = x.shape[2], x.shape[3]
        fitted_height = (height + self.patch_size - 1) // self.patch_size * self.patch_size
        fitted_width = (width + self.patch_size - 1) // self.patch_size * self.patch_size
        fits = sizes_are_known() and (fitted_height, fitted_width) == (height, width)
        resized = self.resize and self.patch_size > 1 and not fits
        if resized:
            y = resize_bilinear(y, fitted_height, fitted_width, align_corners=False)
        size = y.shape[2:]
        tokens = split_patches(y, self.patch_size)  # (N, p * p, L, d)
        mixed = self.global_rep(tokens.flatten(0, 1)).reshape(x.shape[0], self.patch_size**2, -1, self.dim)
        y = merge_patches(mixed, self.patch_size, size)
        if resized:
            y = resize_bilinear(y, height, width, align_corners=False)
        y = self.project(y)
        return y if self.fuse_maps is None else self.fuse_maps(torch.cat([x, y], 1))
