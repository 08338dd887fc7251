"""Context Gating.

Paper: Learnable pooling with Context Gating for video classification, CVPR Workshop 2017, arXiv:1706.06905.
Official: antoine77340/LOUPE, loupe.py (context_gating), in TensorFlow; linear_bias=True for the author's PyTorch class,
    antoine77340/Mixture-of-Embedding-Experts, model.py (Context_Gating).
Export: Gemm, Sigmoid and Mul; the concatenation and GLU of the PyTorch class are the same product. Equal. Fusing folds
    the BatchNorm into the weights.
Deviations: the TensorFlow original has BatchNorm with eps 1e-3, its ports 1e-5.
"""

from __future__ import annotations

from torch import Tensor, nn

from attn_deploy.ops import is_traced, require_positive
from attn_deploy.registry import Input, register


@register(
    "context_gating",
    aliases=("gating_context", "cg"),
    parameters=4224,
    inputs=(Input("x", ("N", "channels")),),
    dynamic=("N",),
)
class ContextGating(nn.Module):
    """Multiplies each feature by a gate computed from all features.

    Shape: (N, C) -> (N, C), or at each position of (N, T, C) or (N, C, H, W); dynamic N, T, H, W.

    Args:
        channels: C.
        add_batch_norm: whether the gate's logits are normalised; without it they have a bias.
        linear_bias: a bias before the BatchNorm too, as in the author's PyTorch class.
        bn_eps: of the BatchNorm.

    Raises:
        ValueError: if channels < 1, or the input has another number of features or of axes.
    """

    official_keys = {"gating_biases": "gate.0.bias", "fc": "gate.0", "batch_norm": "gate.1"}

    def __init__(
        self, channels: int, *, add_batch_norm: bool = True, linear_bias: bool = False, bn_eps: float = 1e-5
    ) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        linear = nn.Linear(channels, channels, bias=linear_bias or not add_batch_norm)
        if not linear_bias:
            nn.init.normal_(linear.weight, std=channels**-0.5)
            if linear.bias is not None:
                nn.init.normal_(linear.bias, std=channels**-0.5)
        self.gate = nn.Sequential(linear)
        if add_batch_norm:
            self.gate.append(nn.BatchNorm1d(channels, eps=bn_eps))

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        converted = dict(state)
        if "gating_weights" in converted:  # stored as (in, out)
            converted["gate.0.weight"] = converted.pop("gating_weights").transpose(0, 1)
        if len(self.gate) == 1:  # the PyTorch class keeps a BatchNorm that it does not use
            converted = {k: v for k, v in converted.items() if not k.startswith("gate.1.")}
        return converted

    def forward(self, x: Tensor) -> Tensor:
        axis = 1 if x.dim() == 4 else -1
        if x.dim() not in (2, 3, 4) or (not is_traced() and x.shape[axis] != self.channels):
            raise ValueError(
                f"ContextGating: expected an input of shape (N, {self.channels}), (N, T, {self.channels}) or "
                f"(N, {self.channels}, H, W), got {tuple(x.shape)}: construct it with the channel count of its input."
            )
        if x.dim() == 2:
            return x * self.gate(x).sigmoid()
        rows = x.permute(0, 2, 3, 1) if x.dim() == 4 else x
        gate = self.gate(rows.reshape(-1, self.channels)).sigmoid().reshape(rows.shape)
        return x * (gate.permute(0, 3, 1, 2) if x.dim() == 4 else gate)
