"""The project tried on the GPUs of a container, step by step, with one report at the end: ``python -m nemo_mm_align.verify``.

``containers/verify.sh`` builds the image and starts it there. What judges imports neither torch nor megatron-core: every step
runs in processes of its own, so that one that crashes, hangs or is out of memory costs that step and not the report.
"""
