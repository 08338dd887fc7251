"""Tests of `attn_deploy.cli`."""
