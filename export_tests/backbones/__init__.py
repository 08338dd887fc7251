"""Tests of `attn_deploy.backbones`."""
