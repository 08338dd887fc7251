"""Tests of `attn_deploy.diagnosis`."""
