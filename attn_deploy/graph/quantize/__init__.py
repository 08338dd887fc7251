"""Quantized graphs: products in int8 or fp8 behind explicit QuantizeLinear and DequantizeLinear pairs.

Symmetric, a scale for each output channel of weights, biases left in the type of the graph: the form that TensorRT and
TensorRT-RTX build (they refuse zero points, unsigned weights and a DequantizeLinear of int32 biases). `make_plan` finds
the products, `probes` and `Histogram` measure ranges, `insert_pairs` writes the result.
"""

from __future__ import annotations

from attn_deploy.graph.quantize.formats import FORMATS, QuantFormat, quant_format
from attn_deploy.graph.quantize.histogram import METHODS, Histogram
from attn_deploy.graph.quantize.layers import Layer, Left, QuantPlan, make_plan, quantizable_graph
from attn_deploy.graph.quantize.observe import empty_histograms, observed_tensors, probes
from attn_deploy.graph.quantize.rewrite import QuantizedGraph, insert_pairs

__all__ = [
    "FORMATS",
    "METHODS",
    "Histogram",
    "Layer",
    "Left",
    "QuantFormat",
    "QuantPlan",
    "QuantizedGraph",
    "empty_histograms",
    "insert_pairs",
    "make_plan",
    "observed_tensors",
    "probes",
    "quant_format",
    "quantizable_graph",
]
