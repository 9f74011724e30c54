"""Memory, disk and rough time of a training run, from its configuration alone: no torch, no GPU, no weights."""

from nemo_mm_align.capacity.estimate import Estimate, estimate
from nemo_mm_align.capacity.gpus import GPU, GPUS, find_gpu
from nemo_mm_align.capacity.job import TrainingJob, read_job

__all__ = ["GPU", "GPUS", "Estimate", "TrainingJob", "estimate", "find_gpu", "read_job"]
