"""Which opsets there are, and the IR version of each. Needs onnx and nothing else: a request is checked with it."""

from __future__ import annotations

import onnx

MIN_OPSET = 13
MAX_OPSET = min(25, onnx.defs.onnx_opset_version())  # an older onnx knows fewer
# The IR version that came with each opset: a runtime that knows the opset reads the file. Readers of those before 10 skip
# the metadata of nodes.
IR_VERSIONS = {13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13}
