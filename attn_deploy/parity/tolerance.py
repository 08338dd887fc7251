"""How far two results may lie apart, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element passes when ``|got - expected| <= atol * max(1, max|expected|) + rtol * |expected|``."""

    rtol: float
    atol: float


# float32: the rule that the vectors of the official implementations use; two orders above fp32 rounding of one
#     operator.
# float16: 11 significant bits, so 2**-11 = 4.9e-4 for each rounding, with a dozen roundings on the way.
# bfloat16: 8 significant bits, 2**-8 = 3.9e-3, likewise.
# int8: steps of 2**-7 of each tensor's range, so a tenth of the output's. It tells a quantized graph from a broken one;
#     what quantizing costs, accuracy on images shows.
TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-5),
    "float16": Tolerance(1e-2, 5e-3),
    "bfloat16": Tolerance(6e-2, 4e-2),
    "int8": Tolerance(1e-1, 1e-1),
}

# Where the reference itself is unsure (a long sum, a division by a small norm), the error is measured in units of its
# own
# distance from float64: up to four times that is rounding, not a wrong graph.
NOISE_FACTOR = 4.0
