"""External Attention: two small learned memories in place of keys and values; on maps, and multi-head on tokens.

Paper: Beyond Self-Attention: External Attention using Two Linear Layers for Visual Tasks, TPAMI 2022, arXiv:2105.02358.
Official: MenghaoGuo/EANet, model_torch.py (External_attention), multi_head_attention_torch.py (Attention).
Export: Conv, MatMul and Softmax; the 1-D convolutions on flattened positions are 1x1 convolutions. In fp16, where the
    softmax over positions underflows and the 1e-9 of the division is 0, both normalisations work on logarithms. Equal up
    to rounding. Fusing merges four convolutions into two, and drops the biases that the softmax over positions cancels.
Deviations: BatchNorm stands for the official SyncBatchNorm. The official constructor lets both memories share storage
    until they are moved to a GPU; here they only start equal. External-Attention-pytorch has the two linear layers alone,
    without projections, BatchNorm and shortcut.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import (
    Fusible,
    check_channels,
    fan_out_normal_,
    fold_bn_into_conv,
    is_traced,
    require_divisible,
    require_positive,
)
from attn_deploy.ops.bounded import double_normalised
from attn_deploy.registry import Input, register

_HEAD_FACTOR = 4  # officially the token form has four times the heads, and four times the width


@register("external_attention", aliases=("ea", "eanet"), parameters=16576)
class ExternalAttention(Fusible, nn.Module):
    """Adds to each position a mixture of learned memory items, weighted by its similarity to them.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
        memory: number of items.

    Raises:
        ValueError: if an argument is below 1.
    """

    def __init__(self, channels: int, *, memory: int = 64) -> None:
        super().__init__()
        require_positive(channels=channels, memory=memory)
        self.channels, self.memory = channels, memory
        self.conv1 = nn.Conv2d(channels, channels, 1)
        self.linear_0 = nn.Conv2d(channels, memory, 1, bias=False)
        self.linear_1 = nn.Conv2d(memory, channels, 1, bias=False)
        self.conv2 = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels))
        fan_out_normal_(self.modules())
        with torch.no_grad():
            self.linear_0.weight.copy_(self.linear_1.weight.transpose(0, 1))
        self.fused = False

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ExternalAttention")
        height, width = x.shape[2], x.shape[3]
        logits = self.linear_0(x if self.fused else self.conv1(x))
        weights = double_normalised(logits.flatten(2), positions=2, items=1)
        weights = weights.reshape(x.shape[0], self.memory, height, width)
        mixture = self.linear_1(weights)
        return ((mixture if self.fused else self.conv2(mixture)) + x).relu()

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """One convolution to the memory, one from it; the softmax over positions cancels the first one's bias."""
        if self.fused:
            return None
        keys = nn.Conv2d(self.channels, self.memory, 1, bias=False)
        values = nn.Conv2d(self.memory, self.channels, 1)
        out = fold_bn_into_conv(*self.conv2)
        keys.weight = nn.Parameter(_product(self.linear_0.weight, self.conv1.weight))
        values.weight = nn.Parameter(_product(out.weight, self.linear_1.weight))
        values.bias = out.bias
        self.linear_0, self.linear_1 = keys.eval(), values.eval()
        self.conv1 = self.conv2 = None
        self.fused = True
        return "merged four convolutions into two"


@register(
    "multihead_external_attention",
    aliases=("multi_head_external_attention", "mhea"),
    parameters=34184,
    inputs=(Input("x", ("N", "L", "channels")),),
    sizes={"L": 37},
    dynamic=("N", "L"),
)
class MultiHeadExternalAttention(Fusible, nn.Module):
    """Replaces each token, head by head, with a mixture of learned memory items, weighted by its similarity to them.

    Shape: (N, L, C) -> (N, L, C); dynamic N, L.

    Args:
        channels: C.
        num_heads: as the paper counts them; inside there are four times as many, on four times the width.
        memory: number of items, which all heads share.

    Raises:
        ValueError: if channels is not a multiple of num_heads, an argument is below 1, or the input is not (N, L, C).
    """

    def __init__(self, channels: int, *, num_heads: int = 8, memory: int = 64) -> None:
        super().__init__()
        require_positive(channels=channels, num_heads=num_heads, memory=memory)
        require_divisible("channels", channels, "num_heads", num_heads)
        self.channels, self.num_heads = channels, _HEAD_FACTOR * num_heads
        width = _HEAD_FACTOR * channels
        self.head_width = width // self.num_heads
        self.trans_dims = nn.Linear(channels, width)
        self.linear_0 = nn.Linear(self.head_width, memory)
        self.linear_1 = nn.Linear(memory, self.head_width)
        self.proj = nn.Linear(width, channels)

    def forward(self, x: Tensor) -> Tensor:
        if not is_traced() and (x.dim() != 3 or x.shape[2] != self.channels):
            raise ValueError(
                f"MultiHeadExternalAttention: expected an input of shape (N, L, {self.channels}), got "
                f"{tuple(x.shape)}: construct it with the channel count of its input."
            )
        batch, length = x.shape[0], x.shape[1]
        heads = self.trans_dims(x).reshape(batch, length, self.num_heads, self.head_width).transpose(1, 2)
        weights = double_normalised(self.linear_0(heads), positions=2, items=3)
        mixture = self.linear_1(weights).transpose(1, 2)
        return self.proj(mixture.reshape(batch, length, self.num_heads * self.head_width))

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Drop both biases before the softmax over tokens, which cancels them, and pass the third one on to the last."""
        if self.linear_1.bias is None:
            return None
        passed = self.proj.weight @ self.linear_1.bias.repeat(self.num_heads)
        self.proj.bias = nn.Parameter(self.proj.bias + passed)
        self.trans_dims.bias = self.linear_0.bias = self.linear_1.bias = None
        return "dropped two cancelled biases, merged a third into the last"


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The 1x1 kernel of two 1x1 convolutions in a row, the right one first."""
    product = left.flatten(1).double() @ right.flatten(1).double()
    return product.to(left.dtype).reshape(*product.shape, 1, 1)
