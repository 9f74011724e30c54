"""Serve a model by OpenAI's protocol, with attributes that each request may ask for, and a page to try it.

python scripts/serve.py checkpoint=MODEL
torchrun --nproc-per-node 2 scripts/serve.py checkpoint=MODEL tensor_model_parallel_size=2
python scripts/serve.py checkpoint=MODEL 'aliases={short: {verbosity: 0}}' host=0.0.0.0 api_key_variable=SERVER_KEY
"""

from __future__ import annotations

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.serving.asked_to_end import ServerStop
from nemo_mm_align.serving.early import check_early

register_open_attributes()


@command("serve", types=("nemo_mm_align.serving.settings:ServeSettings",))
def main(config: DictConfig) -> None:
    """Answer requests until SIGTERM, SIGINT or the stop file, and finish what was accepted; conf/serve.yaml explains all."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    stop = ServerStop()
    stop.listen()  # before the slow imports
    checked = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.serving.run import serve

    serve(checked, stop)


if __name__ == "__main__":
    main()
