"""Functions of PyTorch that exporters get wrong, and forms with the same result that they get right.

`SafeForms` redirects the calls while it is active, whoever makes them: the user's forward, or torch's own modules.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from attn_deploy import ops
from attn_deploy.exporters import attention_forms, order_forms, safe_resize, whole_windows
from attn_deploy.exporters.claims import rounded_up
from attn_deploy.ops.fold import fold
from attn_deploy.ops.per_sample_conv import grouped_by_batch
from attn_deploy.rules.location import module_paths, place_here


@dataclass(frozen=True, slots=True)
class Scope:
    """Which forms are wanted: each only where the plain function is wrong.

    Attributes:
        batch: N moves: attention modules and kernels of each sample's own bake it.
        space: another axis moves: pooling windows are baked.
        uneven: a pooled map does not divide into its bins; known after the recording run.
        pads: maps are padded by amounts computed from their size; known after recording runs at two sizes.
        rolls: torch.roll gets shifts that depend on a size; known after recording runs at two sizes.
        windows: which calls of poolings, by their order, take the whole map along which axes; known likewise.
        resizes: which calls of F.interpolate, by their order, need PyTorch's rounding; known after recording runs.
    """

    batch: bool
    space: bool
    uneven: bool = False
    rolls: bool = False
    pads: bool = False
    resizes: frozenset[int] = frozenset()
    windows: Mapping[int, whole_windows.Window] = field(default_factory=dict)


class SafeForms(TorchFunctionMode):
    """Redirects calls to their safe forms while it is active.

    Args:
        scope: which forms are wanted.
        model: with it, what is redirected is noted in ``changes`` as (module path, words), and in ``scope`` whether a
            map does not divide into its bins.
    """

    def __init__(self, scope: Scope, model: nn.Module | None = None) -> None:
        super().__init__()
        self.scope = scope
        self.changes: dict[tuple[str, str], None] = {}
        self.shifts: list[Any] = []
        self.pads: list[tuple[int, ...]] = []
        self.same_pads = 0  # of them those in front of a convolution
        self._noted: Tensor | None = None
        self.nearest_resizes = False
        self.windows: list[whole_windows.Window | None] = []
        self.uneven_resizes: list[bool] = []
        self._padded: tuple[Tensor, tuple[Any, Any]] | None = None
        self._paths = None if model is None else module_paths(model)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        keywords = dict(kwargs or {})
        if self._paths is not None and func is torch.roll:
            self.shifts.append(keywords.get("shifts", args[1] if len(args) > 1 else None))
        if self._paths is not None and getattr(func, "__name__", "") == "pad" and args[0].dim() == 4:
            self.pads.append(tuple(keywords.get("pad", args[1] if len(args) > 1 else ())))
            self._noted = func(*args, **keywords)
            return self._noted
        if self._paths is not None and func is torch.conv2d and args[0] is self._noted:
            self.same_pads += 1
        if self._paths is not None and _is_uneven(func, args, keywords):
            self.scope = replace(self.scope, uneven=True)
        if func in whole_windows.POOLS:
            self.windows.append(None if self._paths is None else whole_windows.whole_axes(args, keywords))
            axes = self.scope.windows.get(len(self.windows) - 1)
            if axes is not None:
                self._note(whole_windows.WORDS)
                return whole_windows.reduced(func, args[0] if args else keywords["input"], axes)
        if func is F.interpolate:
            self.nearest_resizes = self.nearest_resizes or safe_resize.is_nearest(args, keywords)
            self.uneven_resizes.append(self._paths is not None and safe_resize.is_uneven(args, keywords))
            kept = self._paths is None and torch.compiler.is_exporting() and safe_resize.resize_is_right(args, keywords)
            if len(self.uneven_resizes) - 1 in self.scope.resizes and not kept:
                self._note(safe_resize.WORDS)
                return safe_resize.nearest_to_size(*args, **keywords)
        if self.scope.pads and self._paths is None and torch.compiler.is_exporting():
            return self._with_simple_size(func, args, keywords)
        form = _FORMS.get(func)
        if form is None:
            return func(*args, **keywords)
        replacement = form(self.scope, *args, **keywords)
        if replacement is None:
            return func(*args, **keywords)
        result, words = replacement
        self._note(words)
        return result

    def _note(self, words: str) -> None:
        if self._paths is not None:
            self.changes[(place_here(self._paths).module, words)] = None

    def _with_simple_size(self, func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        """A call while sizes are symbolic: what a convolution of a padded map gives has a size in simple terms."""
        form = _FORMS.get(func)
        replacement = None if form is None else form(self.scope, *args, **keywords)
        result = func(*args, **keywords) if replacement is None else replacement[0]
        if getattr(func, "__name__", "") == "pad" and args[0].dim() == 4:
            self._padded = (result, (args[0].shape[2], args[0].shape[3]))
        elif func is torch.conv2d and self._padded is not None and args[0] is self._padded[0]:
            stride = _pair(keywords.get("stride", args[3] if len(args) > 3 else 1))
            return rounded_up(result, self._padded[1], stride)
        return result


_Made = tuple[Any, str] | None


def _is_uneven(func: Callable[..., Any], args: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    size = keywords.get("output_size", args[1] if len(args) > 1 else 1)
    if func not in _POOLS:
        return False
    bins = size if isinstance(size, (tuple, list)) else (size,) * _POOLS[func]
    extents = args[0].shape[-len(bins) :]
    return any(b is not None and e % b for b, e in zip(bins, extents, strict=True))


def _adaptive(maximum: bool, axes: int) -> Callable[..., _Made]:
    pool = ops.adaptive_max_pool2d if maximum else ops.adaptive_avg_pool2d
    kind = "max" if maximum else "average"

    def form(scope: Scope, x: Tensor, output_size: Any, return_indices: bool = False) -> _Made:
        bins = list(output_size) if isinstance(output_size, (tuple, list)) else [output_size] * axes
        if return_indices or not (scope.space or scope.uneven) or all(b == 1 for b in bins):
            return None
        words = f"adaptive {kind} pooling to {'x'.join('same' if b is None else str(b) for b in bins)} by matrices or gathers"
        lifted = x.unsqueeze(-2) if axes == 1 else x  # a line is a map of one row
        bins = [None, *bins] if axes == 1 else bins
        single = lifted.dim() == 3
        lifted = lifted.unsqueeze(0) if single else lifted
        for axis, count in ((2, bins[0]), (3, bins[1])):
            if count == 1:
                lifted = lifted.amax(axis, keepdim=True) if maximum else lifted.mean(axis, keepdim=True)
        if bins[0] not in (None, 1) and bins[1] not in (None, 1):
            lifted = pool(lifted, (bins[0], bins[1]))
        elif bins[0] not in (None, 1):
            lifted = pool(lifted, (bins[0], lifted.shape[3]))
        elif bins[1] not in (None, 1):
            lifted = pool(lifted, (lifted.shape[2], bins[1]))
        lifted = lifted.squeeze(0) if single else lifted
        return (lifted.squeeze(-2) if axes == 1 else lifted), words

    return form


def _area(
    scope: Scope, input: Tensor, size: Any = None, scale_factor: Any = None, mode: str = "nearest", *_: Any, **__: Any
) -> _Made:
    """``mode="area"``, which is adaptive pooling under another name."""
    if mode != "area" or size is None or input.dim() not in (3, 4):
        return None
    return _adaptive(False, input.dim() - 2)(scope, input, size)


def _fold(
    scope: Scope,
    input: Tensor,
    output_size: Any,
    kernel_size: Any,
    dilation: Any = 1,
    padding: Any = 0,
    stride: Any = 1,
) -> _Made:
    if input.dim() != 3:
        return None
    return fold(input, output_size, kernel_size, dilation, padding, stride), "fold as a transposed convolution"


def _conv2d(
    scope: Scope,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: Any = 1,
) -> _Made:
    """The batch as groups: recognised by one sample in and kernels that were computed."""
    if not scope.batch or isinstance(weight, nn.Parameter) or isinstance(padding, str) or input.dim() != 4:
        return None
    if isinstance(groups, int) and (ops.is_traced() or groups == 1 or input.shape[0] != 1):
        return None  # a number of groups, also while traced, is a constant of the model
    (sh, sw), (dh, dw) = _pair(stride), _pair(dilation)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    if sh != sw or dh != dw or kernel[0] != kernel[1]:
        return None
    replacement = grouped_by_batch(
        input, weight, bias, groups, kernel[0], stride=sh, padding=_pair(padding), dilation=dh
    )
    return replacement, "convolution with the batch as groups by matrix products"


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, (tuple, list)):
        return (value[0], value[-1])
    return (value, value)


def _roll(scope: Scope, input: Tensor, shifts: Any, dims: Any = None) -> _Made:
    """A roll as two slices: exporters take the shift for a constant."""
    if not scope.rolls or dims is None:
        return None
    pairs = zip(shifts, dims, strict=True) if isinstance(dims, (tuple, list)) else [(shifts, dims)]
    rolled = input
    for shift, dim in pairs:
        extent = rolled.shape[dim]
        start = (extent - shift) % extent
        rolled = torch.cat((rolled.narrow(dim, start, extent - start), rolled.narrow(dim, 0, start)), dim)
    return rolled, "a roll by a computed shift as two slices"


def _permute(scope: Scope, input: Tensor, *order: Any, dims: Any = None) -> _Made:
    """Axes counted from the end: the TorchScript exporter writes them as they are, and its inference has died of it."""
    axes = dims if dims is not None else order[0] if isinstance(order[0], (tuple, list)) else order
    if all(a >= 0 for a in axes):
        return None
    return input.permute([a % input.dim() for a in axes]), "a permute with its axes counted from the front"


_FORMS: dict[Callable[..., Any], Callable[..., _Made]] = {
    F.adaptive_avg_pool1d: _adaptive(False, 1),
    F.adaptive_avg_pool2d: _adaptive(False, 2),
    F.adaptive_max_pool1d: _adaptive(True, 1),
    F.adaptive_max_pool2d: _adaptive(True, 2),
    F.fold: _fold,
    F.interpolate: _area,
    torch.conv2d: _conv2d,
    torch.permute: _permute,
    torch.roll: _roll,
    Tensor.permute: _permute,
    **attention_forms.FORMS,
    **order_forms.FORMS,
}
_POOLS = {F.adaptive_avg_pool1d: 1, F.adaptive_avg_pool2d: 2, F.adaptive_max_pool1d: 1, F.adaptive_max_pool2d: 2}
