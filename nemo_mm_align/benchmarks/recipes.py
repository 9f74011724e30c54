"""The recipes that are measured, by what matters for speed; what each is stands in `nemo_mm_align.recipes`."""

from __future__ import annotations

PREFERENCE, IMITATION, CONDITIONED = "dpo", "sft", "steerlm"
"""Pairs with a reference; single answers; single answers behind longer prompts."""
