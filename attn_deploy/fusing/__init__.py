"""`attn_deploy.fuse`: a model's cheaper equivalent for inference, on a copy, with an account of what was done.

Handled anywhere in a model: zoo modules with a deployed form, BatchNorm after a convolution or linear layer, max
pools of growing windows on one map, weights that are computed from others at every call. The connections are read from
the code of `forward` by symbolic tracing, never from the order in which modules are registered.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from attn_deploy.fusing.batchnorm import fold_batchnorms_
from attn_deploy.fusing.copying import copy_model
from attn_deploy.fusing.pools import chain_max_pools_
from attn_deploy.fusing.sequences import fold_own_sequences_
from attn_deploy.fusing.weights import bake_weights_
from attn_deploy.ops import Fusible

__all__ = ["FuseResult", "fold_bn", "fuse", "fuse_with_report"]


@dataclass(frozen=True, slots=True)
class FuseResult:
    """What became of a model.

    Attributes:
        model: the copy, in eval mode.
        changes: one entry for each rewrite: (module path, what was done).
        left: one entry for each BatchNorm that is still there: (module path, why it could not be folded).
    """

    model: nn.Module
    changes: tuple[tuple[str, str], ...]
    left: tuple[tuple[str, str], ...] = ()


def fuse(model: nn.Module) -> nn.Module:
    """An equivalent copy of ``model`` for inference, in eval mode; the model itself is left alone.

    Every zoo module takes its deployed form. In the rest, whatever its code looks like, BatchNorm is folded into the
    convolution (grouped, dilated, transposed) or linear layer whose output it normalises, SPP's max pools work on one
    another, and weight or spectral norm is computed once. What cannot be shown to be equal is left as it is. Equal up
    to rounding for calls of the whole model; parts of it (``model.conv1(x)``) may compute something else.
    """
    return fuse_with_report(model).model


def fuse_with_report(model: nn.Module, *, share: bool = False) -> FuseResult:
    """As `fuse`, with the list of changes and of the BatchNorms that are left, with the reasons.

    Args:
        model: left alone.
        share: what is not rewritten keeps the memory of the model's parameters, for a copy that nobody trains.
    """
    return _rewritten(model, (_deploy_zoo_modules_, bake_weights_, chain_max_pools_), share=share)


def fold_bn(model: nn.Module) -> nn.Module:
    """As `fuse`, but for BatchNorm only: zoo modules keep their branches, and every other layer its form."""
    return _rewritten(model, ()).model


def _rewritten(
    model: nn.Module, rewrites: tuple[Callable[[nn.Module], list[tuple[str, str]]], ...], *, share: bool = False
) -> FuseResult:
    # The deployed forms of the zoo may write into the weights that they start from; nothing else here does.
    zoo = [path for path, m in model.named_modules() if share and isinstance(m, Fusible)]
    written = {f"{p}.{n}" if p else n for p in zoo for n, _ in model.get_submodule(p).named_parameters()}
    model = copy_model(model, share_parameters=share, own=written).eval()
    changes: list[tuple[str, str]] = []
    for rewrite in rewrites:
        changes += rewrite(model)
    sequences = fold_own_sequences_(model)
    folded, left = fold_batchnorms_(model)
    return FuseResult(model.eval(), (*changes, *sequences, *folded), tuple(left))


def _deploy_zoo_modules_(model: nn.Module) -> list[tuple[str, str]]:
    """Call `fuse_` on every Fusible, outermost first: it may replace its children."""
    changes: list[tuple[str, str]] = []
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> None:
        if id(module) in seen:  # a module used in two places is rewritten once
            return
        seen.add(id(module))
        if isinstance(module, Fusible):
            done = module.fuse_()
            if done:
                changes.append((path, done))
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return changes
