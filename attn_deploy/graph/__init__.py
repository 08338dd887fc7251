"""ONNX to ONNX: read, check, simplify, convert. No torch."""
