"""Callbacks of the training host, one concern each."""
