"""BatchNorm at inference as numbers, for modules that take it into something other than the layer before it."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from attn_deploy.ops.folding import fold_bn_into_conv


@torch.no_grad()
def scale_and_shift(bn: nn.modules.batchnorm._BatchNorm) -> tuple[Tensor, Tensor]:
    """The two vectors by which ``bn(x)`` is ``scale * x + shift`` in eval mode.

    Raises:
        ValueError: if the BatchNorm has no running statistics.
    """
    unit = nn.Conv2d(bn.num_features, bn.num_features, 1, groups=bn.num_features, bias=False)
    unit = unit.to(bn.weight) if bn.weight is not None else unit
    nn.init.ones_(unit.weight)
    folded = fold_bn_into_conv(unit, bn)
    return folded.weight.detach().reshape(-1), cast(Tensor, folded.bias).detach()
