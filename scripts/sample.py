"""Sample candidate answers to prompts, resumable, in any layout.

torchrun --nproc-per-node 2 scripts/sample.py checkpoint=MODEL prompts=prompts.jsonl out=candidates.jsonl \
    num_samples=4 temperature=0.7 tensor_model_parallel_size=2
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.early import check_early
from nemo_mm_align.parallel.stopping import StopRequest


@command("sample", types=("nemo_mm_align.inference.settings:InferenceSettings",))
def main(config: DictConfig) -> None:
    """Answer every prompt that `out` does not answer yet; conf/sample.yaml explains the settings."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    stop = StopRequest()
    stop.listen()  # before the slow imports
    settings = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.inference.run import answer_prompts
    from nemo_mm_align.parallel import runtime

    answer_prompts(settings, stop)
    runtime.shutdown()


if __name__ == "__main__":
    main()
