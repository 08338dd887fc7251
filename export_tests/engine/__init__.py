"""Tests of `attn_deploy.engine`."""
