"""Tests of `attn_deploy.graph`."""
