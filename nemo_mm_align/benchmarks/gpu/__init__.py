"""Measurements on one GPU: ``python -m nemo_mm_align.benchmarks.gpu``.

Needs torch and megatron-core; TransformerEngine, transformers with peft, and pytest where they are installed. Neither Hydra
nor NeMo. Every step of the plan runs in a process of its own, with a limit of its own, and appends its figures one by one.
"""
