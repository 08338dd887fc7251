"""Tests of `attn_deploy.fusing`."""
