"""Rate candidates with a model that was trained to tell attributes, resumable, in any layout.

torchrun --nproc-per-node 2 scripts/annotate.py checkpoint=results/attribute_model prompts=prompts.jsonl \
    candidates=candidates.jsonl out=annotations.jsonl
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.annotate_settings import check_early
from nemo_mm_align.parallel.stopping import StopRequest


@command("annotate", types=("nemo_mm_align.inference.annotate_settings:AnnotateSettings",))
def main(config: DictConfig) -> None:
    """Rate the candidates of every prompt that `out` does not rate yet; conf/annotate.yaml explains the settings."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    stop = StopRequest()
    stop.listen()  # before the slow imports
    settings = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.inference.annotate import annotate
    from nemo_mm_align.parallel import runtime

    annotate(settings, stop)
    runtime.shutdown()


if __name__ == "__main__":
    main()
