"""Tests of `attn_deploy.report`."""
