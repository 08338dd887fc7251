"""Order statistics that no exporter has an operator for, by sorting, which they have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

_Made = tuple[Any, str] | None


def median(scope: Any, input: Tensor, dim: int | None = None, keepdim: bool = False) -> _Made:
    """The lower of the two middle elements, as `torch.median` gives it; NaN sorts last, so it is not handed on."""
    if dim is None:
        flat = input.reshape(-1)
        return _nth(flat, (flat.shape[0] - 1) // 2, 0, False)[0], "median by sorting"
    middle = (input.shape[dim] - 1) // 2 if input.dim() else 0
    return torch.return_types.median(_nth(input, middle, dim, keepdim)), "median by sorting"


def kthvalue(scope: Any, input: Tensor, k: int, dim: int = -1, keepdim: bool = False) -> _Made:
    """The k-th smallest element, counted from 1."""
    return torch.return_types.kthvalue(_nth(input, k - 1, dim, keepdim)), "the k-th value by sorting"


def _nth(input: Tensor, n: Any, dim: int, keepdim: bool) -> tuple[Tensor, Tensor]:
    """The n-th smallest elements along an axis, counted from 0, and where they are."""
    values, indices = torch.sort(input, dim=dim)
    chosen = values.narrow(dim, n, 1), indices.narrow(dim, n, 1)
    return chosen if keepdim else (chosen[0].squeeze(dim), chosen[1].squeeze(dim))


FORMS: dict[Callable[..., Any], Callable[..., _Made]] = {
    torch.median: median,
    Tensor.median: median,
    torch.kthvalue: kthvalue,
    Tensor.kthvalue: kthvalue,
}
