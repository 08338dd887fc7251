"""The steps of `benchmarks/gpu_campaign.py`."""
