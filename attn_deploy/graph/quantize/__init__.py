"""Quantized graphs: products in int8 or fp8 behind explicit QuantizeLinear and DequantizeLinear pairs.

For GPUs: symmetric, a scale for each output channel of weights, biases left in the type of the graph: the form that
TensorRT and TensorRT-RTX build (they refuse zero points, unsigned weights and a DequantizeLinear of int32 biases). For
CPUs: zero points, biases of int32, and pairs on both sides of all that ONNX Runtime has kernels for. `scheme_for` gives
either: its plan names the products, `probes` measure what tensors hold, `write` gives the result.
"""

from __future__ import annotations

from attn_deploy.graph.quantize.formats import FORMATS, QuantFormat, quant_format
from attn_deploy.graph.quantize.histogram import METHODS, Histogram
from attn_deploy.graph.quantize.layers import Layer, Left, QuantPlan, plan_layers, quantizable_graph
from attn_deploy.graph.quantize.observe import empty_histograms, observed_tensors, probes
from attn_deploy.graph.quantize.options import QuantOptions
from attn_deploy.graph.quantize.rewrite import QuantizedGraph, insert_pairs
from attn_deploy.graph.quantize.schemes import Scheme, scheme_for

__all__ = [
    "FORMATS",
    "METHODS",
    "Histogram",
    "Layer",
    "Left",
    "QuantFormat",
    "QuantOptions",
    "QuantPlan",
    "QuantizedGraph",
    "Scheme",
    "empty_histograms",
    "insert_pairs",
    "observed_tensors",
    "plan_layers",
    "probes",
    "quant_format",
    "quantizable_graph",
    "scheme_for",
]
