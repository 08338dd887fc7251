"""Dynamic convolution: attention over convolution kernels.

Paper: Dynamic Convolution: Attention over Convolution Kernels, CVPR 2020, arXiv:1912.03458.
Official: none released; followed is kaijieshi7/Dynamic-convolution-Pytorch, dynamic_conv.py, the most used.
Export: as CondConv: the batch-as-groups convolution cannot be exported with a dynamic batch, and the mixture is made
    of the outputs or of the kernels instead. Fusing folds the temperature into the last layer of the attention.
Deviations: the temperature is kept in the state dict, since a checkpoint of a trained module computes something else
    with another one. External-Attention-pytorch reshapes to the input's H, W, which fails with a stride, and older
    copies break with groups > 1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import ExpertConv2d, Fusible, check_channels, global_avg_pool, require_positive
from attn_deploy.registry import register


@register(
    "dynamic_conv",
    aliases=("dyconv", "dynamic_convolution"),
    reference={"in_channels": 64, "out_channels": 64, "padding": 1},
    parameters=148872,
)
class DynamicConv2d(Fusible, nn.Module):
    """A convolution whose kernel is an average of expert kernels, weighted for each sample by a softmax attention.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out.
        kernel_size: k, of a square kernel.
        ratio: width of the attention's hidden layer over C_in; one is added (num_experts for 3 input channels).
        stride: step of the window.
        padding: zeros on every side.
        dilation: distance of the taps.
        groups: groups of channels.
        bias: whether every expert has a bias, mixed like the kernels.
        num_experts: number of kernels.
        temperature: divisor of the attention's logits, in eval mode too; `update_temperature` anneals it.
        export_form: "mix_outputs", "mix_kernels", or "auto" for the one that should be faster.

    Raises:
        ValueError: if groups does not divide the channels, temperature < 1, or a number is below its least.
    """

    official_keys = {
        "weight": "experts.weight",
        "bias": "experts.bias",
        "attention.fc1": "reduce",
        "attention.fc2": "expand",
    }

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        ratio: float = 0.25,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        bias: bool = True,
        num_experts: int = 4,
        temperature: float = 34.0,
        export_form: str = "auto",
    ) -> None:
        super().__init__()
        require_positive(num_experts=num_experts)
        if temperature < 1:
            raise ValueError(f"temperature must be at least 1, got {temperature}: the paper anneals it from 30 to 1.")
        if ratio < 0:
            raise ValueError(f"ratio must be at least 0, got {ratio}: 0.25 is usual.")
        self.experts = ExpertConv2d(
            in_channels,
            out_channels,
            kernel_size,
            experts=num_experts,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=groups,
            bias=bias,
            export_form=export_form,
        )
        self.in_channels = in_channels
        hidden = num_experts if in_channels == 3 else int(in_channels * ratio) + 1
        self.reduce = nn.Conv2d(in_channels, hidden, 1, bias=False)
        self.expand = nn.Conv2d(hidden, num_experts, 1)
        self.register_buffer("temperature", torch.tensor(float(temperature)))
        self.tempered = True
        for layer in (self.reduce, self.expand):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.expand.bias)
        for kernel in self.experts.weight.detach():
            nn.init.kaiming_uniform_(kernel)
        if bias:
            nn.init.zeros_(self.experts.bias)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Official state dicts lack the temperature: the constructor's stays in force."""
        return {**state, "temperature": self.temperature}

    def update_temperature(self) -> None:
        """One step of the official annealing schedule: 3 less, down to 1."""
        self.temperature.sub_(3).clamp_(min=1)

    def fuse_(self) -> str | None:
        """Fold the temperature into the last layer of the attention."""
        if not self.tempered:
            return None
        with torch.no_grad():
            self.expand.weight.div_(self.temperature)
            self.expand.bias.div_(self.temperature)
        self.tempered = False
        return "folded the temperature"

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DynamicConv2d")
        logits = self.expand(self.reduce(global_avg_pool(x)).relu()).flatten(1)
        if self.tempered:
            logits = logits / self.temperature
        return self.experts(x, logits.softmax(1))
