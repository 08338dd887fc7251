"""Tests of `attn_deploy.modules`."""
