"""pytest -p tests.stack.pretended_gpu --collect-only tests/gpu: collects what would run on a Hopper card. Runs nothing."""

import torch

torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 2
torch.cuda.get_device_capability = lambda *arguments: (9, 0)
