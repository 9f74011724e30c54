"""Devices, process groups, checkpoints and the training host."""

import logging
import warnings

# On import megatron-core says in ten lines that apex and TransformerEngine are missing; scripts/train.py says it once.
for _message in (
    ".*Apex is not installed.*",
    ".*Transformer Engine and Apex are not installed.*",
    ".*CUDA_DEVICE_MAX_CONN.*",
):
    warnings.filterwarnings("ignore", message=_message)
logging.getLogger("megatron.core").setLevel(logging.WARNING)
