"""Semantic Embedding Block (ExFuse).

Paper: ExFuse: Enhancing Feature Fusion for Semantic Segmentation, ECCV 2018, arXiv:1804.03821.
Official: none was published; the default is the public form of pprp/awesome-attention-mechanism-in-cv
    (SematicEmbbedBlock.py), project_low=False is figure 4 of the paper.
Export: the high map is resized to the symbolic size of the low one rather than by a factor of 2; equal where the low
    map is twice as large, and right at other sizes.
Deviations: other re-implementations add BatchNorm and ReLU after the 3x3 convolution, which the paper does not have.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from attn_deploy.ops import check_channels, require_positive, resize_bilinear
from attn_deploy.registry import Input, register


@register(
    "seb",
    aliases=("semantic_embedding_block", "sematic_embbed_block", "semantic_embedding_branch"),
    reference={"high_channels": 64, "low_channels": 64, "out_channels": 64},
    parameters=41088,
    inputs=(Input("high", ("N", "high_channels", "H", "W")), Input("low", ("N", "low_channels", "2*H", "2*W"))),
)
class SemanticEmbeddingBlock(nn.Module):
    """Multiplies a low-level map by convolved and up-sampled high-level maps.

    Shape: (N, high_channels, h, w), (N, low_channels, H, W) -> (N, out_channels, H, W), further high-level maps after
    the first two inputs; dynamic N and all sizes.

    Args:
        high_channels: channels of the high-level map, or of each one if there are several.
        low_channels: channels of the low-level map.
        out_channels: channels of the output.
        project_low: whether a 1x1 convolution maps the low-level map to out_channels; False is the paper's form, which
            uses the map as it is.
        align_corners: convention of the bilinear up-sampling; None for True with project_low and False without.

    Raises:
        ValueError: if a channel count is below 1, low_channels differs from out_channels without project_low, or the
            inputs do not fit.
    """

    official_keys = {"conv3x3": "embed.0", "conv": "embed.0", "conv1x1": "project"}

    def __init__(
        self,
        high_channels: int | Sequence[int],
        low_channels: int,
        out_channels: int,
        *,
        project_low: bool = True,
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        highs = (high_channels,) if isinstance(high_channels, int) else tuple(high_channels)
        require_positive(low_channels=low_channels, out_channels=out_channels, high_channels=len(highs))
        require_positive(**{f"high_channels[{i}]": c for i, c in enumerate(highs)})
        if not project_low and low_channels != out_channels:
            raise ValueError(
                f"without project_low the low-level map is used as it is, got low_channels={low_channels} and "
                f"out_channels={out_channels}: use out_channels={low_channels}, or project_low=True."
            )
        self.high_channels = highs
        self.low_channels = low_channels
        self.align_corners = project_low if align_corners is None else align_corners
        self.embed = nn.ModuleList([nn.Conv2d(c, out_channels, 3, padding=1) for c in highs])
        self.project = nn.Conv2d(low_channels, out_channels, 1) if project_low else nn.Identity()

    def forward(self, high: Tensor, low: Tensor, *higher: Tensor) -> Tensor:
        maps = (high, *higher)
        if len(maps) != len(self.embed):
            raise ValueError(
                f"SemanticEmbeddingBlock: expected {len(self.embed)} high-level maps, got {len(maps)}: give "
                "high_channels one entry for each."
            )
        check_channels(low, self.low_channels, "SemanticEmbeddingBlock, low")
        y = self.project(low)
        for embed, given, channels in zip(self.embed, maps, self.high_channels, strict=True):
            check_channels(given, channels, "SemanticEmbeddingBlock, high")
            if given.shape[0] != low.shape[0]:
                raise ValueError(
                    f"SemanticEmbeddingBlock: high has a batch of {given.shape[0]} and low one of {low.shape[0]}; give "
                    "the maps of the same images."
                )
            y = y * resize_bilinear(embed(given), low.shape[2], low.shape[3], align_corners=self.align_corners)
        return y
