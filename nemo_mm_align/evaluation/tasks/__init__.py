"""Evaluation tasks: what is asked of a model, and how its answers are scored; one file each."""
