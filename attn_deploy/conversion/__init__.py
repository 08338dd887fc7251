"""From one ONNX file to another, proven: opset, half precision, eight bits."""
