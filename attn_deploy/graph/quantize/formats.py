"""The two types that products are quantized to, and what they can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from attn_deploy.errors import PrecisionError


@dataclass(frozen=True, slots=True)
class QuantFormat:
    """A type of 8 bits with a scale for each tensor, or for each output channel of weights.

    Attributes:
        word: as options say it: int8 or fp8.
        dtype: of ONNX.
        largest: the magnitude that a tensor's largest value becomes.
        first_opset: the first whose QuantizeLinear has the type.
        levels: distinct magnitudes, zero among them; None where the steps are not equal.
        per_channel: whether weights have a scale for each output channel.
    """

    word: str
    dtype: ir.DataType
    largest: float
    first_opset: int
    levels: int | None
    per_channel: bool

    def scale(self, largest: NDArray[np.float64]) -> NDArray[np.float64]:
        """The scale of tensors with these largest magnitudes; 1 for one that is all zeros."""
        return np.where(largest > 0, largest / self.largest, 1.0)

    def quantized(self, array: NDArray[np.floating], scale: NDArray[np.floating]) -> NDArray[np.generic]:
        """The nearest values of the type; ``scale`` broadcasts against the array."""
        scaled = np.asarray(array, np.float64) / scale
        if self.levels is not None:
            scaled = np.rint(scaled)
        return np.clip(scaled, -self.largest, self.largest).astype(np.float32).astype(self.dtype.numpy())


# int8: -127..127, so that both signs have as many steps. e4m3: its largest finite value.
FORMATS = {
    "int8": QuantFormat("int8", ir.DataType.INT8, 127.0, 13, 128, True),
    "fp8": QuantFormat("fp8", ir.DataType.FLOAT8E4M3FN, 448.0, 19, None, False),
}


def quant_format(word: str) -> QuantFormat:
    """The format that an option names.

    Raises:
        PrecisionError: if it names none.
    """
    try:
        return FORMATS[word]
    except KeyError:
        raise PrecisionError(
            f"precision {word!r} is not a quantized type: choose {' or '.join(FORMATS)}; fp16 and bf16 are made by "
            "'attn-deploy convert --precision'.",
            exit_code=2,
        ) from None
