"""Class-specific residual attention: the multi-label classifier of "Residual Attention", with one head or several.

Paper: Residual Attention: A Simple but Effective Method for Multi-Label Recognition, ICCV 2021, arXiv:2108.02456.
Official: Kevinz-code/CSRA, pipeline/csra.py (CSRA, MHA).
Export: the classifier's weights are divided by their norms, not the scores, and all heads are one convolution and one
    softmax. Equal up to rounding. Fusing divides once.
Deviations: External-Attention-pytorch's ResidualAttention has the branch of the maximum alone, with weights that are not
    divided. `rnan_res_att` is the residual attention of image restoration, another module.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_positive
from attn_deploy.registry import register

MAXIMUM = 99  # the temperature that stands for infinity: the softmax becomes the maximum
TEMPERATURES = {
    1: (1,),
    2: (1, MAXIMUM),
    4: (1, 2, 4, MAXIMUM),
    6: (1, 2, 3, 4, 5, MAXIMUM),
    8: (1, 2, 3, 4, 5, 6, 7, MAXIMUM),
}


def _unit_rows(weight: Tensor) -> Tensor:
    """Each class's weights divided by their Euclidean norm."""
    return weight / (weight * weight).sum(1, keepdim=True).sqrt()


def _attended(scores: Tensor, temperature: float) -> Tensor:
    """The mean of scores over positions, weighted by their softmax: (..., L) -> (...)."""
    if temperature == MAXIMUM:
        return scores.amax(-1)
    weights = (scores if temperature == 1 else scores * temperature).softmax(-1)
    return (scores * weights).sum(-1)


@register(
    "csra",
    aliases=("class_specific_residual_attention",),
    reference={"in_channels": 64, "num_classes": 20},
    parameters=1280,
    outputs=("logits",),
)
class CSRA(Fusible, nn.Module):
    """Classifies a map by the mean of each class's scores plus a part of their softmax-weighted mean.

    Shape: (N, in_channels, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        in_channels: channels of the map.
        num_classes: number of classes.
        T: temperature of the softmax over positions; 99 takes the maximum.
        lam: weight of the attended score.

    Raises:
        ValueError: if in_channels or num_classes is below 1, or T is not above 0.
    """

    def __init__(self, in_channels: int, num_classes: int, *, T: float = 1, lam: float = 0.1) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, num_classes=num_classes)
        if not T > 0:
            raise ValueError(f"T must be above 0, got {T}: use 1, or {MAXIMUM} for the maximum.")
        self.in_channels, self.T, self.lam = in_channels, T, lam
        self.head = nn.Conv2d(in_channels, num_classes, 1, bias=False)
        self.normalised = False

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "CSRA")
        weight = self.head.weight if self.normalised else _unit_rows(self.head.weight)
        scores = F.conv2d(x, weight).flatten(2)
        return scores.mean(2) + self.lam * _attended(scores, self.T)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Divide the weights by their norms once."""
        if self.normalised:
            return None
        self.head.weight = nn.Parameter(_unit_rows(self.head.weight))
        self.normalised = True
        return "normalised the classifier's weights"


@register(
    "csra_multihead",
    aliases=("residual_attention", "csra_mha"),
    reference={"in_channels": 64, "num_classes": 20},
    parameters=5120,
    outputs=("logits",),
)
class MultiHeadCSRA(Fusible, nn.Module):
    """Adds several class-specific residual attentions of growing temperature, the last of which takes the maximum.

    Shape: (N, in_channels, H, W) -> (N, num_classes); dynamic N, H, W.

    Args:
        in_channels: channels of the map.
        num_classes: number of classes.
        num_heads: 1, 2, 4, 6 or 8.
        lam: weight of the attended scores.

    Raises:
        ValueError: if in_channels or num_classes is below 1, or num_heads is another.
    """

    def __init__(self, in_channels: int, num_classes: int, *, num_heads: int = 4, lam: float = 0.1) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, num_classes=num_classes)
        require_choice("num_heads", num_heads, TEMPERATURES)
        self.in_channels, self.num_classes, self.lam = in_channels, num_classes, lam
        temperatures = TEMPERATURES[num_heads]
        self.num_heads = num_heads
        self.soft_heads = num_heads - temperatures.count(MAXIMUM)
        self.multi_head = nn.ModuleList(CSRA(in_channels, num_classes, T=t, lam=lam) for t in temperatures)
        soft = torch.tensor(temperatures[: self.soft_heads], dtype=torch.float32)
        self.register_buffer("temperatures", soft.reshape(-1, 1, 1), persistent=False)
        self.joined: nn.Conv2d | None = None

    def _weight(self) -> Tensor:
        return torch.cat([_unit_rows(head.head.weight) for head in self.multi_head])

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "MultiHeadCSRA")
        scores = F.conv2d(x, self._weight()) if self.joined is None else self.joined(x)
        scores = scores.reshape(x.shape[0], self.num_heads, self.num_classes, x.shape[2] * x.shape[3])
        soft = scores[:, : self.soft_heads]
        attended = (soft * (soft * self.temperatures).softmax(3)).sum((1, 3))
        if self.soft_heads < self.num_heads:
            attended = attended + scores[:, self.soft_heads].amax(2)
        return scores.mean(3).sum(1) + self.lam * attended

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Divide the weights by their norms once; one convolution then gives the scores of all heads."""
        if self.joined is not None:
            return None
        weight = self._weight()
        self.joined = nn.Conv2d(self.in_channels, len(weight), 1, bias=False)
        self.joined.weight = nn.Parameter(weight)
        self.multi_head = None
        return f"merged {self.num_heads} classifier{'s' * (self.num_heads > 1)} into one convolution"
