"""BiFPN layer of EfficientDet: a pyramid fused top-down and then bottom-up, each node with weights of its own.

Paper: EfficientDet: Scalable and Efficient Object Detection, CVPR 2020, arXiv:1911.09070.
Official: google/automl, efficientdet (TensorFlow); tensors as in rwightman/efficientdet-pytorch, effdet/efficientdet.py
    (BiFpnLayer), which takes its checkpoints.
Export: maps are enlarged to the size of the node's own level by gathers with indices computed in the graph; the official
    code bakes the sizes that it was built with. SAME padding before the max pool repeats the edge, which no maximum
    notices, in place of -inf, which fp16 runtimes trip over. Equal. Fusing folds every BatchNorm, makes the weights
    constants, and multiplies each into the 1x1 convolution of its input where there is one.
Deviations: zylo117/Yet-Another-EfficientDet-Pytorch pads with zeros before the max pool, which differs wherever the edge
    is negative, and names its tensors otherwise. The node without its convolutions is the zoo's weighted_feature_fusion.
Limits: each level half as large as the one before it, rounded up.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    activation,
    fold_bn_into_conv,
    pad_same,
    require_choice,
    require_positive,
    resize_nearest,
)
from attn_deploy.ops.pyramid_levels import check_levels, require_levels
from attn_deploy.registry import Input, register

METHODS = {"fast": "fast", "fastattn": "fast", "softmax": "softmax", "attn": "softmax", "sum": "sum"}
_LEVELS = 5


def _conv_bn(in_channels: int, out_channels: int, bias: bool) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, eps=1e-3, momentum=0.01))


class _Node(Fusible, nn.Module):
    """The weighted sum of maps, of which the last is resampled to the first one's size, and a separable convolution."""

    def __init__(
        self,
        widths: Sequence[int],
        out_channels: int,
        *,
        upward: bool,
        method: str,
        eps: float,
        same: bool,
        act: str | None,
        bias: bool,
    ) -> None:
        super().__init__()
        self.upward, self.method, self.eps, self.same = upward, method, eps, same
        self.project = nn.ModuleList(
            nn.Identity() if width == out_channels else _conv_bn(width, out_channels, bias) for width in widths
        )
        self.scaled = [method != "sum"] * len(widths)
        if method != "sum":
            self.weight = nn.Parameter(torch.ones(len(widths)))
        self.act = activation(act)
        self.depthwise = nn.Conv2d(out_channels, out_channels, 3, padding=1, groups=out_channels, bias=False)
        self.mix = _conv_bn(out_channels, out_channels, bias)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        if self.method in ("sum", "constant"):
            return None
        factors = self._factors().detach()
        for index, layer in enumerate(self.project):
            if isinstance(layer, nn.Sequential):
                conv = fold_bn_into_conv(*layer)
                conv.weight *= factors[index]
                conv.bias *= factors[index]
                self.project[index], self.scaled[index] = conv, False
        self.weight = nn.Parameter(factors, requires_grad=False)
        self.method = "constant"
        return "made the normalised weights constants"

    def forward(self, *features: Tensor) -> Tensor:
        maps = [layer(x) for layer, x in zip(self.project, features, strict=True)]
        maps[-1] = self._up(maps[-1], features[0]) if self.upward else self._down(maps[-1])
        if any(self.scaled):
            factors = self._factors()
            maps = [x * factors[i] if self.scaled[i] else x for i, x in enumerate(maps)]
        return self.mix(self.depthwise(self.act(sum(maps[1:], maps[0]))))

    def _factors(self) -> Tensor:
        if self.method == "fast":
            weight = self.weight.relu()
            return weight / (weight.sum() + self.eps)
        return self.weight.softmax(0) if self.method == "softmax" else self.weight

    def _up(self, x: Tensor, own: Tensor) -> Tensor:
        return resize_nearest(x, own.shape[2], own.shape[3])

    def _down(self, x: Tensor) -> Tensor:
        if self.same:
            return F.max_pool2d(pad_same(x, 3, stride=2, mode="replicate"), 3, 2)
        return F.max_pool2d(x, 3, 2, 1)


@register(
    "bifpn_layer",
    aliases=("bifpn", "bifpn_block"),
    reference={"in_channels": (64,) * _LEVELS, "out_channels": 64},
    parameters=38931,
    inputs=(Input("x", ("N", "in_channels[i]", "2**(count-1-i)*H", "2**(count-1-i)*W"), repeat="in_channels"),),
    outputs=[f"p{i}" for i in range(_LEVELS)],
    sizes={"H": 2, "W": 3},
)
class BiFPNLayer(nn.Module):
    """Fuses the levels of a pyramid from the coarsest to the finest and back.

    Shape: (N, C_i, H_i, W_i) for each level, the finest first -> as many of (N, C_out, H_i, W_i), where each H_i and W_i
    is half of the one before it, rounded up; dynamic N, H, W.

    Args:
        in_channels: channels of each level.
        out_channels: C_out.
        weight_method: "fast" (or "fastattn") for relu(w) / (sum + eps), "softmax" (or "attn"), or "sum" without weights.
        eps: added to the sum of the weights.
        pad: of the max pools: "same" as TensorFlow pads, or "symmetric", 1 on each side.
        act: activation before each separable convolution: "silu", "relu", "relu6", "leaky_relu" or None.
        redundant_bias: biases in front of BatchNorms, which TensorFlow's checkpoints have; None for pad == "same".

    Raises:
        ValueError: if there are fewer than 2 levels, a word is unknown, or the maps do not fit.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        *,
        weight_method: str = "fast",
        eps: float = 1e-4,
        pad: str = "same",
        act: str | None = "silu",
        redundant_bias: bool | None = None,
    ) -> None:
        super().__init__()
        require_levels("in_channels", in_channels, 2)
        require_positive(out_channels=out_channels)
        require_choice("weight_method", weight_method, METHODS)
        require_choice("pad", pad, ("same", "symmetric"))
        levels = len(in_channels)
        self.in_channels = tuple(in_channels)
        self.nodes = nn.ModuleList()
        self.sources: list[tuple[int, ...]] = []  # of each node: which of the inputs, and of the nodes after them
        latest, mine = levels - 1, [[i] for i in range(levels)]
        for index in [*range(levels - 2, -1, -1), *range(1, levels)]:
            upward = len(self.nodes) < levels - 1
            sources = (*mine[index], latest)
            widths = [in_channels[s] if s < levels else out_channels for s in sources]
            self.nodes.append(
                _Node(
                    widths,
                    out_channels,
                    upward=upward,
                    method=METHODS[weight_method],
                    eps=eps,
                    same=pad == "same",
                    act=act,
                    bias=pad == "same" if redundant_bias is None else redundant_bias,
                )
            )
            self.sources.append(sources)
            latest = levels + len(self.nodes) - 1
            mine[index].append(latest)
        self.official_keys = dict(self._official_keys())

    def _official_keys(self) -> list[tuple[str, str]]:
        pairs = []
        for n, sources in enumerate(self.sources):
            official, own = f"fnode.{n}", f"nodes.{n}"
            pairs += [
                (f"{official}.combine.edge_weights", f"{own}.weight"),
                (f"{official}.after_combine.conv.conv_dw", f"{own}.depthwise"),
                (f"{official}.after_combine.conv.conv_pw", f"{own}.mix.0"),
                (f"{official}.after_combine.conv.bn", f"{own}.mix.1"),
            ]
            for j, source in enumerate(sources):
                resample = f"{official}.combine.resample.{source}.conv"
                pairs += [(f"{resample}.conv", f"{own}.project.{j}.0"), (f"{resample}.bn", f"{own}.project.{j}.1")]
        return pairs

    def forward(self, *levels: Tensor) -> tuple[Tensor, ...]:
        check_levels(levels, self.in_channels, "BiFPNLayer", "half")
        maps = list(levels)
        for node, sources in zip(self.nodes, self.sources, strict=True):
            maps.append(node(*[maps[s] for s in sources]))
        return tuple(maps[-len(levels) :])
