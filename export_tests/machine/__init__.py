"""Tests of `attn_deploy.machine`."""
