"""Frequency channel attention (FcaNet).

Paper: FcaNet: Frequency Channel Attention Networks, ICCV 2021, arXiv:2012.11879.
Official: cfzd/FcaNet, model/layer.py, MultiSpectralAttentionLayer.
Export: a DCT filter is the product of a cosine along H and one along W, and adaptive pooling is a matrix along each
    axis too; both are multiplied first, so that what meets the input are (C, H) and (C, W) weights and no pooled map
    exists. The official branch on the input size is gone: at the filter's own size the pooling matrix is the identity.
Limits: filters smaller than 7x7 are refused, for which the official code turns every frequency into the average.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from attn_deploy.ops import averaging_matrix, check_channels, require_divisible, require_positive, require_reduced
from attn_deploy.registry import register

# The first 32 frequencies (along H, along W) on a 7x7 grid, in the order of each selection of the paper.
FREQUENCIES = {
    "top": (
        (0, 0, 6, 0, 0, 1, 1, 4, 5, 1, 3, 0, 0, 0, 3, 2, 4, 6, 3, 5, 5, 2, 6, 5, 5, 3, 3, 4, 2, 2, 6, 1),
        (0, 1, 0, 5, 2, 0, 2, 0, 0, 6, 0, 4, 6, 3, 5, 2, 6, 3, 3, 3, 5, 1, 1, 2, 4, 2, 1, 1, 3, 0, 5, 3),
    ),
    "low": (
        (0, 0, 1, 1, 0, 2, 2, 1, 2, 0, 3, 4, 0, 1, 3, 0, 1, 2, 3, 4, 5, 0, 1, 2, 3, 4, 5, 6, 1, 2, 3, 4),
        (0, 1, 0, 1, 2, 0, 1, 2, 2, 3, 0, 0, 4, 3, 1, 5, 4, 3, 2, 1, 0, 6, 5, 4, 3, 2, 1, 0, 6, 5, 4, 3),
    ),
    "bot": (
        (6, 1, 3, 3, 2, 4, 1, 2, 4, 4, 5, 1, 4, 6, 2, 5, 6, 1, 6, 2, 2, 4, 3, 3, 5, 5, 6, 2, 5, 5, 3, 6),
        (6, 4, 4, 6, 6, 3, 1, 4, 4, 5, 6, 5, 2, 2, 5, 1, 4, 3, 5, 0, 3, 1, 1, 2, 4, 2, 1, 1, 5, 3, 3, 3),
    ),
}
GRID = 7


def selected_frequencies(method: str) -> list[tuple[int, int]]:
    """The (H, W) frequencies of a selection such as "top16".

    Raises:
        ValueError: if the method is not top, bot or low followed by 1, 2, 4, 8, 16 or 32.
    """
    match = re.fullmatch(r"(top|bot|low)(1|2|4|8|16|32)", str(method))
    if match is None:
        raise ValueError(
            f"freq_sel_method must be 'top', 'bot' or 'low' followed by 1, 2, 4, 8, 16 or 32, got {method!r}: "
            "the published networks use 'top16'."
        )
    along_h, along_w = FREQUENCIES[match[1]]
    return list(zip(along_h, along_w, strict=True))[: int(match[2])]


def cosines(frequencies: list[int], length: int) -> Tensor:
    """Orthonormal DCT-II basis: one row of ``length`` values for each frequency, computed in double precision."""
    frequency = torch.tensor(frequencies, dtype=torch.float64).unsqueeze(1)
    position = torch.arange(length, dtype=torch.float64) + 0.5
    wave = torch.cos(math.pi * frequency * position / length) / math.sqrt(length)
    return wave * torch.where(frequency == 0, 1.0, math.sqrt(2))


@register(
    "fca",
    aliases=("fcanet", "multi_spectral_attention"),
    reference={"channels": 64, "dct_h": 56, "dct_w": 56},
    parameters=512,
)
class MultiSpectralAttention(nn.Module):
    """Reweights channels by a gate computed from DCT coefficients, a frequency for each block of channels.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        dct_h: height of the DCT filters; the published networks use 56, 28, 14, 7 for their four stages.
        dct_w: width of the DCT filters.
        reduction: factor by which the gate's hidden layer is narrower than C.
        freq_sel_method: which frequencies, and how many: top, bot or low and 1, 2, 4, 8, 16 or 32.

    Raises:
        ValueError: if freq_sel_method is unknown, channels is not a multiple of the number of frequencies,
            channels // reduction < 1, or dct_h or dct_w is below 7.
    """

    official_keys = {"fc.0": "reduce", "fc.2": "expand"}

    def __init__(
        self, channels: int, *, dct_h: int, dct_w: int, reduction: int = 16, freq_sel_method: str = "top16"
    ) -> None:
        super().__init__()
        width = require_reduced(channels, reduction)
        require_positive(dct_h=dct_h, dct_w=dct_w)
        for name, value in (("dct_h", dct_h), ("dct_w", dct_w)):
            if value < GRID:
                raise ValueError(
                    f"{name} must be at least {GRID}, got {name}={value}: frequencies are chosen on a "
                    f"{GRID}x{GRID} grid, and a smaller filter turns all of them into the average."
                )
        chosen = selected_frequencies(freq_sel_method)
        require_divisible("channels", channels, "the number of frequencies", len(chosen))
        self.channels = channels
        block = channels // len(chosen)
        down = cosines([u * (dct_h // GRID) for u, _ in chosen], dct_h).repeat_interleave(block, 0)
        across = cosines([v * (dct_w // GRID) for _, v in chosen], dct_w).repeat_interleave(block, 0)
        self.register_buffer("down", down.float(), persistent=False)
        self.register_buffer("across", across.float(), persistent=False)
        self.reduce = nn.Conv2d(channels, width, 1, bias=False)
        self.expand = nn.Conv2d(width, channels, 1, bias=False)

    def convert_official(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the official filter buffer, which is rebuilt here, once it is seen to be the same.

        Raises:
            ValueError: if the checkpoint's filters are others.
        """
        state = dict(state)
        official = state.pop("dct_layer.weight", None)
        if official is not None:
            ours = self.down.unsqueeze(2) * self.across.unsqueeze(1)
            if official.shape != ours.shape:
                raise ValueError(
                    f"dct_layer.weight is {tuple(official.shape)}, this module's filters are {tuple(ours.shape)}: "
                    "construct it with the checkpoint's dct_h and dct_w."
                )
            if not torch.allclose(official.to(ours), ours, rtol=0, atol=1e-4):
                raise ValueError(
                    "dct_layer.weight holds other frequencies than this module: "
                    "construct it with the checkpoint's freq_sel_method."
                )
        return state

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "MultiSpectralAttention")
        down = torch.matmul(self.down, averaging_matrix(self.down.shape[1], x.shape[2], x))
        across = torch.matmul(self.across, averaging_matrix(self.across.shape[1], x.shape[3], x))
        # Each row against its channel's filter. bmm of spelled out items: a product that may broadcast asks torch.export
        # for a batch above 1.
        filters = across.expand(x.shape[0], -1, -1).clone().flatten(0, 1).unsqueeze(2)
        rows = torch.bmm(x.flatten(0, 1), filters).reshape(x.shape[0], self.channels, -1)
        coefficients = (rows * down).sum(2).reshape(x.shape[0], self.channels, 1, 1)
        return x * self.expand(self.reduce(coefficients).relu()).sigmoid()
