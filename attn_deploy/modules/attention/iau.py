"""Interaction-aggregation-update block, for images and for video clips.

Paper: IAUnet: Global Context-Aware Feature Learning for Person Re-Identification, TNNLS 2020, arXiv:2009.01035.
Official: blue-blue272/ImgReID-IAnet, models/IAU.py and SIAU.py (IAU), models/IAU3D.py and STIAU.py (IAUBlock3D).
Export: an image is a clip of one frame, and a clip is a (N, C, T, H * W) map, so there are no 5-D convolutions and no
    folding of parts into the batch. Parts are the height of a small map. Gram matrices stay in the range of fp16
    (ops.bounded), and a masked edge lies 1e4 below the row's least instead of 1e8 below itself. Equal up to rounding.
Limits: a part is a plain sum over positions, so on large maps with large values it leaves the range of fp16 by its
    definition. The number of frames is fixed when the block is made.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from attn_deploy.ops import Fusible, check_channels, require_divisible, require_positive
from attn_deploy.ops.bounded import gram_softmax
from attn_deploy.ops.folding import scale_and_shift
from attn_deploy.ops.sizes import sizes_are_known
from attn_deploy.registry import Input, register

_PARTS = 4


class _InteractionAggregationUpdate(Fusible, nn.Module):
    """The block on a clip whose channels and frames lie along one axis; every one of them is a row of the Gram matrix."""

    connected: Tensor

    official_keys = {
        **{f"{mask}.conv.{theirs}": f"mask.{i}" for mask in ("sa", "SA") for i, theirs in enumerate(("conv", "bn"))},
        "g": "embed",
        "W1.0": "channel_update.0",
        "W1.1": "channel_update.1",
        "W2.0": "part_update.0",
        "W2.1": "part_update.1",
        **{
            f"{unit}.{theirs}": ours
            for unit in ("SIAU", "STIAU")
            for theirs, ours in (
                ("module_w.relation.0", "relation"),
                ("module_w.relation.1", "edge_norm"),
                ("module_l.fsm.0", "update.0"),
                ("module_l.fsm.1", "update.1"),
            )
        },
    }

    def __init__(self, channels: int, frames: int, return_masks: bool) -> None:
        super().__init__()
        require_positive(channels=channels, frames=frames)
        require_divisible("channels", channels, "2, the reduction of the parts", 2)
        width = channels // 2
        self.channels, self.frames, self.width, self.return_masks = channels, frames, width, return_masks
        self.mask = nn.Sequential(nn.Conv2d(channels, _PARTS, 1), nn.BatchNorm2d(_PARTS), nn.Sigmoid())
        self.embed = nn.Conv2d(channels, width, 1)
        self.edge = nn.Conv2d(width, 1, 1)
        self.edge_context: nn.Conv2d | None = nn.Conv2d(width, 1, 1, bias=False)
        self.edge_norm: nn.Module = nn.BatchNorm2d(1)
        self.update = nn.Sequential(nn.Conv2d(channels, width, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.channel_update = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        self.part_update = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels))
        frame, part = torch.arange(frames).repeat_interleave(_PARTS), torch.arange(_PARTS).repeat(frames)
        same_frame, same_part = frame[:, None] == frame, part[:, None] == part
        self.register_buffer("connected", same_frame != same_part, persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The official initial values: the block begins as the identity."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, 0, math.sqrt(2 / layer.out_channels))
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        for sequence in (self.channel_update, self.part_update):
            nn.init.zeros_(sequence[1].weight)

    def convert_official(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Split the relation's convolution: half for the parts' difference, half for the context."""
        renamed = {k.replace("relation.bias", "edge.bias"): v for k, v in state.items()}
        weight = renamed.pop("relation.weight", None)
        if weight is not None:
            renamed["edge.weight"], renamed["edge_context.weight"] = weight[:, : self.width], weight[:, self.width :]
        return renamed

    def _interact(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C * T, H, W) -> the updated map (N, C, T, H * W), and the part masks (N, parts, T, H * W)."""
        batch, channels, frames = x.shape[0], self.channels, self.frames
        mixed = gram_softmax(x).matmul(x.flatten(2))
        z = x.reshape(batch, channels, frames, -1) + self.channel_update(mixed.reshape(batch, channels, frames, -1))

        masks = self.mask(z)
        by_frame = z.transpose(1, 2).matmul(masks.permute(0, 2, 3, 1))  # (N, T, C, parts)
        parts = by_frame.transpose(1, 2).reshape(batch, channels, frames * _PARTS, 1)
        embedded = self.embed(torch.cat([parts, z.mean((2, 3), keepdim=True)], 2))
        nodes, context = embedded[:, :, : frames * _PARTS], embedded[:, :, frames * _PARTS :]

        edges = self.edge((nodes - nodes.transpose(2, 3)).abs())
        if self.edge_context is not None:
            edges = self.edge_norm(edges + self.edge_context(context))
        edges = torch.where(self.connected, edges, edges.amin(3, keepdim=True) - 1e4)
        weights = edges.flatten(1, 2).softmax(2)
        gathered = weights.matmul(nodes.flatten(2).transpose(1, 2)).transpose(1, 2).unsqueeze(3)
        updated = self.update(torch.cat([nodes, gathered], 1))
        per_frame = updated.reshape(batch, self.width, frames, _PARTS).mean(3, keepdim=True)
        update = self.part_update(torch.cat([per_frame, context.expand(-1, -1, frames, -1)], 1))
        return z + update, masks

    @torch.no_grad()
    def fuse_(self) -> str | None:
        """Take the edges' BatchNorm into their convolution, and drop what is equal along the softmax."""
        if self.edge_context is None:
            return None
        scale, _ = scale_and_shift(self.edge_norm)
        self.edge.weight.mul_(scale)
        self.edge.bias = None
        self.edge_context, self.edge_norm = None, nn.Identity()
        return "edge BatchNorm folded, edge context and biases cancelled by the softmax"


@register("iau", parameters=13135)
class IAUBlock(_InteractionAggregationUpdate):
    """Updates an image's features by channel interaction and by a graph of four soft body parts and the global context.

    Shape: (N, C, H, W) -> (N, C, H, W), with return_masks also the part masks (N, 4, H, W); dynamic N, H, W.

    Args:
        channels: C, even.
        return_masks: return the part masks too, which the official training supervises.

    Raises:
        ValueError: if channels is odd.
    """

    def __init__(self, channels: int, *, return_masks: bool = False) -> None:
        super().__init__(channels, 1, return_masks)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        check_channels(x, self.channels, "IAUBlock")
        z, masks = self._interact(x)
        z = z.reshape(x.shape[0], self.channels, x.shape[2], x.shape[3])
        return (z, masks.reshape(x.shape[0], _PARTS, x.shape[2], x.shape[3])) if self.return_masks else z


@register(
    "iau3d",
    parameters=13135,
    inputs=(Input("x", ("N", "channels", "frames", "H", "W")),),
)
class IAUBlock3d(_InteractionAggregationUpdate):
    """Updates a clip's features by channel interaction and by a graph of the parts of all its frames.

    A part is joined to the other parts of its frame and to the same part of the other frames.

    Shape: (N, C, T, H, W) -> (N, C, T, H, W), with return_masks also the part masks (N * T, 4, H, W); dynamic N, H, W.

    Args:
        channels: C, even.
        frames: T.
        return_masks: return the part masks too, which the official training supervises.

    Raises:
        ValueError: if channels is odd, or the input has another number of channels or frames.
    """

    def __init__(self, channels: int, *, frames: int = 4, return_masks: bool = False) -> None:
        super().__init__(channels, frames, return_masks)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        if sizes_are_known() and (x.dim() != 5 or tuple(x.shape[1:3]) != (self.channels, self.frames)):
            raise ValueError(
                f"IAUBlock3d: expected an input of shape (N, {self.channels}, {self.frames}, H, W), got "
                f"{tuple(x.shape)}: construct it with the channels and frames of its input."
            )
        z, masks = self._interact(x.flatten(1, 2))
        z = z.reshape(x.shape[0], self.channels, self.frames, x.shape[3], x.shape[4])
        if not self.return_masks:
            return z
        return z, masks.transpose(1, 2).reshape(-1, _PARTS, x.shape[3], x.shape[4])
