"""Latency: one fair clock for every runtime, and what a measurement leaves behind."""
