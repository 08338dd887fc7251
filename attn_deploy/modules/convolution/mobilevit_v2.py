"""MobileViTv2 block: separable self-attention over the patches of a map, between convolutions.

Paper: Separable Self-attention for Mobile Vision Transformers, TMLR 2023, arXiv:2206.02680.
Official: apple/ml-cvnets, cvnets/modules/mobilevit_block.py (MobileViTBlockv2), with activation swish and batch_norm.
Export: patches are one reshape of six axes and one permutation instead of unfold and fold, whose Col2Im enters ONNX at
    opset 18; sizes are integer arithmetic, and resize=False leaves the resizing of other maps out. Equal up to rounding.
    Fusing folds every BatchNorm.
Deviations: none. The input is resized and the output is not resized back, as in the official code: a map of 15x20 gives
    one of 16x20.
Limits: an exported file is for H and W that are multiples of patch_size, where the output has the size of the input.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.modules.attention.separable_self_attention import SeparableSelfAttention
from attn_deploy.modules.convolution.mobilevit import conv_bn_silu
from attn_deploy.ops import check_channels, require_odd, require_positive, resize_bilinear
from attn_deploy.ops.group_norm import GroupNorm2d
from attn_deploy.ops.patches import merge_patches, split_patches
from attn_deploy.ops.sizes import require_multiple_size, sizes_are_known
from attn_deploy.registry import register

_PATCHES = dict.fromkeys(("H", "W"), "patch_size")
_NAMES = (
    (".pre_norm_attn.0.", ".attention.0."),
    (".pre_norm_attn.1.qkv_proj.block.conv.", ".attention.1.qkv_proj."),
    (".pre_norm_attn.1.out_proj.block.conv.", ".attention.1.out_proj."),
    (".pre_norm_ffn.0.", ".hidden.0."),
    (".pre_norm_ffn.1.block.conv.", ".hidden.1."),
    (".pre_norm_ffn.3.block.conv.", ".hidden.3."),
)


class _LinearEncoderLayer(nn.Module):
    def __init__(self, dim: int, ffn_dim: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(GroupNorm2d(1, dim), SeparableSelfAttention(dim))
        self.hidden = nn.Sequential(
            GroupNorm2d(1, dim), nn.Conv2d(dim, ffn_dim, 1), nn.SiLU(), nn.Conv2d(ffn_dim, dim, 1)
        )

    def forward(self, pixels: Tensor) -> Tensor:
        pixels = pixels + self.attention(pixels)
        return pixels + self.hidden(pixels)


@register(
    "mobilevit_v2",
    aliases=("mobilevit_v2_block", "mobilevit_block_v2", "mobilevit_v2_attention"),
    reference={"channels": 64, "dim": 96},
    parameters=144450,
    multiple=_PATCHES,
)
class MobileViTV2Block(nn.Module):
    """Mixes the pixels at the same place of every patch by separable self-attention, between convolutions.

    Shape: (N, C, H, W) -> (N, C, H', W'), H and W rounded up to multiples of patch_size; dynamic N, H, W.

    Args:
        channels: C.
        dim: width of the attention.
        ffn_multiplier: width of the hidden layers over dim; rounded down to a multiple of 16.
        depth: number of layers.
        patch_size: side of a patch.
        kernel_size: of the depthwise convolution.
        resize: resize maps to a multiple of the patch; without it, H and W must be multiples.

    Raises:
        ValueError: if kernel_size is even, a number is below 1, ffn_multiplier leaves no channel, or H or W is not a
            multiple of patch_size with resize=False.
    """

    official_keys = {
        "local_rep.0.block.conv": "local.0",
        "local_rep.0.block.norm": "local.1",
        "local_rep.1.block.conv": "widen",
        "conv_proj.block.conv": "project.0",
        "conv_proj.block.norm": "project.1",
    }

    def __init__(
        self,
        channels: int,
        *,
        dim: int,
        ffn_multiplier: float = 2,
        depth: int = 2,
        patch_size: int = 2,
        kernel_size: int = 3,
        resize: bool = True,
    ) -> None:
        super().__init__()
        require_positive(channels=channels, dim=dim, depth=depth, patch_size=patch_size)
        require_odd(kernel_size=kernel_size)
        ffn_dim = int(ffn_multiplier * dim // 16 * 16)
        if ffn_dim < 1:
            raise ValueError(
                f"ffn_multiplier * dim must be at least 16, got ffn_multiplier={ffn_multiplier} and dim={dim}: hidden "
                "layers are rounded down to a multiple of 16."
            )
        self.channels, self.patch_size, self.resize = channels, patch_size, resize
        self.local = conv_bn_silu(channels, channels, kernel_size, groups=channels)
        self.widen = nn.Conv2d(channels, dim, 1, bias=False)
        layers = [_LinearEncoderLayer(dim, ffn_dim) for _ in range(depth)]
        self.global_rep = nn.Sequential(*layers, GroupNorm2d(1, dim))
        self.project = nn.Sequential(nn.Conv2d(dim, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Rename the parts of the layers."""
        renamed = {}
        for key, value in state.items():
            for official, ours in _NAMES:
                key = key.replace(official, ours)
            renamed[key] = value
        return renamed

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "MobileViTV2Block")
        if not self.resize:
            require_multiple_size(x, self.patch_size, "MobileViTV2Block(resize=False)")
        elif self.patch_size > 1:
            height = (x.shape[2] + self.patch_size - 1) // self.patch_size * self.patch_size
            width = (x.shape[3] + self.patch_size - 1) // self.patch_size * self.patch_size
            if not sizes_are_known() or (height, width) != (x.shape[2], x.shape[3]):
                x = resize_bilinear(x, height, width, align_corners=True)
        y = self.widen(self.local(x))
        pixels = split_patches(y, self.patch_size, channels_first=True)
        pixels = self.global_rep(pixels)
        return self.project(merge_patches(pixels, self.patch_size, y.shape[2:], channels_first=True))
