"""Tests of `attn_deploy.runtimes`."""
