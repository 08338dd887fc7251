"""Tests of `attn_deploy.exporters`."""
