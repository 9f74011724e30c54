"""Answer prompts, steered by attributes where they are asked for.

python scripts/generate.py checkpoint=MODEL prompts=prompts.jsonl out=answers.jsonl attributes.verbosity=0
python scripts/generate.py checkpoint=MODEL 'tasks={mt_bench: {data: FOLDER}}' out=FOLDER
python scripts/generate.py checkpoint=MODEL 'question="What is in the image?"' image=photo.jpg
"""

from __future__ import annotations

import sys

from omegaconf import DictConfig, OmegaConf

from nemo_mm_align.cli.command import command
from nemo_mm_align.inference.early import check_early
from nemo_mm_align.inference.settings import register_open_attributes
from nemo_mm_align.parallel.stopping import StopRequest

register_open_attributes()


@command("generate", types=("nemo_mm_align.inference.settings:InferenceSettings",))
def main(config: DictConfig) -> None:
    """Answer what `out` does not answer yet of prompts or tasks, or one question; conf/generate.yaml explains all."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    stop = StopRequest()
    stop.listen()  # before the slow imports
    settings = check_early(values)  # type: ignore[arg-type]
    from nemo_mm_align.inference.run import answer_prompts, answer_question, answer_tasks
    from nemo_mm_align.parallel import runtime

    if settings.tasks is not None:
        answer_tasks(settings, stop)
    elif settings.question is None:
        answer_prompts(settings, stop, rolls_out=True)
    else:
        sys.stdout.writelines(f"{answer}\n" for answer in answer_question(settings))
    runtime.shutdown()


if __name__ == "__main__":
    main()
