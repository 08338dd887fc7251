"""Tests of comparing runtimes."""
