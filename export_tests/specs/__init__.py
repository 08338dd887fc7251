"""Tests of `attn_deploy.inputs`."""
