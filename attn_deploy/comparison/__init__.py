"""Reads kept profiles again: compares, ranks, holds them against the hardware's limit."""
