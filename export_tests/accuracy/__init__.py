"""Tests of `attn_deploy.accuracy`."""
