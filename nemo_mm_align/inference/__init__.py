"""Answers from a model: KV-cache decoding under tensor and pipeline parallelism, sampling, steering."""
