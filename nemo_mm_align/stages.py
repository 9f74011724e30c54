"""The stages of the loop: each is a script of its name with a configuration of its name."""

from __future__ import annotations

STAGES = ("sample", "label", "annotate", "build", "train", "generate", "evaluate")
RANKED_STAGES = ("sample", "annotate", "train", "generate")
"""Stages that compute with a model: many ranks, on GPUs where there are any. The others are one process without a GPU."""
