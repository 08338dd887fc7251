"""Object-contextual representations: object regions gathered from coarse logits, and pixels attending to them.

Paper: Object-Contextual Representations for Semantic Segmentation, ECCV 2020, arXiv:1909.11065.
Official: HRNet/HRNet-Semantic-Segmentation, branch HRNet-OCR, lib/models/seg_hrnet_ocr.py (SpatialGather_Module,
    _ObjectAttentionBlock, SpatialOCR_Module).
Export: attention runs from objects to pixels (classes x positions, softmax over the class axis), so neither the query
    map nor the context is transposed. Equal up to rounding.
Deviations: BatchNorm stands for the official SyncBatchNorm. mmsegmentation's OCRHead has no dropout, and with scale > 1
    it throws its resized context away.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import check_channels, conv_bn_relu, require_positive, resize_bilinear
from attn_deploy.ops.sizes import require_same_size, sizes_are_known
from attn_deploy.registry import Input, register


@register(
    "ocr_spatial_gather",
    reference={},
    parameters=0,
    inputs=(Input("feats", ("N", 64, "H", "W")), Input("logits", ("N", 19, "H", "W"))),
)
class SpatialGather(nn.Module):
    """Averages a map over each class's region, which a softmax of the class's logits over positions gives.

    Shape: (N, C, H, W), (N, classes, H, W) -> (N, C, classes, 1); dynamic N, H, W.

    Args:
        scale: factor on the logits.

    Raises:
        ValueError: if scale is less than 1, or the two maps differ in size.
    """

    def __init__(self, *, scale: float = 1) -> None:
        super().__init__()
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}: 1 takes the logits as they are.")
        self.scale = scale

    def forward(self, feats: Tensor, logits: Tensor) -> Tensor:
        require_same_size("SpatialGather", feats=feats, logits=logits)
        logits = logits.flatten(2)
        regions = (logits if self.scale == 1 else logits * self.scale).softmax(2)
        # Regions on the left: kernels of a product waste less on 19 rows than on 19 columns.
        return regions.matmul(feats.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)


@register(
    "ocr_object_attention",
    parameters=10688,
    inputs=(Input("x", ("N", "channels", "H", "W")), Input("proxy", ("N", "channels", 19, 1))),
)
class ObjectAttentionBlock2d(nn.Module):
    """Gives each pixel a mixture of the object regions' features, weighted by similarity.

    Shape: (N, C, H, W), (N, C, objects, 1) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        key_channels: width of queries, keys and values; channels // 2 by default.
        scale: pixels attend on a map max-pooled by this; the context is resized back bilinearly.

    Raises:
        ValueError: if scale is less than 1 or larger than H or W, or the objects are not (N, C, objects, 1).
    """

    official_keys = {
        f"{branch}.{theirs}": f"{ours}.{index}"
        for branch, ours in (("f_pixel", "pixel"), ("f_object", "object"), ("f_down", "value"), ("f_up", "output"))
        for theirs, index in (("0", 0), ("1.0", 1), ("2", 3), ("3.0", 4))
    }

    def __init__(self, channels: int, *, key_channels: int | None = None, scale: int = 1) -> None:
        super().__init__()
        width = channels // 2 if key_channels is None else key_channels
        require_positive(channels=channels, key_channels=width, scale=scale)
        self.channels, self.key_channels, self.scale = channels, width, scale
        self.pixel = nn.Sequential(*conv_bn_relu(channels, width), *conv_bn_relu(width, width))
        self.object = nn.Sequential(*conv_bn_relu(channels, width), *conv_bn_relu(width, width))
        self.value = conv_bn_relu(channels, width)
        self.output = conv_bn_relu(width, channels)

    def forward(self, x: Tensor, proxy: Tensor) -> Tensor:
        check_channels(x, self.channels, "ObjectAttentionBlock2d")
        check_channels(proxy, self.channels, "ObjectAttentionBlock2d")
        height, width = x.shape[2], x.shape[3]
        if self.scale > 1:
            if sizes_are_known() and min(height, width) < self.scale:
                raise ValueError(
                    f"ObjectAttentionBlock2d: H and W must be at least scale={self.scale}, got {height}x{width}: "
                    "use a smaller scale."
                )
            x = F.max_pool2d(x, self.scale)
        query = self.pixel(x).flatten(2)
        key = self.object(proxy).flatten(2) * self.key_channels**-0.5
        attention = key.transpose(1, 2).matmul(query).softmax(1)
        context = self.value(proxy).flatten(2).matmul(attention)
        context = self.output(context.reshape(x.shape[0], self.key_channels, x.shape[2], x.shape[3]))
        if self.scale > 1:
            return resize_bilinear(context, height, width, align_corners=True)
        return context


@register(
    "ocr",
    aliases=("object_contextual_representation",),
    reference={"in_channels": 64, "out_channels": 64, "key_channels": 32},
    parameters=19008,
    inputs=(Input("feats", ("N", "in_channels", "H", "W")), Input("logits", ("N", 19, "H", "W"))),
)
class SpatialOCR(nn.Module):
    """Augments each pixel of a segmentation map with the features of the objects that coarse logits find.

    Shape: (N, in_channels, H, W), (N, classes, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: channels of the features; 512 officially.
        out_channels: channels of the output; 512 officially.
        key_channels: width of the attention, in_channels // 2 by default; 256 officially.
        scale: pixels attend on a map max-pooled by this.
        gather_scale: factor on the logits before their softmax over positions.
        dropout: rate of the Dropout2d at the end; 0.05 in the official configurations.

    Raises:
        ValueError: if a scale is less than 1, or features and logits differ in size.
    """

    official_keys = {
        **{
            f"{prefix}object_context_block.{theirs}": f"attention.{ours}"
            for prefix in ("", "ocr_distri_head.")
            for theirs, ours in ObjectAttentionBlock2d.official_keys.items()
        },
        **{
            f"{prefix}conv_bn_dropout.{theirs}": f"merge.{ours}"
            for prefix in ("", "ocr_distri_head.")
            for theirs, ours in (("0", 0), ("1.0", 1))
        },
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        key_channels: int | None = None,
        scale: int = 1,
        gather_scale: float = 1,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        self.in_channels = in_channels
        if gather_scale < 1:
            raise ValueError(f"gather_scale must be at least 1, got {gather_scale}: 1 takes the logits as they are.")
        self.gather = SpatialGather(scale=gather_scale)
        self.attention = ObjectAttentionBlock2d(in_channels, key_channels=key_channels, scale=scale)
        self.merge = nn.Sequential(*conv_bn_relu(2 * in_channels, out_channels), nn.Dropout2d(dropout))

    def forward(self, feats: Tensor, logits: Tensor) -> Tensor:
        check_channels(feats, self.in_channels, "SpatialOCR")
        context = self.attention(feats, self.gather(feats, logits))
        return self.merge(torch.cat([context, feats], 1))
