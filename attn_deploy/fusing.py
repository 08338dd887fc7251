"""`attn_deploy.fuse`: a model's cheaper equivalent for inference, on a copy, with an account of what was done."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from torch import nn

from attn_deploy.ops import Fusible, fold_sequential


@dataclass(frozen=True, slots=True)
class FuseResult:
    """The fused copy and one line for each rewrite: ``(module path, what was done)``."""

    model: nn.Module
    changes: tuple[tuple[str, str], ...]


def fuse(model: nn.Module) -> nn.Module:
    """An equivalent copy of ``model`` for inference, in eval mode; the model itself is left alone.

    Folds BatchNorm into the convolution or linear layer directly before it in any nn.Sequential, and calls the exact
    re-parameterisation of every zoo module inside the model.
    """
    return fuse_with_report(model).model


def fuse_with_report(model: nn.Module) -> FuseResult:
    """As `fuse`, with the list of changes."""
    model = copy.deepcopy(model).eval()
    changes: list[tuple[str, str]] = []
    seen: set[int] = set()

    def visit(module: nn.Module, path: str) -> None:
        if id(module) in seen:  # a module used in two places is folded once
            return
        seen.add(id(module))
        if isinstance(module, Fusible):
            done = module.fuse_()
            if done:
                changes.append((path, done))
        if isinstance(module, nn.Sequential):
            folds = fold_sequential(module)
            if folds:
                changes.append((path, f"folded {folds} BatchNorm"))
        for name, child in module.named_children():
            visit(child, f"{path}.{name}" if path else name)

    visit(model, "")
    return FuseResult(model.eval(), tuple(changes))
