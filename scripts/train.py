"""Train one recipe on one data set.

torchrun --nproc-per-node 2 scripts/train.py recipe=dpo model=llava15_13b model.hf_path=... data.train=... exp_manager.exp_dir=...
"""

if __name__ == "__main__":  # imports inside: saving a checkpoint starts helper processes that read this file again
    from typing import Any

    from omegaconf import DictConfig

    from nemo_mm_align.cli.command import command
    from nemo_mm_align.parallel.stopping import StopRequest
    from nemo_mm_align.training.early import check_early

    stop = StopRequest()
    stop.listen()  # before NeMo: its import takes seconds in which a request must not be lost

    def hydra_runner() -> Any:
        """NeMo's, which is slow to import."""
        from nemo_mm_align.core.quiet import quiet_import

        with quiet_import():
            from nemo.core.config import hydra_runner
        return hydra_runner

    @command("train", host=hydra_runner, check=check_early, types=("nemo_mm_align.training.sections:TopLevel",))
    def main(config: DictConfig) -> None:
        """Train as configured."""
        from nemo_mm_align.training.trainer import train

        train(config, stop)

    main()
