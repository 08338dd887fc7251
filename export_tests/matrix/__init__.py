"""Tests of `attn_deploy.matrix`."""
