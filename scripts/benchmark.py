"""Measure this engine against TRL and transformers, its layouts against each other, and print tables.

python scripts/benchmark.py out=benchmarks.json
python scripts/benchmark.py parts=[training,decoding] size=smoke
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.benchmarks.settings import BenchmarkSettings
from nemo_mm_align.cli.command import command
from nemo_mm_align.core.configuration import read
from nemo_mm_align.core.outputs import file_to_write, folder_to_write


@command("benchmark", types=("nemo_mm_align.benchmarks.settings:BenchmarkSettings",))
def main(config: DictConfig) -> None:
    """Run the parts asked for; conf/benchmark.yaml explains the settings."""
    settings = read(BenchmarkSettings, OmegaConf.to_container(config, resolve=True, throw_on_missing=True))
    if settings.out:
        file_to_write(settings.out)  # said now, not after the imports and the hours
    if settings.scratch:
        folder_to_write(settings.scratch)
    from nemo_mm_align.benchmarks.run import run_benchmark

    sys.stdout.write(run_benchmark(settings))


if __name__ == "__main__":
    main()
