"""CAPACITY.md: what fits where, for 7B, 13B and 70B language models behind the same tower."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nemo_mm_align.capacity.estimate import RESERVE, estimate_job
from nemo_mm_align.capacity.experiments import MODELS as EXPERIMENT_MODELS
from nemo_mm_align.capacity.gpus import GPU, GPUS, REFERENCE_GPU, find_gpu
from nemo_mm_align.capacity.job import ANSWER_TOKENS, USUAL_ANSWER_TOKENS, USUAL_PROMPT_TOKENS, TrainingJob, read_job
from nemo_mm_align.capacity.measured import MEASURED_GPU, Comparison
from nemo_mm_align.capacity.memory import CUDA_CONTEXT, NCCL_PER_GROUP
from nemo_mm_align.capacity.micro_batch_time import (
    FP8_GAIN,
    FP8_HOST,
    HOST_SECONDS_PER_LAYER,
    HOST_WITHOUT_ADAPTERS,
    PRODUCTS,
)
from nemo_mm_align.capacity.operations import computed_flops
from nemo_mm_align.capacity.steptime import ASSUMED_LINK_SHARE
from nemo_mm_align.capacity.suggest import Suggestion, describe, suggest
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.units import GIB, gib
from nemo_mm_align.recipes.registry import paper_recipes
from nemo_mm_align.recipes.spec import RecipeSpec

MODELS = {**EXPERIMENT_MODELS, "llava_llama2_70b": "A LLaVA with Llama-2-70B"}
NUMBERS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_EPOCHS = 3


def recipes_by_rows() -> dict[str, list[RecipeSpec]]:
    """The paper's recipes, those together whose rows, and so whose memory, are the same; by the first one's name."""
    alike: dict[Any, list[RecipeSpec]] = {}
    for recipe in paper_recipes().values():
        objective = recipe.configured()
        kind = recipe.samples
        rows = kind.usual_sequences, kind.apart, objective.rows_shared, objective.reads, objective.needs_reference
        alike.setdefault(rows, []).append(recipe)
    return {recipes[0].name: recipes for recipes in alike.values()}


def _introduction() -> str:
    first, *_, last = paper_recipes()
    return f"""# Capacity

Written by `python scripts/estimate.py model=mini recipe={first} document=docs/CAPACITY.md`; a test writes it again and compares.
For your own run, GPU or layout: `python scripts/estimate.py experiment=dpo_llava15_13b_2x8 gpu=h100_80gb`, or
`python scripts/estimate.py model=llava15_13b recipe={last} suggest=true nodes=4`.

## How to read it
* Memory is that of the fullest rank at the worst moment of a step, for the **longest rows** that the recipe admits
  (`model.max_length`, answers of {ANSWER_TOKENS:,} tokens, one image): shorter data need less. bf16, global batch 128 as in
  the paper, LoRA of rank 128 on all linear layers plus the projector, or all of language model and projector ("full");
  the tower is frozen. A layout fits if it leaves {RESERVE:.0%} of the memory free.
* Counted from the model's own configuration: parameters of every stage and tensor-parallel rank (padded vocabulary, a
  tied matrix twice under pipeline parallelism), fp32 gradients, AdamW's fp32 moments and copies, logits at labelled
  positions only, activations as the modules save them, micro batches in flight (1F1B).
* **Checked by tests** on small models against the real objects on a CPU: parameters and trained parameters exactly;
  gradients, optimizer state, checkpoints and saved activations within 2 %, all tensors alive at the worst moment of
  forward and backward passes within 10 %. One process, TP2, TP2 with sequence parallelism, PP2; with and without LoRA
  and its dropout; every kind of recomputation; shared prefixes; grouped heads, tied matrices, a trained tower.
* **Allowances, not measurements**: {gib(CUDA_CONTEXT, 1)} for CUDA's context and workspaces and
  {gib(NCCL_PER_GROUP)} per NCCL communicator. **Checked on one H200** (27 November
  2026, torch 2.11, TransformerEngine 2.11) against `torch.cuda.max_memory_allocated`: five small jobs of
  `tests/gpu/test_capacity_cuda.py`, and DPO steps of the 7B shape with LoRA: 26.0 GiB estimated, 26.1 measured for a
  micro batch of 1 pair, 47.0 and 47.2 for 4, 75.1 and 75.3 for 8; FP8 59.3 and 59.4 for 4.
* **Seconds per step only rank layouts.** They are those of rows of usual length: an image, {USUAL_PROMPT_TOKENS} tokens of a
  question, {USUAL_ANSWER_TOKENS} of an answer; padding is left out. The share of the data sheet's rate that they reckon with
  grows with the tokens of a micro batch, as [the next section](#seconds-of-a-micro-batch) says. Links: not measured,
  {ASSUMED_LINK_SHARE:.0%} of their rates, no overlap. Of layouts within 10 % of the quickest
  the one with the least splitting is taken: pipeline stages count first, then tensor-parallel ranks, recomputation, and the
  distributed optimizer. Tensor parallelism stays inside a node and always comes with sequence parallelism (+SP).
* DPO needs no second copy of the model: the reference is these weights before the first step, its log-probs are
  cached. Chosen and rejected share one row behind their prompt.
* FP8 saves time, not memory: TransformerEngine keeps a quantised copy and its transpose beside each bf16 weight.
* Recipes of one table have the same rows, so they have the same memory; the hours differ with the paper's numbers of
  examples ({_examples()}; {_EPOCHS} epochs).
* Fused attention is assumed. Grouped key/value heads **and** shared prefixes (the 70B's DPO) ask PyTorch for a kernel
  that takes a mask and grouped heads together; where it has none it stores the scores (`fused_attention=false` in
  `scripts/estimate.py` says what that takes): set `recipe.shared_prefix=false` then.
"""


def _examples() -> str:
    return ", ".join(f"{recipe.label} {recipe.paper_examples:,}" for recipe in paper_recipes().values())


def _titles(job: TrainingJob) -> str:
    return ", ".join(recipe.label for recipe in recipes_by_rows()[job.method])


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _place(job: TrainingJob, number: int, gpu: GPU) -> TrainingJob:
    """The job on `number` GPUs: part of a node, or whole nodes."""
    return replace(job, nodes=max(1, number // gpu.per_node), gpus_per_node=min(number, gpu.per_node))


@functools.cache
def _try(job: TrainingJob, number: int, gpu: GPU) -> Suggestion | None:
    try:
        return suggest(_place(job, number, gpu), gpu, explain=False)
    except UserError:
        return None


def _hours(found: Suggestion, recipe: RecipeSpec) -> str:
    assert recipe.paper_examples is not None
    steps = -(-recipe.paper_examples * _EPOCHS // found.job.global_batch_size)
    return f"{found.time.total * steps / 3600:.2g}"


def _rows(job: TrainingJob, gpu: GPU) -> list[list[str]]:
    rows, recipes = [], recipes_by_rows()[job.method]
    for number in NUMBERS:
        found = _try(job, number, gpu)
        if found is None:
            rows.append([str(number), "does not fit", *[""] * (2 + len(recipes))])
            continue
        cells = [str(number), describe(found.job), f"{found.estimate.peak / GIB:.0f}", f"{found.time.total:.2g}"]
        rows.append(cells + [_hours(found, recipe) for recipe in recipes])
    return rows


def _section(title: str, job: TrainingJob, gpu: GPU) -> str:
    recipes = recipes_by_rows()[job.method]
    hours = [f"hours {recipe.label}" for recipe in recipes] if len(recipes) > 1 else ["hours"]
    single = estimate_job(_place(job, 1, gpu), gpu)
    caption = (
        f"Rows of up to {job.row_length:,} tokens; {single.stages[0].trained:,} trained parameters; "
        f"{single.checkpoint_bytes / 1e9:.1f} GB per checkpoint."
    )
    header = ["GPUs", "layout", "GiB per GPU", "s per step, rough", *hours]
    return f"### {title}: {_titles(job)}, {job.kind}\n{caption}\n\n{_table(header, _rows(job, gpu))}\n"


def _smallest(job: TrainingJob, gpu: GPU) -> str:
    return next((str(number) for number in NUMBERS if _try(job, number, gpu)), "more than 512")


def _overview(jobs: Mapping[str, list[TrainingJob]]) -> str:
    header = [
        "",
        *(f"{_titles(job)}, {job.kind}" for job in next(iter(jobs.values()))),
    ]
    parts = []
    for model, title in MODELS.items():
        rows = [[gpu.name, *(_smallest(job, gpu) for job in jobs[model])] for gpu in GPUS.values()]
        parts.append(f"### {title}\n\n{_table(header, rows)}\n")
    return "\n".join(parts)


def _pace(comparisons: Sequence[Comparison]) -> str:
    """How the time of a micro batch is reckoned, and every one that was measured."""
    header = ["model", "recipe", "", "tokens", "share of the rate", "measured, s", "reckoned, s", "error"]
    rows = [_compared(found) for found in comparisons]
    return f"""## Seconds of a micro batch
A GPU's kernels take time in proportion to the tokens: matrix products at {PRODUCTS:.0%} of the data sheet's bf16 rate (the
decoder's in FP8 {FP8_GAIN} times as quick, quantisation included), attention, and passes over memory for everything else, two
thirds of what the products take. Whatever the tokens, the host takes {HOST_SECONDS_PER_LAYER * 1000:.0f} ms to launch a
decoder layer's kernels (x {FP8_HOST} in FP8, x {HOST_WITHOUT_ADAPTERS} without adapters); it sets the pace of small micro
batches, under tensor parallelism up to larger ones. So several samples at a time are worth a recomputation.
`nemo_mm_align/capacity/micro_batch_time.py` has formula and parameters.

**Measured** on one {MEASURED_GPU} (27 and 28 November 2026, [BENCHMARKS.md](BENCHMARKS.md#on-a-gpu)): steps of two micro
batches, the optimizer's update included; "share" is what was reached of the data sheet's rate with all that is computed. Where
the host sets the pace one measurement differs from the next by a fifth. The parameters are taken from the 13B's profile at 4
pairs, from launches, and from the times of FP8 and of full training; all else in the table follows:

{_table(header, rows)}

**Extrapolated**: other cards (by their data sheets' rates), tensor parallelism, rows much longer, the 70B, full training of
the whole without recomputation. A host without a virtual machine launches faster. Memory needed no correction: of these
steps the estimate is within 1 % of what was allocated.
"""


def _compared(found: Comparison) -> list[str]:
    job, seconds = found.job, found.measured
    reached = sum(computed_flops(job, 0)) * job.micro_batches * len(seconds) / sum(seconds)
    facts = [f"{job.micro_batch_size} {'sample' if job.micro_batch_size == 1 else 'samples'}", job.kind]
    facts += ["separate rows"] if job.sequences > 1 and not job.has_shared_prefix else []
    facts += [f"{job.config.language.num_layers} layers"] if not job.lora else []
    facts += ["recomputed"] if job.engine.recompute == "full" else []
    facts += [job.engine.precision] if job.fp8 else []
    return [
        str(job.config.name),
        job.recipe.label,
        ", ".join(facts),
        f"{found.tokens:,}",
        f"{reached / find_gpu(MEASURED_GPU).bf16_flops:.0%}",
        ", ".join(f"{value:.2f}" for value in seconds),
        f"{found.estimated:.2f}",
        f"{found.error:+.0%}",
    ]


def write_document(
    composed: Mapping[str, Mapping[str, Mapping[str, Any]]], comparisons: Sequence[Comparison] = ()
) -> str:
    """Return CAPACITY.md.

    Args:
        comparisons: steps that were measured, beside their estimates.
        composed: conf/train.yaml composed for each of `MODELS` and of `recipes_by_rows`, as ``composed[model][recipe]``.
    """
    gpu = find_gpu(REFERENCE_GPU)
    jobs: dict[str, list[TrainingJob]] = {}
    for model in MODELS:
        with_lora = [read_job(composed[model][method], 1, 1) for method in recipes_by_rows()]
        jobs[model] = [replace(job, lora=lora) for lora in (with_lora[0].lora, None) for job in with_lora]
    tables = [_section(title, job, gpu) for model, title in MODELS.items() for job in jobs[model]]
    return "\n".join(
        [
            _introduction(),
            _pace(comparisons),
            "## The smallest number of GPUs\nPowers of two; 8 GPUs are a node. At most 512 were tried.\n",
            _overview(jobs),
            f"## Layouts on {gpu.name}\n",
            *tables,
        ]
    )
