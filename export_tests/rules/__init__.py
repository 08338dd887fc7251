"""Tests of `attn_deploy.rules`."""
