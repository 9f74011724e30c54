"""Say what a training run needs in memory, disk and (roughly) time, or choose a layout for it.

python scripts/estimate.py experiment=dpo_llava15_13b_2x8 gpu=h100_80gb
python scripts/estimate.py model=llava15_13b recipe=dpo suggest=true nodes=4 gpu=a100_40gb
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command


@command("estimate", types=("nemo_mm_align.capacity.run:EstimateSettings", "nemo_mm_align.training.sections:TopLevel"))
def main(config: DictConfig) -> None:
    """Estimate; conf/estimate.yaml explains the settings."""
    values = OmegaConf.to_container(config, resolve=True)
    from nemo_mm_align.capacity.run import run_estimate, training_of
    from nemo_mm_align.training.settings import read_values

    read_values(training_of(values))  # type: ignore[arg-type]  # all of it, also what the estimate does not need

    sys.stdout.write(run_estimate(values))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
