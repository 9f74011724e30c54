"""Ridge regression on the features of a frozen model: the baseline of an attribute model.

python scripts/probe.py checkpoint=MODEL train=rated.jsonl heldout=rated.heldout.jsonl out=probe.jsonl
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.probe_settings import check_early


@command("probe", types=("nemo_mm_align.inference.probe_settings:ProbeSettings",))
def main(config: DictConfig) -> None:
    """Fit on one file of rated answers and tell the attributes of another; conf/probe.yaml explains the settings."""
    settings = check_early(OmegaConf.to_container(config, resolve=True, throw_on_missing=True))  # type: ignore[arg-type]
    from nemo_mm_align.inference.probe import probe
    from nemo_mm_align.parallel import runtime

    probe(settings)
    runtime.shutdown()


if __name__ == "__main__":
    main()
