"""What a model takes: the `--input` grammar, symbolic axes, sample tensors, binding to `forward`."""
