"""Metrics over judged answers, results.json and the report; free of torch, Megatron and NeMo."""
