"""Talk to a model in the terminal; attributes are changed in between by /verbosity 0, pictures shown by /image FILE.

python scripts/chat.py checkpoint=MODEL
torchrun --nproc-per-node 2 scripts/chat.py checkpoint=MODEL tensor_model_parallel_size=2 < questions.txt
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.serving.chat_settings import check_early

register_open_attributes()


@command("chat", types=("nemo_mm_align.serving.chat_settings:ChatSettings",))
def main(config: DictConfig) -> None:
    """Answer lines until they end, or /quit; /help lists what else a line can be, conf/chat.yaml explains the settings."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    settings = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.serving.chat import chat

    chat(settings)


if __name__ == "__main__":
    main()
