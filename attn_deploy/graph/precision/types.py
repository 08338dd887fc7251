"""The two half types and what they can hold."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from attn_deploy.errors import InvalidRequestError, OpsetError, PrecisionError

INTERFACES = ("fp32", "same")


@dataclass(frozen=True, slots=True)
class HalfType:
    """A floating-point type of 16 bits.

    Attributes:
        word: as options say it: fp16 or bf16.
        name: as numpy and the tolerances say it.
        dtype: of ONNX.
        largest: the largest finite value.
        smallest: the smallest normal value; what is smaller loses digits, then vanishes.
        first_opset: the first at which convolutions take it.
    """

    word: str
    name: str
    dtype: ir.DataType
    largest: float
    smallest: float
    first_opset: int

    def check(self, io: str, opset: int) -> None:
        """Refuse a request that cannot be met.

        Raises:
            InvalidRequestError: if ``io`` is neither fp32 nor same.
            OpsetError: if convolutions do not have the type at that opset.
        """
        if io not in INTERFACES:
            raise InvalidRequestError(f"--io {io!r} is unknown: choose fp32 (inputs and outputs stay) or same.")
        if opset < self.first_opset:
            raise OpsetError(
                f"{self.word} is not possible at opset {opset}: convolutions have it from opset {self.first_opset} on. "
                f"Use --opset {self.first_opset} or above, or --precision fp16.",
                exit_code=2,
            )


_TYPES = {
    "fp16": HalfType("fp16", "float16", ir.DataType.FLOAT16, 65504.0, 2.0**-14, 13),
    "bf16": HalfType("bf16", "bfloat16", ir.DataType.BFLOAT16, 3.3895313892515355e38, 2.0**-126, 22),
}
PRECISIONS = tuple(_TYPES)


def half_type(word: str) -> HalfType:
    """The type that an option names.

    Raises:
        PrecisionError: if it names none.
    """
    try:
        return _TYPES[word]
    except KeyError:
        raise PrecisionError(
            f"precision {word!r} is unknown: choose {', '.join(PRECISIONS)}, or leave it out for fp32.", exit_code=2
        ) from None
