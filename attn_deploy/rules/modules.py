"""The modules of a model, one by one: layers that exporters or targets do not take, whatever forward does with them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

from torch import nn

from attn_deploy.rules.finding import Finding
from attn_deploy.rules.location import Place, is_users

_ADAPTIVE = (
    nn.AdaptiveAvgPool1d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool1d,
    nn.AdaptiveMaxPool2d,
    nn.AdaptiveMaxPool3d,
)
_CONV_TRANSPOSE = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MAX_POOL = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)
_MAX_UNPOOL = (nn.MaxUnpool1d, nn.MaxUnpool2d, nn.MaxUnpool3d)


def walk_modules(model: nn.Module, target: str) -> Iterator[Finding]:
    """Layers that are known to break, each with the line where the class that holds them begins."""
    for path, module in model.named_modules():
        for rule, what, severity in _of_module(module, target):
            yield Finding(rule, what, _holder(model, path), severity)


def _of_module(module: nn.Module, target: str) -> Iterator[tuple[str, str, str]]:
    name = type(module).__name__
    if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
        yield "batch-statistics", f"{name} without running statistics", "error"
    if isinstance(module, _ADAPTIVE) and module.output_size not in (1, (1,), (1, 1), (1, 1, 1)):
        written = not isinstance(module, (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d))
        yield "adaptive-pooling", f"{name} to {module.output_size}", "rewritten" if written else "error"
    if isinstance(module, nn.MultiheadAttention):
        yield "multi-head-attention", name, "rewritten"
    if isinstance(module, nn.Fold):
        yield "fold", name, "rewritten"
    if not target.startswith("tensorrt"):
        return
    if isinstance(module, _MAX_POOL) and _above_one(module.dilation):
        yield "unsupported-by-target", f"{name} with dilation={module.dilation}", "error"
    if isinstance(module, _MAX_POOL) and module.return_indices:
        yield "unsupported-by-target", f"{name} with return_indices=True", "error"
    if isinstance(module, _MAX_UNPOOL):
        yield "unsupported-by-target", name, "error"
    if isinstance(module, _CONV_TRANSPOSE) and _above_one(module.stride) and _above_one(module.dilation):
        yield "unsupported-by-target", f"{name} with stride={module.stride} and dilation={module.dilation}", "error"


def _above_one(value: int | tuple[int, ...]) -> bool:
    return any(v > 1 for v in ((value,) if isinstance(value, int) else value))


def _holder(model: nn.Module, path: str) -> Place:
    """The path, with the line of the nearest class around it that is the user's."""
    parts = path.split(".") if path else []
    for length in range(len(parts), -1, -1):
        cls = type(model.get_submodule(".".join(parts[:length])))
        try:
            file = inspect.getsourcefile(cls)
            if file and is_users(file):
                return Place(path, file, inspect.getsourcelines(cls)[1])
        except (OSError, TypeError):
            continue
    return Place(path)
