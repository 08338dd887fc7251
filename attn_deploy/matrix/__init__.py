"""The compatibility matrix: which model, exporter, opset and precision give a correct file, and why not where not."""
