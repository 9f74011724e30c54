"""All images of a run, decoded once before any of it begins."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from tqdm import tqdm

from nemo_mm_align.inference.requests import raise_faults
from nemo_mm_align.parallel import runtime
from nemo_mm_align.schema.images import image_fault


def verify_images(paths: Iterable[Path]) -> None:
    """Decode every image once, shared among ranks; raise `UserError` on all of them if one is broken."""
    distinct = list(dict.fromkeys(paths))
    mine = distinct[runtime.rank() :: runtime.world_size()]
    with ThreadPoolExecutor() as pool:  # Pillow lets other threads run while it decodes
        found = tqdm(pool.map(image_fault, mine), "checking images", len(mine), disable=runtime.rank() != 0)
        faults = [fault for fault in found if fault is not None]
    parts: list[list[str]] = [[]] * runtime.world_size()
    torch.distributed.all_gather_object(parts, faults)
    raise_faults([fault for part in parts for fault in part], "Nothing was generated.")
