"""nn.TransformerEncoder with padded tokens, as eager mode computes it.

In eval mode PyTorch takes a path over nested tensors for masks that are aligned to the left, and writes zeros for padded
tokens; for other masks, and under every tracer, it takes the ordinary path and leaves values there. Source:
torch/nn/modules/transformer.py, TransformerEncoder.forward.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def patch_encoders_(model: nn.Module) -> list[tuple[str, str]]:
    """Give encoders that take the nested path a forward that does what it does, in place; (module path, words) of each."""
    changes = []
    for path, module in model.named_modules():
        if type(module) is nn.TransformerEncoder and module.use_nested_tensor:
            module.__class__ = _PaddedEncoder
            changes.append((path, "zeros for padded tokens, as PyTorch's nested tensors give"))
    return changes


class _PaddedEncoder(nn.TransformerEncoder):
    """The ordinary path, with zeros for padded tokens where the nested path would be taken."""

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        is_causal: bool | None = None,
    ) -> Tensor:
        if src_key_padding_mask is None or mask is not None or src.dim() != 3:
            return super().forward(src, mask, src_key_padding_mask, is_causal)
        padded: Any = src_key_padding_mask
        if padded.dtype != torch.bool:
            padded = padded == float("-inf")
        output = src
        for layer in self.layers:
            output = layer(output, src_key_padding_mask=src_key_padding_mask)
        if self.mask_check:  # aligned to the left: no kept token behind a padded one, in any sample
            behind = padded[:, :-1] & ~padded[:, 1:]
            padded = padded & ~(behind.to(torch.float32).amax() > 0)
        output = torch.where(padded.unsqueeze(-1), torch.zeros((), dtype=output.dtype), output)
        return output if self.norm is None else self.norm(output)


_PaddedEncoder.__name__ = _PaddedEncoder.__qualname__ = "TransformerEncoder"  # what reports and files call it
