"""Checks before a run: what is installed, what the machine offers, whether the ranks reach each other, whether the job fits."""
