"""Modules that join several feature maps."""
