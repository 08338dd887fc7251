"""AFPN: a feature pyramid in which neighbouring levels are fused first, and the others join step by step.

Paper: AFPN: Asymptotic Feature Pyramid Network for Object Detection, IEEE SMC 2023, arXiv:2306.15988.
Official: gyyang23/AFPN, mmdetection/mmdet/models/necks/afpn.py.
Export: Resize by the constants 2, 4 and 8 (linear, half_pixel), Conv and a slice for the fifth output; nothing had to be
    replaced. Fusing folds every BatchNorm.
Deviations: the official code asks for reductions by 4 and 8 without padding and gets paddings of 1 and 3; its checkpoints
    are trained so, and so it is here. Later revisions have three instead of four blocks at one place.
Limits: the sizes of the four maps are 8, 4, 2 and 1 times those of the coarsest.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import ConvNormAct, require_positive
from attn_deploy.ops.pyramid_levels import check_levels, require_levels
from attn_deploy.registry import Input, register

LEVELS = 4
WEIGHT_CHANNELS = 8
BLOCKS = 4
_NAMES = ("zero", "one", "two", "three")


def _layer(in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int = 0) -> nn.Module:
    return ConvNormAct(in_channels, out_channels, kernel_size, stride=stride, padding=padding, act="relu")


class _BasicBlock(nn.Module):
    """Two 3x3 convolutions with bias and BatchNorm, a shortcut around them, and ReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.BatchNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.branch(x)).relu()


class _SpatialFusion(nn.Module):
    """Adds maps of one shape with weights of each position, a softmax over the maps, and convolves the sum."""

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.weights = nn.ModuleList(_layer(channels, WEIGHT_CHANNELS) for _ in range(count))
        self.levels = nn.Conv2d(count * WEIGHT_CHANNELS, count, 1)
        self.conv = _layer(channels, channels, 3, padding=1)

    def forward(self, *maps: Tensor) -> Tensor:
        logits = self.levels(torch.cat([layer(x) for layer, x in zip(self.weights, maps, strict=True)], 1))
        weights = logits.softmax(1)
        fused = maps[0] * weights[:, :1]
        for index in range(1, len(maps)):
            fused = fused + maps[index] * weights[:, index : index + 1]
        return self.conv(fused)


class _Stage(nn.Module):
    """Fuses the first levels with each other, every one at its own size, and sends each through four blocks."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        levels = range(len(widths))
        self.resample = nn.ModuleList(
            nn.ModuleList(self._resampling(widths[source], widths[target], source - target) for source in levels)
            for target in levels
        )
        self.fusions = nn.ModuleList(_SpatialFusion(width, len(widths)) for width in widths)
        self.blocks = nn.ModuleList(nn.Sequential(*(_BasicBlock(width) for _ in range(BLOCKS))) for width in widths)

    @staticmethod
    def _resampling(source: int, target: int, coarser: int) -> nn.Module:
        if coarser == 0:
            return nn.Identity()
        if coarser > 0:
            return _layer(source, target)
        factor = 2**-coarser
        return _layer(
            source, target, factor, factor, (factor - 1) // 2
        )  # the official layer turns a padding of 0 into that

    def forward(self, *maps: Tensor) -> list[Tensor]:
        fused = []
        for target, layers in enumerate(self.resample):
            resized = []
            for source, x in enumerate(maps):
                y = layers[source](x)
                if source > target:
                    factor = float(2 ** (source - target))
                    y = F.interpolate(y, scale_factor=factor, mode="bilinear", align_corners=False)
                resized.append(y)
            fused.append(self.blocks[target](self.fusions[target](*resized)))
        return fused


@register(
    "afpn",
    aliases=("asymptotic_fpn",),
    reference={"in_channels": (64,) * LEVELS, "out_channels": 64},
    parameters=66325,
    inputs=(Input("x", ("N", "in_channels[i]", "2**(count-1-i)*H", "2**(count-1-i)*W"), repeat="in_channels"),),
    outputs=[f"p{i}" for i in range(LEVELS + 1)],
    sizes={"H": 3, "W": 4},
)
class AFPN(nn.Module):
    """Fuses four levels in three stages, of the two finest, of three and of all, by weights of each position.

    Shape: (N, C_i, 8H / 2^i, 8W / 2^i) for i = 0 to 3, the finest first -> (N, C_out, 8H / 2^i, 8W / 2^i) for i = 0 to 3
    and (N, C_out, ceil(H / 2), ceil(W / 2)); dynamic N, H, W.

    Args:
        in_channels: channels of the four levels; inside, each has an eighth of them.
        out_channels: C_out.

    Raises:
        ValueError: if in_channels does not hold four counts of at least 8, out_channels is below 1, or the maps do not
            fit.
    """

    def __init__(self, in_channels: Sequence[int], out_channels: int = 256) -> None:
        super().__init__()
        require_levels("in_channels", in_channels, LEVELS)
        require_positive(out_channels=out_channels)
        if len(in_channels) != LEVELS or min(in_channels) < 8:
            raise ValueError(
                f"in_channels must hold {LEVELS} counts of at least 8, of which each level keeps an eighth, got "
                f"{tuple(in_channels)}: use (256, 512, 1024, 2048)."
            )
        self.in_channels = tuple(in_channels)
        widths = [c // 8 for c in in_channels]
        self.reduce = nn.ModuleList(_layer(c, w) for c, w in zip(in_channels, widths, strict=True))
        self.enter = nn.ModuleList(_layer(w, w) for w in widths)
        self.stages = nn.ModuleList(_Stage(widths[:count]) for count in range(2, LEVELS + 1))
        self.project = nn.ModuleList(_layer(w, out_channels) for w in widths)
        self.official_keys = dict(self._official_keys())

    def _official_keys(self) -> list[tuple[str, str]]:
        pairs = []
        for i, name in enumerate(_NAMES):
            pairs += [(f"conv{i}", f"reduce.{i}"), (f"conv{i}{i}", f"project.{i}")]
            pairs.append((f"body.0.blocks_scale{name}1.0", f"enter.{i}"))
        for s, stage in enumerate(self.stages):
            count = len(stage.fusions)
            first = 0 if count == LEVELS else 1  # the official numbers of the weights start at 1 in the small stages
            for i, name in enumerate(_NAMES[:count]):
                for j, source in enumerate(_NAMES[:count]):
                    way = "up" if j > i else "down"
                    key = f"body.0.{way}sample_scale{source}{s + 1}_{2 ** abs(i - j)}.{way}sample.0"
                    pairs.append((key, f"stages.{s}.resample.{i}.{j}"))
                official, own = f"body.0.asff_scale{name}{s + 1}", f"stages.{s}.fusions.{i}"
                pairs += [(f"{official}.weight_level_{first + j}", f"{own}.weights.{j}") for j in range(count)]
                pairs += [(f"{official}.weight_levels", f"{own}.levels"), (f"{official}.conv", f"{own}.conv")]
                for b in range(BLOCKS):
                    block = f"body.0.blocks_scale{name}{s + 2}.{b}"
                    own = f"stages.{s}.blocks.{i}.{b}.branch"
                    pairs += [(f"{block}.conv{k + 1}", f"{own}.{3 * k}") for k in (0, 1)]
                    pairs += [(f"{block}.bn{k + 1}", f"{own}.{3 * k + 1}") for k in (0, 1)]
        return pairs

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        check_levels(levels, self.in_channels, "AFPN", "exact")
        entered = [enter(reduce(x)) for enter, reduce, x in zip(self.enter, self.reduce, levels, strict=True)]
        maps = entered[:1]
        for stage, joined in zip(self.stages, entered[1:], strict=True):
            maps = stage(*maps, joined)
        outputs = [project(x) for project, x in zip(self.project, maps, strict=True)]
        return (*outputs, outputs[-1][:, :, ::2, ::2])
