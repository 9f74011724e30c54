"""A local judge service over HTTP for tests and benchmarks: its scores follow from what it receives, its faults on command."""
