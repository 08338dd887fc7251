"""Dual attention of DANet: position attention, channel attention, and the segmentation head that holds both.

Paper: Dual Attention Network for Scene Segmentation, CVPR 2019, arXiv:1809.02983.
Official: junfu1115/DANet, encoding/nn/da_att.py (PAM_Module, CAM_Module), encoding/models/sseg/danet.py (DANetHead).
Export: view chains are flatten and reshape. The channel energies are scaled before the product and bounded after it
    (ops.bounded), since sums over all positions overflow fp16. Equal up to rounding.
Deviations: the channel branch attends to dissimilar channels, softmax(max - E), as the code does; the paper writes
    softmax(E), which some re-implementations use. External-Attention's DANet is another module (scaled dot-product
    attention bound to one 7x7 input). mmsegmentation's position branch is 64 channels wide instead of C / 8.
Limits: position attention holds an (H * W) x (H * W) matrix.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, conv_bn_relu, require_positive
from attn_deploy.ops.bounded import gram_softmax
from attn_deploy.registry import register


@register("danet_pam", aliases=("pam",), parameters=5201)
class PositionAttentionModule(Fusible, nn.Module):
    """Adds to each position a mean of all positions' values, weighted by the similarity of features.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C; queries and keys have C // 8.

    Raises:
        ValueError: if channels is less than 8.
    """

    official_keys = {"query_conv": "query", "key_conv": "key", "value_conv": "value"}

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        if channels < 8:
            raise ValueError(f"channels must be at least 8, got {channels}: queries and keys have channels // 8.")
        self.channels = channels
        self.query = nn.Conv2d(channels, channels // 8, 1)
        self.key = nn.Conv2d(channels, channels // 8, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gamma: nn.Parameter | None = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "PositionAttentionModule")
        query, key = self.query(x).flatten(2), self.key(x).flatten(2)
        attention = query.transpose(1, 2).matmul(key).softmax(2)
        mixed = self.value(x).flatten(2).matmul(attention.transpose(1, 2))
        mixed = mixed.reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
        return x + mixed if self.gamma is None else x + self.gamma * mixed

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Take gamma into the value convolution, and drop the key's bias: it is constant along the softmax."""
        if self.gamma is None:
            return None
        self.value.weight.mul_(self.gamma)
        self.value.bias.mul_(self.gamma)
        self.key.bias = None
        self.gamma = None
        return "gamma in the value convolution, key bias cancelled by the softmax"


@register("danet_cam", aliases=("cam",), parameters=1)
class ChannelAttentionModule(nn.Module):
    """Adds to each channel a mean of all channels, weighted by the softmax of their negated inner product.

    Shape: (N, C, H, W) -> (N, C, H, W); dynamic N, H, W.

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        require_positive(channels=channels)
        self.channels = channels
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        check_channels(x, self.channels, "ChannelAttentionModule")
        attention = self.gamma * gram_softmax(x, negate=True)
        mixed = attention.matmul(x.flatten(2))
        return x + mixed.reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])


@register(
    "danet_head",
    aliases=("dual_attention", "danet"),
    reference={"in_channels": 64, "out_channels": 19},
    parameters=24479,
    outputs=("y", "y_position", "y_channel"),
)
class DANetHead(nn.Module):
    """Segmentation head: both attentions side by side, their sum and each of them classified per position.

    Shape: (N, in_channels, H, W) -> three maps (N, out_channels, H, W): of the sum, of the position and of the channel
    branch; only the first without return_aux. Dynamic N, H, W.

    Args:
        in_channels: channels of the input; the branches have a quarter of them.
        out_channels: classes.
        return_aux: whether the two branches have classifiers too, which only training uses.
        dropout: rate of the Dropout2d before each classifier.

    Raises:
        ValueError: if in_channels is less than 32.
    """

    official_keys = {
        "conv5a": "position_in",
        "sa": "position",
        "conv51": "position_out",
        "conv5c": "channel_in",
        "sc": "channel",
        "conv52": "channel_out",
        "sa.query_conv": "position.query",
        "sa.key_conv": "position.key",
        "sa.value_conv": "position.value",
        "conv8": "classify",
        "conv6": "classify_position",
        "conv7": "classify_channel",
    }

    def __init__(self, in_channels: int, out_channels: int, *, return_aux: bool = True, dropout: float = 0.1) -> None:
        super().__init__()
        require_positive(in_channels=in_channels, out_channels=out_channels)
        width = in_channels // 4
        if width < 8:
            raise ValueError(f"in_channels must be at least 32, got {in_channels}: queries have in_channels // 32.")
        self.in_channels, self.return_aux = in_channels, return_aux
        self.position_in = conv_bn_relu(in_channels, width, 3)
        self.position = PositionAttentionModule(width)
        self.position_out = conv_bn_relu(width, width, 3)
        self.channel_in = conv_bn_relu(in_channels, width, 3)
        self.channel = ChannelAttentionModule(width)
        self.channel_out = conv_bn_relu(width, width, 3)

        def classifier() -> nn.Sequential:
            return nn.Sequential(nn.Dropout2d(dropout), nn.Conv2d(width, out_channels, 1))

        self.classify = classifier()
        if return_aux:
            self.classify_position = classifier()
            self.classify_channel = classifier()

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Leave out the classifiers of the branches when there are none."""
        if self.return_aux:
            return state
        return {k: v for k, v in state.items() if not k.startswith(("classify_position", "classify_channel"))}

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        check_channels(x, self.in_channels, "DANetHead")
        position = self.position_out(self.position(self.position_in(x)))
        channel = self.channel_out(self.channel(self.channel_in(x)))
        y = self.classify(position + channel)
        if not self.return_aux:
            return y
        return y, self.classify_position(position), self.classify_channel(channel)
