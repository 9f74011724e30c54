"""The tensor- and pipeline-parallel LLaVA on megatron-core, and its weights' way in and out."""
