"""Convolution layers and blocks."""
