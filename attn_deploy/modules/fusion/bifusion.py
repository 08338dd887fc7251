"""BiFusion of YOLOv6: a coarse map enlarged, a middle one, and a fine one reduced, joined at the middle size.

Paper: YOLOv6 v3.0: A Full-Scale Reloading, 2023, arXiv:2301.05586.
Official: meituan/YOLOv6, yolov6/layers/common.py (BiFusion).
Export: ConvTranspose, Conv and Concat; nothing had to be replaced. Fusing folds every BatchNorm.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, check_channels, is_traced, require_positive
from attn_deploy.registry import Input, register


@register(
    "bifusion",
    aliases=("bi_fusion", "bic"),
    reference={"in_channels": (64, 64), "out_channels": 64},
    parameters=74304,
    inputs=(
        Input("coarse", ("N", "out_channels", "H", "W")),
        Input("middle", ("N", "in_channels[0]", "2*H", "2*W")),
        Input("fine", ("N", "in_channels[1]", "4*H", "4*W")),
    ),
)
class BiFusion(nn.Module):
    """Joins three neighbouring levels of a pyramid at the middle one's size.

    Shape: (N, C_out, H, W), (N, C_1, 2H, 2W), (N, C_2, 4H, 4W) -> (N, C_out, 2H, 2W); dynamic N, H, W.

    Args:
        in_channels: C_1 and C_2, of the middle and of the fine map; the coarse one has C_out channels.
        out_channels: C_out.
        bn_eps: of every BatchNorm.

    Raises:
        ValueError: if in_channels does not hold two counts, a count is below 1, or a map has other channels or another
            size.
    """

    official_keys = {
        **{f"cv{i}.block": f"cv{i}" for i in (1, 2, 3)},
        "upsample.upsample_transpose": "upsample",
        "downsample.block": "downsample",
    }

    def __init__(self, in_channels: Sequence[int], out_channels: int, *, bn_eps: float = 1e-5) -> None:
        super().__init__()
        if isinstance(in_channels, int) or len(in_channels) != 2:
            raise ValueError(
                f"in_channels must hold the channels of the middle and of the fine map, got {in_channels!r}: use "
                "(64, 32)."
            )
        require_positive(out_channels=out_channels, **{f"in_channels[{i}]": c for i, c in enumerate(in_channels)})
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.cv1 = ConvNormAct(in_channels[0], out_channels, act="relu", bn_eps=bn_eps)
        self.cv2 = ConvNormAct(in_channels[1], out_channels, act="relu", bn_eps=bn_eps)
        self.cv3 = ConvNormAct(3 * out_channels, out_channels, act="relu", bn_eps=bn_eps)
        self.upsample = nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2)
        self.downsample = ConvNormAct(out_channels, out_channels, 3, stride=2, act="relu", bn_eps=bn_eps)

    def forward(self, coarse: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        for level, channels in (
            (coarse, self.out_channels),
            (middle, self.in_channels[0]),
            (fine, self.in_channels[1]),
        ):
            check_channels(level, channels, "BiFusion")
        if not is_traced():
            height, width = middle.shape[2:]
            halved = ((fine.shape[2] + 1) // 2, (fine.shape[3] + 1) // 2)
            if (2 * coarse.shape[2], 2 * coarse.shape[3]) != (height, width) or halved != (height, width):
                raise ValueError(
                    f"BiFusion: the middle map must be twice as large as the coarse one and half as large as the fine "
                    f"one, got {tuple(coarse.shape[2:])}, {tuple(middle.shape[2:])} and {tuple(fine.shape[2:])}: pad "
                    "the image to a multiple of the coarsest level's stride."
                )
        reduced = self.downsample(self.cv2(fine))
        return self.cv3(torch.cat((self.upsample(coarse), self.cv1(middle), reduced), 1))
