"""Measurements against peers and between layouts; scripts/benchmark.py runs them."""
