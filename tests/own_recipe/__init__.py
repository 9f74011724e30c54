"""A recipe of somebody else's package: what `nemo_mm_align.recipes` takes in by an entry point."""
