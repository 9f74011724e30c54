"""Steps between the stages of rounds: shares of the prompts, training sets put together, a review of a round.

rounds.py step=share results=results share.prompts=prompts.jsonl share.count=3
"""

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.workflow.rounds import run_step


@command("rounds", types=("nemo_mm_align.workflow.rounds:RoundSteps",))
def main(config: DictConfig) -> None:
    """Run one step; the launcher puts them between the stages of its rounds."""
    missing = [key for key in ("step", "results") if OmegaConf.is_missing(config, key)]
    if missing:
        raise UserError(
            f"missing on the command line: {'=..., '.join(missing)}=... Each is explained in conf/rounds.yaml."
        )
    run_step(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
