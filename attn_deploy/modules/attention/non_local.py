"""Non-local block with its four pairwise functions.

Paper: Non-local Neural Networks, CVPR 2018, arXiv:1711.07971.
Official: AlexHex7/Non-local_pytorch, lib/non_local_<mode>.py (NONLocalBlock2D), the form in common use; the authors'
    own code, facebookresearch/video-nonlocal-net, is Caffe2.
Export: dot_product is re-associated to (g phi^T / Q) theta, linear in H * W, so the HW x Q matrix is never formed;
    concatenation splits its weight, w^T [theta_p; phi_q] = a_p + b_q, so the pair tensor of 2C' channels is never
    formed; gaussian scales its products down before they are formed and up after the maximum is subtracted. Equal up to
    rounding.
Deviations: the Caffe2 code pools before the convolutions of phi and g and scales the products by C'^-0.5; mmcv scales,
    has no sub-sampling and no BatchNorm by default; timm's NonLocalAttn is C' = C / 8, scaled, without pooling.
Limits: with sub_sample, H and W of at least 2.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_choice, require_positive
from attn_deploy.ops.bounded import bounded_product_softmax
from attn_deploy.registry import register

MODES = ("embedded_gaussian", "gaussian", "dot_product", "concatenation")
_SUMMARIES = {
    "embedded_gaussian": "Adds to each position a softmax-weighted sum over all positions of learned embeddings.",
    "gaussian": "Non-local block whose weights are the softmax of plain dot products of the features.",
    "dot_product": "Non-local block with averaged dot products and no softmax, at a cost linear in H * W.",
    "concatenation": "Non-local block whose weights are a ReLU of a learned projection of both embeddings.",
}
_PARAMETERS = {"embedded_gaussian": 8480, "gaussian": 4320, "dot_product": 8480, "concatenation": 8544}
_ALIASES = {"embedded_gaussian": ("non_local", "nl")}


def _register_modes(cls: type[NonLocalBlock]) -> type[NonLocalBlock]:
    for mode in MODES:
        register(
            f"non_local_{mode}",
            aliases=_ALIASES.get(mode, ()),
            reference={"channels": 64, "mode": mode},
            parameters=_PARAMETERS[mode],
            minimum={"H": 2, "W": 2},
            summary=_SUMMARIES[mode],
        )(cls)
    return cls


@_register_modes
class NonLocalBlock(Fusible, nn.Module):
    """Adds to each position a weighted sum of an embedding over all positions.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        mode: pairwise function, 'embedded_gaussian', 'gaussian', 'dot_product' or 'concatenation'.
        inter_channels: width C' of the embeddings; None is C // 2, at least 1.
        sub_sample: halve the map of keys and values by max pooling.
        bn_layer: BatchNorm after the last convolution; it, or else that convolution, starts at zero: an identity.

    Raises:
        ValueError: if mode is unknown or a width is below 1; in forward, if sub_sample meets a map below 2x2.
    """

    def __init__(
        self,
        channels: int,
        *,
        mode: str = "embedded_gaussian",
        inter_channels: int | None = None,
        sub_sample: bool = True,
        bn_layer: bool = True,
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        require_choice("mode", mode, MODES)
        width = max(channels // 2, 1) if inter_channels is None else inter_channels
        require_positive(inter_channels=width)
        self.channels = channels
        self.mode = mode
        self.width = width
        self.sub_sample = sub_sample
        self.pool = nn.MaxPool2d(2) if sub_sample else nn.Identity()
        self.g = nn.Conv2d(channels, width, 1)
        if mode != "gaussian":
            self.theta = nn.Conv2d(channels, width, 1)
            self.phi = nn.Conv2d(channels, width, 1)
        if mode == "concatenation":
            self.theta_score: nn.Module = nn.Conv2d(width, 1, 1, bias=False)
            self.phi_score: nn.Module = nn.Conv2d(width, 1, 1, bias=False)
        self.project = nn.Sequential(nn.Conv2d(width, channels, 1), *([nn.BatchNorm2d(channels)] if bn_layer else []))
        nn.init.zeros_(self.project[-1].weight)
        nn.init.zeros_(self.project[-1].bias)
        self.official_keys = {"W.0": "project.0", "W.1": "project.1", "W": "project.0"}
        self.official_keys |= {"g.0": "g", "phi.0": "phi"} if sub_sample else {}

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split the official projection of concatenated embeddings, theta first, into its two halves."""
        joint = state.pop("concat_project.0.weight", None)
        if joint is not None:
            state["theta_score.weight"], state["phi_score.weight"] = joint.split(joint.shape[1] // 2, 1)
        return state

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "NonLocalBlock")
        if self.sub_sample and not (torch.jit.is_tracing() or torch.compiler.is_compiling()) and min(x.shape[2:]) < 2:
            raise ValueError(
                f"NonLocalBlock: sub_sample needs H and W of at least 2, got {x.shape[2]}x{x.shape[3]}: "
                "use sub_sample=False, or a larger map."
            )
        attend: Callable[[Tensor], Tensor] = getattr(self, f"_{self.mode}")
        y = attend(x).reshape(x.shape[0], self.width, x.shape[2], x.shape[3])
        return x + self.project(y)

    def _embedded_gaussian(self, x: Tensor) -> Tensor:
        theta, phi = self.theta(x).flatten(2), self.pool(self.phi(x)).flatten(2)
        weights = torch.matmul(theta.transpose(1, 2), phi).softmax(2)
        return self._gather(weights, self.pool(self.g(x)))

    def _gaussian(self, x: Tensor) -> Tensor:
        theta, phi = x.flatten(2), self.pool(x).flatten(2)
        weights = bounded_product_softmax(theta.transpose(1, 2), phi, self.channels)
        return self._gather(weights, self.pool(self.g(x)))

    def _dot_product(self, x: Tensor) -> Tensor:
        phi, g = self.pool(self.phi(x)), self.pool(self.g(x))
        phi, g = (phi / phi.shape[2]).flatten(2), (g / g.shape[3]).flatten(2)
        return torch.matmul(torch.matmul(g, phi.transpose(1, 2)), self.theta(x).flatten(2))

    def _concatenation(self, x: Tensor) -> Tensor:
        a = self.theta_score(self.theta(x)).flatten(2).transpose(1, 2)
        b = self.phi_score(self.pool(self.phi(x))).flatten(2)
        g = self.pool(self.g(x))
        return self._gather((a + b).relu(), g / g.shape[2] / g.shape[3])

    @staticmethod
    def _gather(weights: Tensor, g: Tensor) -> Tensor:
        """Weights (N, P, Q) times values (N, C', h, w) -> (N, C', P)."""
        return torch.matmul(weights, g.flatten(2).transpose(1, 2)).transpose(1, 2)

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Drop the bias that softmax cancels, move the one that its rows carry through, and join linear layers."""
        done = []
        if self.mode == "embedded_gaussian" and self.phi.bias is not None:
            self.phi.bias = None
            done.append("dropped phi's bias")
        if self.mode in ("embedded_gaussian", "gaussian") and self.g.bias is not None:
            self.project[0].bias += self.project[0].weight.flatten(1) @ self.g.bias
            self.g.bias = None
            done.append("moved g's bias to the projection")
        if self.mode == "concatenation":
            for name in ["theta"] if self.sub_sample else ["theta", "phi"]:
                if isinstance(getattr(self, f"{name}_score"), nn.Conv2d):
                    setattr(self, name, self._joined(getattr(self, name), getattr(self, f"{name}_score")))
                    setattr(self, f"{name}_score", nn.Identity())
                    done.append(f"folded {name}'s score into its convolution")
        return "; ".join(done) or None

    @staticmethod
    def _joined(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
        joined = nn.Conv2d(first.in_channels, second.out_channels, 1).to(first.weight)
        joined.weight.copy_((second.weight.flatten(1) @ first.weight.flatten(1)).reshape(joined.weight.shape))
        joined.bias.copy_(second.weight.flatten(1) @ first.bias)
        return joined
