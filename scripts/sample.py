"""Sample candidate answers to prompts, resumable, in any layout.

torchrun --nproc-per-node 2 scripts/sample.py checkpoint=MODEL prompts=prompts.jsonl out=candidates.jsonl \
    num_samples=4 temperature=0.7 tensor_model_parallel_size=2
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.command import command


@command("sample")
def main(config: DictConfig) -> None:
    """Answer every prompt that `out` does not answer yet; conf/sample.yaml explains the settings."""
    settings = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    from nemo_mm_align.parallel.stopping import StopRequest

    stop = StopRequest()
    stop.listen()  # before the slow imports
    from nemo_mm_align.inference.run import answer_prompts
    from nemo_mm_align.inference.settings import settings_from_config
    from nemo_mm_align.parallel import runtime

    answer_prompts(settings_from_config(settings), stop)  # type: ignore[arg-type]
    runtime.shutdown()


if __name__ == "__main__":
    main()
