"""Tests of `attn_deploy.graph.opset`."""
