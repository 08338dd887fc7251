"""Tests of `attn_deploy.resolve`."""
