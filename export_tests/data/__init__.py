"""Tests of `attn_deploy.data`."""
