"""ONNX -> TensorRT plan, for TensorRT and TensorRT-RTX alike. No torch anywhere: a Jetson has none."""
