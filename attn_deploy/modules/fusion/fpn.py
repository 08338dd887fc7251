"""Feature pyramid networks: FPN, top-down, and PAFPN, which goes bottom-up once more.

Paper: Feature Pyramid Networks for Object Detection, CVPR 2017, arXiv:1612.03144; Path Aggregation Network for Instance
    Segmentation, CVPR 2018, arXiv:1803.01534.
Official: tensors and maths as in open-mmlab/mmdetection, mmdet/models/necks/fpn.py and pafpn.py; facebookresearch's
    detectron2, modeling/backbone/fpn.py, has the same maths of FPN under other names.
Export: maps are enlarged to the next level's size by gathers with indices computed in the graph: right for sizes that are
    no doubles of each other. Extra levels by pooling are slices with step 2. Equal bit for bit. Fusing folds every
    BatchNorm.
Deviations: the PAN paper has a ReLU after each convolution of the way up; the code of mmdetection, and this, has none.
    YOLO's PAN concatenates and has blocks of its own: build it from c2f or vovgscsp. torchvision's FPN pools its extra
    level likewise.
Limits: PAFPN needs each level half as large as the one before it, rounded up; FPN takes any sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, require_choice, require_positive, resize_nearest
from attn_deploy.ops.pyramid_levels import check_levels, require_levels
from attn_deploy.registry import Input, register

_PYRAMID = Input("x", ("N", "in_channels[i]", "2**(count-1-i)*H", "2**(count-1-i)*W"), repeat="in_channels")
_SETTINGS = {
    "reference": {"in_channels": (64, 64, 64), "out_channels": 64},
    "inputs": (_PYRAMID,),
    "outputs": ("p0", "p1", "p2"),
    "sizes": {"H": 5, "W": 6},
}


@register("fpn", aliases=("feature_pyramid_network",), parameters=123264, **_SETTINGS)
class FPN(nn.Module):
    """Adds to each level of a pyramid the coarser one, enlarged, and smooths each sum by a 3x3 convolution.

    Shape: (N, C_i, H_i, W_i) for each level, the finest first -> num_outs of (N, C_out, H_i, W_i), extra levels half as
    large as the one before them, rounded up; dynamic N, H, W.

    Args:
        in_channels: channels of each level.
        out_channels: C_out.
        num_outs: levels of the output; None for as many as there are inputs.
        extra: how levels beyond the inputs are made: "pool" takes every second position of the last output, "conv" a
            strided 3x3 convolution of the last input, further ones of the last output.
        relu_before_extra_convs: ReLU before each extra convolution but the first.
        norm: None, or "batch" for BatchNorm after each convolution, which then has no bias.
        act: activation after each convolution: None, "relu", "silu", "relu6" or "leaky_relu".

    Raises:
        ValueError: if num_outs is below the number of levels, a word is unknown, or the maps do not fit.
    """

    size_rule = "any"

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        num_outs: int | None = None,
        extra: str = "pool",
        relu_before_extra_convs: bool = False,
        norm: str | None = None,
        act: str | None = None,
    ) -> None:
        super().__init__()
        require_levels("in_channels", in_channels, 1)
        require_positive(out_channels=out_channels)
        require_choice("extra", extra, ("pool", "conv"))
        require_choice("norm", norm, (None, "batch"))
        levels = len(in_channels)
        num_outs = levels if num_outs is None else num_outs
        if num_outs < levels:
            raise ValueError(
                f"num_outs must be at least the number of levels, got num_outs={num_outs} and {levels} entries of "
                f"in_channels: use num_outs={levels}, or leave levels out of in_channels."
            )
        self.in_channels, self.num_outs = tuple(in_channels), num_outs
        self.pooled, self.relu_before_extra_convs = extra == "pool", relu_before_extra_convs

        def layer(taken: int, kernel_size: int, stride: int = 1) -> ConvNormAct:
            return ConvNormAct(taken, out_channels, kernel_size, stride=stride, act=act, norm=norm is not None)

        self.lateral_convs = nn.ModuleList(layer(c, 1) for c in in_channels)
        self.fpn_convs = nn.ModuleList(layer(out_channels, 3) for _ in in_channels)
        for index in range(0 if self.pooled else num_outs - levels):
            self.fpn_convs.append(layer(in_channels[-1] if index == 0 else out_channels, 3, 2))
        self._add_path(layer, out_channels)

    def _add_path(self, layer: Callable[..., ConvNormAct], out_channels: int) -> None:
        """Make what a subclass needs for the way back up."""

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        check_levels(levels, self.in_channels, type(self).__name__, self.size_rule)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, levels, strict=True)]
        for index in range(len(levels) - 1, 0, -1):
            finer = laterals[index - 1]
            laterals[index - 1] = finer + resize_nearest(laterals[index], finer.shape[2], finer.shape[3])
        maps = self._upward([self.fpn_convs[i](x) for i, x in enumerate(laterals)])
        for index in range(len(levels), self.num_outs):
            maps.append(self._extra(index, maps[-1], levels[-1]))
        return tuple(maps)

    def _upward(self, maps: list[Tensor]) -> list[Tensor]:
        return maps

    def _extra(self, index: int, last: Tensor, last_input: Tensor) -> Tensor:
        if self.pooled:
            return last[:, :, ::2, ::2]
        if index == len(self.in_channels):
            return self.fpn_convs[index](last_input)
        return self.fpn_convs[index](last.relu() if self.relu_before_extra_convs else last)


@register("pan", aliases=("pafpn", "panet"), parameters=270976, **_SETTINGS)
class PAFPN(FPN):
    """FPN, and then a way from the finest level up: each level gets the finer one, halved by a strided convolution.

    Shape: (N, C_i, H_i, W_i) for each level, the finest first -> num_outs of (N, C_out, H_i, W_i), where each H_i and W_i
    is half of the one before it, rounded up; dynamic N, H, W.

    Args:
        in_channels: channels of each level.
        out_channels: C_out.
        num_outs: levels of the output; None for as many as there are inputs.
        extra: how levels beyond the inputs are made: "pool" takes every second position of the last output, "conv" a
            strided 3x3 convolution of the last input, further ones of the last output.
        relu_before_extra_convs: ReLU before each extra convolution but the first.
        norm: None, or "batch" for BatchNorm after each convolution, which then has no bias.
        act: activation after each convolution: None, "relu", "silu", "relu6" or "leaky_relu".

    Raises:
        ValueError: if num_outs is below the number of levels, a word is unknown, or the maps do not fit.
    """

    size_rule = "half"

    def _add_path(self, layer: Callable[..., ConvNormAct], out_channels: int) -> None:
        steps = len(self.in_channels) - 1
        self.downsample_convs = nn.ModuleList(layer(out_channels, 3, 2) for _ in range(steps))
        self.pafpn_convs = nn.ModuleList(layer(out_channels, 3) for _ in range(steps))

    def _upward(self, maps: list[Tensor]) -> list[Tensor]:
        for index, conv in enumerate(self.downsample_convs):
            maps[index + 1] = maps[index + 1] + conv(maps[index])
        return [maps[0], *(conv(x) for conv, x in zip(self.pafpn_convs, maps[1:], strict=True))]
