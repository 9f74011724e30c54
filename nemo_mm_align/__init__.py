"""Align LLaVA-type vision-language models on Megatron-Core with attribute annotations."""

__version__ = "0.1.0"
