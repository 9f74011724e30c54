"""Devices, process groups, checkpoints and the training host."""
