"""The classes of hostile inputs of ``benchmarks/hostile.py``: each makes one command on one input from a generator."""
