"""Tests of `attn_deploy.deploy`."""
