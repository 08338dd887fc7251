"""How far two results may lie apart, in one table."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tolerance:
    """An element passes when ``|got - expected| <= atol * max(floor, max|expected|) + rtol * |expected|``.

    The maximum is over the part of the output that the element is in, see `attn_deploy.parity.channels`.

    Attributes:
        rtol, atol: relative to the element, and to the largest element.
        floor: the least scale that errors are measured by.
        share: the root mean square of the error that a part of an output with a scale of its own may have, over that of
            its values; None where the bound on each element says enough.
        agreement: the least share of equal choices (indices, classes, masks), near ties left out, where no
            floating-point output decides.
    """

    rtol: float
    atol: float
    floor: float = 1.0
    share: float | None = None
    agreement: float = 1.0


# float32: the rule that the vectors of the official implementations use; two orders above fp32 rounding of one
#     operator.
# float16: 11 significant bits, so 2**-11 = 4.9e-4 for each rounding, with a dozen roundings on the way.
# bfloat16: 8 significant bits, 2**-8 = 3.9e-3, likewise.
# int8: steps of 2**-7 of each tensor's range, so a tenth of the output's. It tells a quantized graph from a broken one;
#     what quantizing costs, accuracy on images shows.
TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-5),
    "float16": Tolerance(1e-2, 5e-3, share=5e-2, agreement=0.99),
    "bfloat16": Tolerance(6e-2, 4e-2, share=2e-1, agreement=0.95),
    "int8": Tolerance(1e-1, 1e-1, share=1e-1, agreement=0.9),
}

# Where the reference itself is unsure (a long sum, a division by a small norm), the error is measured in units of its
# own distance from float64: up to four times that is rounding, not a wrong graph.
NOISE_FACTOR = 4.0
# One run's distance is one draw of that, and draws differ tenfold where large scores meet a softmax. Of five models whose
# weights differ in the last bit, smp's MAnet with fresh weights is 0.035 to 1.04 from float64 at one size (itself 0.03; ONNX
# Runtime 0.42 with one graph and 1.02 with another), timm's visformer_tiny 0.44 to 1.64. So some are asked, one after the
# other. An error above a hundredth of the largest value is never excused: a model that rounds so much, by choosing other
# queries, say, proves nothing of its graph.
NEIGHBOURS = 6
MOST_NOISE = 0.01
# Such a model is asked on other inputs. Of 16 images at four sizes transformers' RT-DETR with fresh weights keeps its 300
# queries on 11 when the last bits move, three times each; on the others its boxes go 0.09 to 0.56 away.
REDRAWS = 6
