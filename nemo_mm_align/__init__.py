"""Align LLaVA-type vision-language models on Megatron-Core with attribute annotations."""

from nemo_mm_align.core.late_imports import import_late

__version__ = "0.1.0"

import_late()
