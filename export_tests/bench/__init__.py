"""Tests of `attn_deploy.bench`."""
