"""Tests of `attn_deploy.training`."""
