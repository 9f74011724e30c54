"""Stages as jobs: one readable script or manifest per stage, for Slurm, Kubernetes or this machine."""
