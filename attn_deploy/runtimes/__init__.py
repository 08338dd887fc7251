"""One Runner for each runtime, behind one protocol."""
