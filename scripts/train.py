"""Train one recipe on one data set.

torchrun --nproc-per-node 2 scripts/train.py recipe=dpo model=llava15_13b model.hf_path=... data.train=... exp_manager.exp_dir=...
"""

if __name__ == "__main__":  # imports inside: saving a checkpoint starts helper processes that read this file again
    from nemo_mm_align.parallel.stopping import StopRequest

    stop = StopRequest()
    stop.listen()  # before NeMo: its import takes seconds in which a request must not be lost

    from nemo.core.config import hydra_runner
    from omegaconf import DictConfig

    from nemo_mm_align.cli import user_errors
    from nemo_mm_align.recipes.trainer import train

    @hydra_runner(config_path="../conf", config_name="train")
    @user_errors
    def main(config: DictConfig) -> None:
        """Train as configured."""
        train(config, stop)

    main()
