"""Run stages as jobs of a cluster or on this machine: render, check, submit as a chain.

python scripts/launch.py 'stages=[sample,label,build,train,evaluate]' cluster=bcm experiment=dpo_llava15_13b_2x8 \
    base_results_dir=/shared/results dry_run=true
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig

from nemo_mm_align.cli.command import command
from nemo_mm_align.launch.settings import register_open_nodes

register_open_nodes()


@command("launch", types=("nemo_mm_align.launch.settings:LaunchSettings",))
def main(config: DictConfig) -> None:
    """Launch the stages; conf/launch.yaml explains the settings."""
    from nemo_mm_align.launch.launch import launch  # not for --help

    sys.stdout.write(launch(config))


if __name__ == "__main__":
    # conf/experiment is a group of training configurations, which do not belong into the launcher's own.
    sys.argv[1:] = [f"run.{word}" if word.startswith("experiment=") else word for word in sys.argv[1:]]
    main()
