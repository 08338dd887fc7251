"""Tests of `attn_deploy.comparison`."""
