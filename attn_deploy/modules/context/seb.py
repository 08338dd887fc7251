"""Semantic Embedding Block (ExFuse).

Paper: ExFuse: Enhancing Feature Fusion for Semantic Segmentation, ECCV 2018, arXiv:1804.03821.
Official: none was published; the default is the public form of pprp/awesome-attention-mechanism-in-cv
    (SematicEmbbedBlock.py), project_low=False is figure 4 of the paper.
Export: the high map is resized to the symbolic size of the low one rather than by a factor of 2; equal where the low
    map is twice as large, and right at other sizes.
Deviations: other re-implementations add BatchNorm and ReLU after the 3x3 convolution, which the paper does not have.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import check_channels, is_traced, require_positive, resize_bilinear
from attn_deploy.registry import Input, register


@register(
    "seb",
    aliases=("semantic_embedding_block", "sematic_embbed_block", "semantic_embedding_branch"),
    reference={"high_channels": 64, "low_channels": 64, "out_channels": 64},
    parameters=41088,
    inputs=(Input("high", ("N", "high_channels", "H", "W")), Input("low", ("N", "low_channels", "2*H", "2*W"))),
)
class SemanticEmbeddingBlock(nn.Module):
    """Multiplies a low-level map by a convolved and up-sampled high-level map.

    For several high-level maps, as in the paper, apply one block of project_low=False after the other.

    Shape: (N, high_channels, h, w), (N, low_channels, H, W) -> (N, out_channels, H, W); dynamic N and all sizes.

    Args:
        high_channels: channels of the high-level map.
        low_channels: channels of the low-level map.
        out_channels: channels of the output.
        project_low: whether a 1x1 convolution maps the low-level map to out_channels; False is the paper's form, which
            uses the map as it is.
        align_corners: convention of the bilinear up-sampling; None for True with project_low and False without.

    Raises:
        ValueError: if a channel count is below 1, low_channels differs from out_channels without project_low, or the
            inputs do not fit.
    """

    official_keys = {"conv3x3": "embed", "conv": "embed", "conv1x1": "project"}

    def __init__(
        self,
        high_channels: int,
        low_channels: int,
        out_channels: int,
        *,
        project_low: bool = True,
        align_corners: bool | None = None,
    ) -> None:
        super().__init__()
        require_positive(high_channels=high_channels, low_channels=low_channels, out_channels=out_channels)
        if not project_low and low_channels != out_channels:
            raise ValueError(
                f"without project_low the low-level map is used as it is, got low_channels={low_channels} and "
                f"out_channels={out_channels}: use out_channels={low_channels}, or project_low=True."
            )
        self.high_channels = high_channels
        self.low_channels = low_channels
        self.align_corners = project_low if align_corners is None else align_corners
        self.embed = nn.Conv2d(high_channels, out_channels, 3, padding=1)
        self.project = nn.Conv2d(low_channels, out_channels, 1) if project_low else nn.Identity()

    def forward(self, high: Tensor, low: Tensor) -> Tensor:
        check_channels(high, self.high_channels, "SemanticEmbeddingBlock, high")
        check_channels(low, self.low_channels, "SemanticEmbeddingBlock, low")
        if not is_traced() and high.shape[0] != low.shape[0]:
            raise ValueError(
                f"SemanticEmbeddingBlock: high has a batch of {high.shape[0]} and low one of {low.shape[0]}; give the maps "
                "of the same images."
            )
        embedded = self.embed(high)
        return self.project(low) * resize_bilinear(
            embedded, low.shape[2], low.shape[3], align_corners=self.align_corners
        )
