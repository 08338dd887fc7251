"""nn.Module to ONNX through PyTorch's two exporters, and the proof that the file is right."""
