"""Which arithmetic a run trains in: bfloat16 where the hardware multiplies it faster than float32, and why.

Products of convolutions and linear layers are computed in bfloat16 under autocast; weights, their updates, their average,
BatchNorm's statistics and the loss stay in float32. `benchmarks/train_throughput.py --precisions` measures what it brings.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from attn_deploy.errors import InvalidRequestError
from attn_deploy.machine.environment import cpu_isa

FAST_BFLOAT16 = ("amx_bf16", "avx512_bf16")
"""Instruction sets of `attn_deploy.machine.environment.ISA_FLAGS` with which bfloat16 was measured to be the faster one."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a run computes in.

    Attributes:
        bfloat16: whether convolutions and linear layers are computed in bfloat16.
        reason: why, for people and for the record.
    """

    bfloat16: bool
    reason: str

    def __str__(self) -> str:
        return f"{'bfloat16' if self.bfloat16 else 'float32'} ({self.reason})"


def choose_arithmetic(place: torch.device, asked: bool | None = None, isa: Sequence[str] | None = None) -> Arithmetic:
    """The arithmetic for a device.

    Args:
        place: where the run computes.
        asked: bfloat16 or not; None for what the hardware is faster at.
        isa: instruction sets of the processor; None to look.
    """
    if asked is not None:
        return Arithmetic(asked, "as asked for")
    if place.type == "cuda":
        return Arithmetic(True, "a CUDA device")
    present = [f for f in FAST_BFLOAT16 if f in (cpu_isa() if isa is None else isa)]
    if present:
        return Arithmetic(True, f"the processor has {' and '.join(present)}")
    return Arithmetic(False, f"the processor has none of {', '.join(FAST_BFLOAT16)}")


def fitting(
    arithmetic: Arithmetic, module: nn.Module, images: Tensor, *, place: torch.device, asked: bool | None
) -> Arithmetic:
    """The same, or float32 where the model has an operator without a bfloat16 form and nobody insisted.

    Args:
        arithmetic: what was chosen.
        module: the model, which stays as it is.
        images: two of them, (2, 3, H, W).
        place: where the run computes.
        asked: as in `choose_arithmetic`.

    Raises:
        InvalidRequestError: if bfloat16 was asked for and the model cannot be trained in it.
    """
    if not arithmetic.bfloat16:
        return arithmetic
    trial = copy.deepcopy(module).to(place).train()
    with torch.random.fork_rng(devices=[]):  # the run's own stream must not depend on this
        try:
            with torch.autocast(place.type, torch.bfloat16):
                scores = trial(images.to(place))
            scores.float().sum().backward()
        except (RuntimeError, NotImplementedError) as error:
            said = str(error).strip().splitlines()[0]
            if asked:
                raise InvalidRequestError(
                    f"the model cannot be trained in bfloat16 on {place.type}: {said}. Leave out --amp."
                ) from error
            return Arithmetic(False, f"an operator of the model has no bfloat16 form: {said}")
    return arithmetic
