"""Typed graphs: fp16 and bf16 from fp32, with what would lose its meaning kept in fp32.

`plan_precision` decides for each node, `apply_plan` writes the types and the casts, `instrumented` measures what the decision
rests on, and `rounded` is the typed graph in float32 with a rounding after every operator, for runtimes that lack half
kernels or hide an overflow by computing wider than the file says.
"""

from __future__ import annotations

from attn_deploy.graph.precision.masks import ClippedMask, clip_masks
from attn_deploy.graph.precision.plan import Kept, PrecisionPlan, plan_precision
from attn_deploy.graph.precision.ranges import Range, float_tensors, instrumented, read_ranges
from attn_deploy.graph.precision.rewrite import TypedGraph, apply_plan, prepared_graph
from attn_deploy.graph.precision.rounding import rounded
from attn_deploy.graph.precision.types import PRECISIONS, HalfType, half_type

__all__ = [
    "PRECISIONS",
    "ClippedMask",
    "HalfType",
    "Kept",
    "PrecisionPlan",
    "Range",
    "TypedGraph",
    "apply_plan",
    "clip_masks",
    "float_tensors",
    "half_type",
    "instrumented",
    "plan_precision",
    "prepared_graph",
    "read_ranges",
    "rounded",
]
