"""Dynamic group convolution.

Paper: Dynamic Group Convolution for Accelerating Convolutional Neural Networks, ECCV 2020, arXiv:2007.04242.
Official: zhuogege1943/dgc, layers.py, DynamicMultiHeadConv.
Export: the threshold is the last value of a TopK of the smaller side, the mask a comparison, where the official code
    assigns through a boolean index. All heads run in one grouped convolution and their gates in one grouped layer. The
    number of dropped channels is a Python integer, kept in step with the official buffer. Equal up to rounding.
Deviations: the official forward returns the lasso loss as a second output; here it is the attribute `lasso_loss`, set
    in train mode. Official modules drop nothing until trained (the buffer starts at 0); here a new module drops its
    final share of channels at once. The official schedule reads a class variable; `set_progress` sets one module.
Limits: the dropped channels are multiplied by zero, so an exported file computes densely: what is saved in the paper's
    own runtime is not saved here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from attn_deploy.ops import check_channels, global_avg_pool, require_divisible, require_not_negative, require_positive
from attn_deploy.registry import register

_HALVED_BELOW = 80  # the official code halves the reduction of narrow layers


@register(
    "dgc",
    aliases=("dynamic_group_conv", "dynamic_multi_head_conv"),
    reference={"in_channels": 64, "out_channels": 64, "padding": 1},
    parameters=41344,
)
class DynamicGroupConv2d(nn.Module):
    """Convolutions of several heads, each of which weights the input channels by saliency and drops the least salient.

    Shape: (N, C_in, H, W) -> (N, C_out, H', W'); dynamic N, H, W.

    Args:
        in_channels: C_in.
        out_channels: C_out; channel j * num_heads + i is the j-th of head i.
        kernel_size: k, of a square kernel.
        stride: step of the window.
        padding: zeros on every side.
        dilation: distance of the taps.
        num_heads: number of heads.
        reduction: factor by which the hidden layer of the gates is narrower than C_in; halved below 80 channels.
        gate_factor: share of the channels that each head keeps.
        inactive_channels: number of channels that each head drops; None is round(C_in * (1 - gate_factor)).

    Raises:
        ValueError: if num_heads does not divide the channels, gate_factor is not in (0, 1], the hidden layer would have
            less than 1 channel, or inactive_channels is not in [0, C_in).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        kernel_size: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        num_heads: int = 4,
        reduction: int = 16,
        gate_factor: float = 0.25,
        inactive_channels: int | None = None,
    ) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels, num_heads=num_heads, reduction=reduction)
        require_positive(kernel_size=kernel_size, stride=stride, dilation=dilation)
        require_not_negative(padding=padding)
        require_divisible("in_channels", in_channels, "num_heads", num_heads)
        require_divisible("out_channels", out_channels, "num_heads", num_heads)
        if not 0 < gate_factor <= 1:
            raise ValueError(f"gate_factor must be above 0 and at most 1, got {gate_factor}: 0.25 keeps a quarter.")
        rate = max(1, reduction // 2) if in_channels < _HALVED_BELOW else reduction
        hidden = in_channels // rate
        if hidden < 1:
            raise ValueError(
                f"in_channels over the reduction must be at least 1, got in_channels={in_channels} and "
                f"reduction={reduction} (halved below {_HALVED_BELOW} channels): use a smaller reduction."
            )
        self.in_channels, self.out_channels, self.num_heads = in_channels, out_channels, num_heads
        self.gate_factor = gate_factor
        self.norm = nn.BatchNorm2d(in_channels)
        self.reduce = nn.Conv2d(in_channels, num_heads * hidden, 1, bias=False)
        self.expand = nn.Conv2d(num_heads * hidden, num_heads * in_channels, 1, groups=num_heads)
        self.conv = nn.Conv2d(
            num_heads * in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=padding,
            dilation=dilation,
            groups=num_heads,
            bias=False,
        )
        nn.init.kaiming_normal_(self.reduce.weight)
        nn.init.kaiming_normal_(self.expand.weight)
        nn.init.ones_(self.expand.bias)
        self.register_buffer("inactive_channels", torch.zeros(1))
        self.lasso_loss: Tensor | None = None
        self.set_inactive(round(in_channels * (1 - gate_factor)) if inactive_channels is None else inactive_channels)

    def set_inactive(self, count: int) -> None:
        """Let each head drop so many channels.

        Raises:
            ValueError: if ``count`` is not in [0, in_channels).
        """
        if not 0 <= count < self.in_channels:
            raise ValueError(
                f"inactive_channels must be at least 0 and below in_channels, got {count} with "
                f"in_channels={self.in_channels}: a head that drops every channel computes nothing."
            )
        self.inactive = count
        self.inactive_channels.fill_(count)

    def set_progress(self, progress: float) -> None:
        """The official schedule: nothing is dropped in the first twelfth of training, all of it from three quarters on.

        Args:
            progress: share of the training done, 0 to 1.
        """
        final = self.in_channels * (1 - self.gate_factor)
        if progress >= 3 / 4:
            self.set_inactive(round(final))
        elif progress > 1 / 12:
            self.set_inactive(round(final * 1.5 * (progress - 1 / 12)))
        else:
            self.set_inactive(0)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """One tensor for all heads, in order; the buffer of the dropped channels is read into the Python integer."""
        heads = [f"headconv_{i}" for i in range(self.num_heads)]
        converted = {k: v for k, v in state.items() if k.startswith("norm.")}
        names = {"conv.weight": "conv.weight", "reduce.weight": "fc1.weight"}
        names |= {"expand.weight": "fc2.weight", "expand.bias": "fc2.bias"}
        for ours, official in names.items():
            converted[ours] = torch.cat([state[f"{head}.{official}"] for head in heads])
        for layer in ("reduce.weight", "expand.weight"):
            converted[layer] = converted[layer].unsqueeze(2).unsqueeze(3)
        self.set_inactive(round(float(state["_inactive_channels"])))
        return {**converted, "inactive_channels": self.inactive_channels.clone()}

    def saliency(self, x: Tensor) -> Tensor:
        """How salient each input channel is to each head, before any is dropped: (N, num_heads, C_in)."""
        gates = self.expand(self.reduce(global_avg_pool(x)).relu()).relu()
        return gates.reshape(-1, self.num_heads, self.in_channels)

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.in_channels, "DynamicGroupConv2d")
        x = self.norm(x).relu()
        saliency = self.saliency(x)
        if self.training:
            self.lasso_loss = saliency.mean() * self.num_heads
        if self.inactive:
            saliency = saliency * (saliency > self._threshold(saliency)).to(saliency.dtype)
        weighted = x.unsqueeze(1) * saliency.unsqueeze(3).unsqueeze(4)
        y = self.conv(weighted.flatten(1, 2))
        per_head = self.out_channels // self.num_heads
        height, width = y.shape[2], y.shape[3]
        y = y.reshape(-1, self.num_heads, per_head, height * width).transpose(1, 2)
        return y.reshape(-1, self.out_channels, height, width)

    def _threshold(self, saliency: Tensor) -> Tensor:
        """The largest value that is dropped; channels that tie with it are dropped too."""
        kept = self.in_channels - self.inactive
        if self.inactive <= kept:
            return saliency.topk(self.inactive, dim=2, largest=False)[0][:, :, self.inactive - 1 :]
        return saliency.topk(kept + 1, dim=2)[0][:, :, kept:]

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *rest: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.inactive = round(float(self.inactive_channels))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "lasso_loss": None}  # it holds on to a graph, which cannot be copied
