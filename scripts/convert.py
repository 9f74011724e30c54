"""Hugging Face folder <-> checkpoint, adapters merged or apart; a LLaVA folder from a language model and a tower.

python scripts/convert.py direction=import source=llava-1.5-7b-hf out=imported template=vicuna_v1
torchrun --nproc-per-node 2 scripts/convert.py direction=export source=results/dpo out=exported \
    tensor_model_parallel_size=2
"""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.parallel.conversion_checks import check_early


@command("convert", types=("nemo_mm_align.parallel.conversion_settings:ConvertSettings",))
def main(config: DictConfig) -> None:
    """Make the folder `out` from `source`; conf/convert.yaml explains the settings."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.parallel.conversion import convert

    logging.getLogger("convert").info("wrote %s", convert(settings))


if __name__ == "__main__":
    main()
