"""Tests of `attn_deploy.conversion`."""
