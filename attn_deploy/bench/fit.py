"""Whether a shape fits in memory, told before its inputs are made: to make them and to fail later takes minutes."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from attn_deploy.bench.plan import Variant
from attn_deploy.inputs.tensors import TensorInput
from attn_deploy.runtimes.table import RUNTIMES

if TYPE_CHECKING:
    from torch import nn

WORTH_A_LOOK = 64 << 20  # bytes of inputs below which nobody asks what the layers hold
_BYTES = {"": 4.0, "fp32": 4.0, "fp16": 2.0, "bf16": 2.0, "int8": 1.0}


@dataclass(frozen=True, slots=True)
class Need:
    """Bytes that a shape takes at the very least, all at the same time.

    Attributes:
        inputs: the arrays that all runtimes get, and the copies of them that torch makes.
        layer: the largest output of a convolution or a linear layer, where it lies in the same memory.
    """

    inputs: int
    layer: int = 0

    def refusal(self, free: int | None) -> str:
        """Why the shape does not fit in what is free; empty where it may fit, or nothing tells what is free."""
        if free is None or self.inputs + self.layer <= free:
            return ""
        layer = f" and the output of its largest layer {_told(self.layer)}" if self.layer else ""
        return (
            f"it does not fit in memory: the inputs need {_told(self.inputs)}{layer}, and {_told(free)} can be allocated; "
            "take a smaller batch or size."
        )


def need_of(
    module: nn.Module | None, inputs: Sequence[TensorInput], variants: Sequence[Variant], device: str, *, together: bool
) -> Need:
    """What every row of a shape takes at least, as far as it can be told without running anything.

    Args:
        module: the model; None for a file, whose runtime tells itself that it lacks memory.
        inputs: at the shape.
        variants: of the rows; what the least of them takes counts.
        device: of torch.
        together: whether all rows are held by one process that nothing protects. The copy that the reference keeps and
            the inputs of the comparison are in it then; elsewhere a row that lacks memory fails alone.
    """
    own = sum(math.prod(i.shape()) * np.dtype(i.dtype).itemsize for i in inputs)
    on_torch = [v for v in variants if RUNTIMES[v.runtime].on == "torch"]
    on_host = all(RUNTIMES[v.runtime].on == "cpu" for v in variants if v not in on_torch) and device == "cpu"
    copies = 1
    if on_host and module is not None:
        compared = len(variants) > 1 or not on_torch
        copies = 2 + compared if together else 1 + (len(on_torch) == len(variants))
    if module is None or not on_host or own < WORTH_A_LOOK:
        return Need(own * copies)
    least = min((_BYTES[v.precision] for v in variants), default=4.0)
    return Need(own * copies, int(largest_output(module, inputs) * least))


def largest_output(module: nn.Module, inputs: Sequence[TensorInput]) -> int:
    """Elements of the largest output of a convolution or a linear layer, by running shapes without values.

    0 where the model cannot be run that way: it looks at values.
    """
    import torch
    from torch import nn

    largest = 0

    def note(_: nn.Module, __: Any, output: Any) -> None:
        nonlocal largest
        largest = max(largest, output.numel() if isinstance(output, torch.Tensor) else 0)

    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            empty = copy.deepcopy(module).eval().to("meta")
            for part in empty.modules():
                if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                    part.register_forward_hook(note)
            empty(*(torch.empty(i.shape(), dtype=getattr(torch, i.dtype), device="meta") for i in inputs))
    except Exception:  # a model may raise what it likes; what its first layers told holds all the same
        return largest
    return largest


def _told(count: int) -> str:
    return f"{count / 1e9:,.1f} GB"
