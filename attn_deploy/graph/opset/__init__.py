"""Opset conversion: the same computation, written for another version of the standard operators.

`convert_opset` goes one opset at a time. Where an operator changes its form at an opset, a rule of ``rules_*.py``
rewrites the node; where only the allowed element types change, the standard's schema decides whether the node may stay.
"""

from __future__ import annotations

from attn_deploy.graph.opset.conversion import (
    ConversionResult,
    convert_opset,
    standard_opset,
)
from attn_deploy.graph.versions import IR_VERSIONS, MAX_OPSET, MIN_OPSET

__all__ = ["IR_VERSIONS", "MAX_OPSET", "MIN_OPSET", "ConversionResult", "convert_opset", "standard_opset"]
