"""Self-attention networks: pairwise and patchwise self-attention over a local window, and the residual block of both.

Paper: Exploring Self-attention for Image Recognition, CVPR 2020, arXiv:2004.13621.
Official: hszhao/SAN, model/san.py (SAM with sa_type 0 and 1, Bottleneck) and the CUDA kernels of lib/sa (refpad).
Export: the CUDA kernels are one depthwise convolution with a one-hot kernel (ops.unfold), a product and a sum over the
    window. The position features follow from integer arithmetic on the axis lengths and stay at batch 1: the 1x1
    convolution over features and positions is applied to each half, and the halves are added. Equal up to rounding.
Deviations: the BatchNorm over features and positions is held as two; in training its running variance of the positions
    differs by the factor of Bessel's correction, as they are not repeated over the batch.
Limits: H and W must exceed the padding, dilation * (kernel_size // 2). The patchwise form has neither stride nor
    dilation: with them the official code reads wrong positions. Memory grows with out_channels * kernel_size^2 * H * W.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fold_bn_into_conv,
    require_choice,
    require_divisible,
    require_odd,
    require_positive,
)
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.sizes import require_least_size
from attn_deploy.ops.unfold import Unfold
from attn_deploy.registry import register

_REFERENCE = {"in_channels": 64, "out_channels": 16, "relation_channels": 4, "share": 8, "kernel_size": 7}


def _renamed(state: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    names = {"conv1": "query", "conv2": "key", "conv3": "value", **names}
    parts = {key: key.rpartition(".") for key in state}
    return {f"{names.get(layer, layer)}.{kind}": state[key] for key, (layer, _, kind) in parts.items()}


class _WindowAttention(nn.Module):
    """What both forms share: the three 1x1 convolutions, the windows, and the weighted sum of values."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        relation_channels: int | None,
        share: int,
        kernel_size: int,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, share=share)
        require_positive(stride=stride, dilation=dilation)
        require_odd(kernel_size=kernel_size)
        require_divisible("out_channels", out_channels, "share", share)
        width = in_channels // 16 if relation_channels is None else relation_channels
        if width < 1:
            raise ValueError(
                f"relation_channels must be at least 1, got {width} for in_channels={in_channels}: "
                "give relation_channels, which defaults to in_channels // 16."
            )
        self.in_channels, self.out_channels, self.relation_channels, self.share = (
            in_channels,
            out_channels,
            width,
            share,
        )
        self.places = kernel_size * kernel_size
        self.kernel_size, self.stride, self.dilation = kernel_size, stride, dilation
        self.padding = dilation * (kernel_size // 2)
        self.query = nn.Conv2d(in_channels, width, 1)
        self.key = nn.Conv2d(in_channels, width, 1)
        self.value = nn.Conv2d(in_channels, out_channels, 1)
        self.key_windows = Unfold(width, kernel_size, stride=stride, dilation=dilation)
        self.value_windows = Unfold(out_channels, kernel_size, stride=stride, dilation=dilation)

    def _check(self, x: Tensor) -> None:
        owner = type(self).__name__
        check_channels(x, self.in_channels, owner)
        require_least_size(
            x, self.padding + 1, owner, "the map is padded by reflection; use a smaller kernel_size or dilation"
        )

    def _reflected(self, x: Tensor) -> Tensor:
        return F.pad(x, [self.padding] * 4, mode="reflect") if self.padding else x

    def _aggregate(self, x: Tensor, weights: Tensor) -> Tensor:
        """Sum of the windows' values under weights (N, out_channels // share, places, positions)."""
        windows = self.value_windows(self._reflected(self.value(x)))
        grouped = windows.reshape(x.shape[0], self.share, self.out_channels // self.share, self.places, -1)
        mixed = (grouped * weights.unsqueeze(1)).sum(3)
        return mixed.reshape(x.shape[0], self.out_channels, windows.shape[2], windows.shape[3])


@register("san_pairwise", reference=_REFERENCE, parameters=1620, minimum={"H": 4, "W": 4})
class SANPairwiseAttention(Fusible, _WindowAttention):
    """Weighs each place of a window by what a small network makes of its difference from the centre.

    Shape: (N, in_channels, H, W) -> (N, out_channels, ceil(H / stride), ceil(W / stride)); dynamic N, H, W.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the values and the output.
        relation_channels: channels of the compared features; in_channels // 16 by default.
        share: channels that share one weight.
        kernel_size: of the window.
        stride: step between window centres.
        dilation: step between the places of a window.

    Raises:
        ValueError: if out_channels is not a multiple of share, kernel_size is even, relation_channels is less than 1,
            or H or W does not exceed dilation * (kernel_size // 2).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        relation_channels: int | None = None,
        share: int = 8,
        kernel_size: int = 3,
        stride: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__(in_channels, out_channels, relation_channels, share, kernel_size, stride, dilation)
        width = self.relation_channels
        self.position = nn.Linear(2, 2)
        self.feature_norm: nn.Module = nn.BatchNorm2d(width)
        self.position_norm: nn.Module = nn.BatchNorm2d(2)
        self.feature_mix = nn.Conv2d(width, width, 1, bias=False)
        self.position_mix = nn.Conv2d(2, width, 1, bias=False)
        self.mix_norm: nn.Module = nn.BatchNorm2d(width)
        self.logits = nn.Conv2d(width, out_channels // share, 1)
        self.fused = False

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split what acts on features and positions together: the first BatchNorm and the convolution after it."""
        width = self.relation_channels
        renamed = _renamed(state, {"conv_p": "position", "conv_w.3": "mix_norm", "conv_w.5": "logits"})
        joint = {"conv_w.0": ("feature_norm", "position_norm"), "conv_w.2": ("feature_mix", "position_mix")}
        for key in [k for k in renamed if k.rpartition(".")[0] in joint]:
            layer, _, kind = key.rpartition(".")
            tensor = renamed.pop(key)
            if tensor.dim() == 0:  # the count of batches is of no use
                continue
            axis = 1 if layer == "conv_w.2" else 0
            features, positions = joint[layer]
            renamed[f"{features}.{kind}"] = tensor.narrow(axis, 0, width)
            renamed[f"{positions}.{kind}"] = tensor.narrow(axis, width, 2)
        return renamed

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        windows = self.key_windows(self._reflected(self.key(x)))
        height, width = windows.shape[2], windows.shape[3]
        centre = self.query(x)[:, :, :: self.stride, :: self.stride].flatten(2).unsqueeze(2)
        features = centre - windows.reshape(x.shape[0], self.relation_channels, self.places, -1)
        mixed = self.feature_mix(self.feature_norm(features).relu())
        positions = self._positions(x, height, width)
        mixed = mixed + self.position_mix(self.position_norm(positions).relu())
        weights = self.logits(self.mix_norm(mixed).relu()).softmax(2)
        return self._aggregate(x, weights)

    def _positions(self, x: Tensor, height: int, width: int) -> Tensor:
        """Difference of the position features of centre and place: (1, 2, places, height * width)."""
        centre_x, place_x = self._axis(x.shape[3], width, x)
        centre_y, place_y = self._axis(x.shape[2], height, x)
        if self.fused:
            moved = self._position_features(centre_x - place_x, centre_y - place_y)
        else:
            moved = self._position_features(centre_x, centre_y) - self._position_features(place_x, place_y)
        return moved.reshape(1, 2, self.places, -1)

    def _axis(self, length: int, centres: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates in [-1, 1] along one axis: (1, centres) of the window centres, (kernel, centres) of their places.

        A place beyond the border is reflected, as the padding of the features is.
        """
        last = length - 1
        centre = torch.arange(centres, device=like.device).unsqueeze(0) * self.stride
        offset = torch.arange(self.kernel_size, device=like.device).unsqueeze(1) * self.dilation - self.padding
        place = last - (last - (centre + offset).abs()).abs()
        span = last if self.padding else length  # without padding an axis may have length 1, and nothing is compared
        return centre.to(like.dtype) * 2 / span - 1, place.to(like.dtype) * 2 / span - 1

    def _position_features(self, x: Tensor, y: Tensor) -> Tensor:
        """The linear map of two coordinates, over all pairs: (2, kernel, kernel, height, width)."""
        along_x = self.position.weight[:, 0].reshape(2, 1, 1, 1, 1) * x.unsqueeze(1)
        along_y = self.position.weight[:, 1].reshape(2, 1, 1, 1, 1) * y.unsqueeze(1).unsqueeze(3)
        return along_x + along_y + self.position.bias.reshape(2, 1, 1, 1, 1)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Fold all three BatchNorms, and drop the biases that a difference or the softmax cancels."""
        if self.fused:
            return None
        scale, shift = scale_and_shift(self.feature_norm)
        for conv in (self.query, self.key):
            conv.weight.mul_(scale.reshape(-1, 1, 1, 1))
            conv.bias.mul_(scale)
        self.query.bias.add_(shift)
        scale, shift = scale_and_shift(self.position_norm)
        self.position.weight.mul_(scale.reshape(-1, 1))
        self.position.bias.copy_(shift)  # its own bias cancels in the difference
        self.feature_mix = fold_bn_into_conv(self.feature_mix, self.mix_norm)
        scale, _ = scale_and_shift(self.mix_norm)
        self.position_mix.weight.mul_(scale.reshape(-1, 1, 1, 1))
        self.feature_norm, self.position_norm, self.mix_norm = nn.Identity(), nn.Identity(), nn.Identity()
        self.logits.bias = None
        self.fused = True
        return "folded 3 BatchNorm, dropped the biases that cancel"


@register("san_patchwise", reference=_REFERENCE, parameters=2658, minimum={"H": 4, "W": 4})
class SANPatchwiseAttention(Fusible, _WindowAttention):
    """Weighs the places of a window by what a small network makes of the whole window at once; no softmax.

    Shape: (N, in_channels, H, W) -> (N, out_channels, H, W); dynamic N, H, W.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the values and the output.
        relation_channels: channels of the features that the window is judged by; in_channels // 16 by default.
        share: channels that share one weight.
        kernel_size: of the window.

    Raises:
        ValueError: if out_channels is not a multiple of share, kernel_size is even, relation_channels is less than 1,
            or H or W does not exceed kernel_size // 2.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        relation_channels: int | None = None,
        share: int = 8,
        kernel_size: int = 3,
    ) -> None:
        super().__init__(in_channels, out_channels, relation_channels, share, kernel_size)
        width, weights = self.relation_channels * (self.places + 1), out_channels // share
        self.norm: nn.Module = nn.BatchNorm2d(width)
        self.weigh = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(width, weights, 1, bias=False),
            nn.BatchNorm2d(weights),
            nn.ReLU(),
            nn.Conv2d(weights, weights * self.places, 1),
        )

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Give the official layers our names."""
        return _renamed(
            state, {"conv_w.0": "norm", "conv_w.2": "weigh.1", "conv_w.3": "weigh.2", "conv_w.5": "weigh.4"}
        )

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        windows = self.key_windows(self._reflected(self.key(x)))
        weights = self.weigh(self.norm(torch.cat([self.query(x), windows], 1)))
        return self._aggregate(x, weights.reshape(x.shape[0], self.out_channels // self.share, self.places, -1))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Take the first BatchNorm into the query's convolution and into the one-hot kernel of the windows."""
        if isinstance(self.norm, nn.Identity):
            return None
        scale, shift = scale_and_shift(self.norm)
        width = self.relation_channels
        self.query.weight.mul_(scale[:width].reshape(-1, 1, 1, 1))
        self.query.bias.mul_(scale[:width]).add_(shift[:width])
        self.key_windows.weight.mul_(scale[width:].reshape(-1, 1, 1, 1))
        self.key_windows.bias = shift[width:].clone()
        self.norm = nn.Identity()
        return "folded BatchNorm into the query and the window kernel"


@register(
    "san_bottleneck_pairwise",
    aliases=("san_bottleneck",),
    reference={"channels": 64, "kernel_size": 7},
    parameters=2868,
    minimum={"H": 4, "W": 4},
    summary="Residual block of the self-attention network around pairwise attention.",
)
@register(
    "san_bottleneck_patchwise",
    reference={"channels": 64, "kernel_size": 7, "attention": "patchwise"},
    parameters=3906,
    minimum={"H": 4, "W": 4},
    summary="Residual block of the self-attention network around patchwise attention.",
)
class SANBottleneck(Fusible, nn.Module):
    """Residual block of the self-attention network: BatchNorm, attention, BatchNorm, 1x1 convolution.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        attention: 'pairwise' or 'patchwise'.
        relation_channels: channels of the compared features; channels // 16 by default.
        mid_channels: channels of the attention's values; channels // 4 by default.
        share: channels that share one weight.
        kernel_size: of the window.

    Raises:
        ValueError: if attention is unknown, mid_channels is not a multiple of share, kernel_size is even,
            relation_channels is less than 1, or H or W does not exceed kernel_size // 2.
    """

    def __init__(
        self,
        channels: int,
        *,
        attention: str = "pairwise",
        relation_channels: int | None = None,
        mid_channels: int | None = None,
        share: int = 8,
        kernel_size: int = 7,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("attention", attention, ("pairwise", "patchwise"))
        form = SANPairwiseAttention if attention == "pairwise" else SANPatchwiseAttention
        width = channels // 4 if mid_channels is None else mid_channels
        require_positive(mid_channels=width)
        self.channels = channels
        self.bn1 = nn.BatchNorm2d(channels)
        self.sam = form(channels, width, relation_channels=relation_channels, share=share, kernel_size=kernel_size)
        self.bn2: nn.Module = nn.BatchNorm2d(width)
        self.conv = nn.Conv2d(width, channels, 1)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Convert the attention's part by its own rule."""
        inner = {k.removeprefix("sam."): v for k, v in state.items() if k.startswith("sam.")}
        outer = {k: v for k, v in state.items() if not k.startswith("sam.")}
        return outer | {f"sam.{k}": v for k, v in self.sam.convert_official(inner).items()}

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "SANBottleneck")
        return x + self.conv(self.bn2(self.sam(self.bn1(x).relu())).relu())

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Take the second BatchNorm into the values, in which the attention is linear.

        Pairwise weights sum to one, so the shift goes along; after patchwise weights it stays as an addition.
        """
        if not isinstance(self.bn2, nn.BatchNorm2d):
            return None
        scale, shift = scale_and_shift(self.bn2)
        self.sam.value.weight.mul_(scale.reshape(-1, 1, 1, 1))
        self.sam.value.bias.mul_(scale)
        if isinstance(self.sam, SANPairwiseAttention):
            self.sam.value.bias.add_(shift)
            self.bn2 = nn.Identity()
        else:
            self.bn2 = _Shift(shift)
        return "folded BatchNorm into the values"


class _Shift(nn.Module):
    shift: Tensor

    def __init__(self, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.reshape(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.shift
