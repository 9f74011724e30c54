"""What a dry run says that a launch will cost: counts, hours, tokens and money, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from nemo_mm_align.capacity.decoding import Answering, batch_seconds, forward_seconds, token_seconds
from nemo_mm_align.capacity.estimate import estimate
from nemo_mm_align.capacity.gpus import find_gpu
from nemo_mm_align.capacity.run import compose_training
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judging import TaskQuestion
from nemo_mm_align.evaluation.results import MethodResult
from nemo_mm_align.evaluation.tasks.sizes import SIZES
from nemo_mm_align.evaluation.tasks.task import Answered
from nemo_mm_align.launch.compose import Composed, compose_stage
from nemo_mm_align.launch.cost_gpu import limit_seconds
from nemo_mm_align.launch.cost_inputs import task_size
from nemo_mm_align.launch.cost_judge import Questions, judge_use
from nemo_mm_align.launch.cost_table import cost_text
from nemo_mm_align.launch.costs import Costs, StageCost
from nemo_mm_align.launch.jobs import make_jobs
from nemo_mm_align.launch.launch import launch, read_settings
from nemo_mm_align.launch.settings import CostSettings
from nemo_mm_align.llm.question import Question
from nemo_mm_align.llm.running.spending import Tokens
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.model.settings import sizes_of
from nemo_mm_align.recipes.registry import find_recipe
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Decoding, Prompt, Turn, write_records
from tests.unit.launch.cases import DATA, KUBERNETES, PLACES, TRAINING, launch_config


class AskingTask:
    """A task of two prompts, one with a follow-up, whose judge is asked once per turn."""

    name, measures = "asking", ()

    def __init__(self, data: str) -> None:
        self.data = data

    def prompts(self, images: Path) -> list[Prompt]:
        asked = (Turn(role="user", content="Why? " * 8),)
        limit = Decoding(max_new_tokens=64)
        return [Prompt(id="a", turns=asked, follow_ups=("And?",), decoding=limit), Prompt(id="b", turns=asked)]

    def questions(self, answered: Answered) -> list[TaskQuestion]:
        turns = [answered.text, *answered.follow_up_answers]
        return [
            TaskQuestion(str(turn), Question("Rate." * 4, (text,)), lambda reply: {}) for turn, text in enumerate(turns)
        ]

    def score(self, answered: Sequence[Answered]) -> list[ScoredAnswer]:
        return []

    def reference(self, prompt: Prompt) -> str:
        return ""

    def cautions(self, methods: Mapping[str, MethodResult]) -> list[str]:
        return []


CHAIN = ("sample", "label", "build", "train", "evaluate")
EXPECTED = ("costs.expected_prompts=6000", "costs.expected_questions=500")
PRICED = (
    "costs.price_per_gpu_hour=3",
    'label.overrides=["judge.price.input_per_million=0.5","judge.price.output_per_million=2"]',
    'evaluate.overrides=["judge.price.input_per_million=0.5","judge.price.output_per_million=2"]',
)


def reckoned(*overrides: str, stages: tuple[str, ...] = CHAIN) -> dict[str, StageCost]:
    config = launch_config(*TRAINING, *DATA, *PLACES, *overrides, stages=stages)
    settings = read_settings(config)
    return {one.stage: one for one in Costs(settings, make_jobs(settings, config)).stages()}


@pytest.fixture(scope="module")
def chain() -> dict[str, StageCost]:
    return reckoned(*EXPECTED, *PRICED)


def test_every_stage_of_the_chain_is_reckoned(chain: dict[str, StageCost]) -> None:
    assert list(chain) == ["sample", "label", "build", "train", "generate", "evaluate"]
    assert not any(one.unknown for one in chain.values())
    assert [name for name, one in chain.items() if one.gpu_hours] == ["sample", "train", "generate"]
    assert [name for name, one in chain.items() if one.judge.calls] == ["label", "evaluate"]
    assert chain["build"].gpu_hours == chain["build"].most_hours == 0


def test_sampling_goes_by_rows_that_are_refilled(chain: dict[str, StageCost]) -> None:
    # TP2 on 16 GPUs: 8 replicas of 750 prompts, 3,000 answers each. 32,768 // (576 + 60 + 1,024) rows are 19.
    config = sizes_of(compose_training(["model=llava15_13b", "recipe=dpo"])["model"])
    batch = Answering(rows=19, prompt=636, images=1, answer=200, most=1024)
    where = config, find_gpu("h100_80gb"), ParallelConfig(tensor_model_parallel_size=2)
    full = forward_seconds(*where, batch.prompts_work) + 200 * token_seconds(*where, rows=19, context=736)
    expected = (3000 / 19 - 1) * full + batch_seconds(*where, batch)
    assert chain["sample"].seconds == pytest.approx(expected)
    assert chain["sample"].gpu_hours == pytest.approx((expected + 300) * 16 / 3600)


def test_the_training_is_as_large_as_the_papers(chain: dict[str, StageCost]) -> None:
    assert chain["train"].what.startswith("5,084 examples, 120 steps, ")  # 5,084 x 3 / 128 = 119.2
    assert "for the reference's log-probs" in chain["train"].what
    alone = reckoned("costs.expected_examples=1280", "train.trainer.max_steps=7", stages=("train",))["train"]
    assert alone.what.startswith("1,280 examples, 7 steps")
    stored = reckoned("costs.expected_examples=1280", "train.recipe.use_stored_reference=true", stages=("train",))
    assert stored["train"].what == "1,280 examples, 30 steps"


def test_a_step_costs_what_the_estimator_says() -> None:
    own = ("train.recipe.use_stored_reference=true", "train.model.micro_batch_size=4")
    found = reckoned("costs.expected_examples=1280", *own, stages=("train",))["train"]
    sizes = ["model=llava15_13b", "model.tensor_model_parallel_size=2", "model.micro_batch_size=4"]
    step = estimate(compose_training(["recipe=dpo", *sizes]), nodes=2, gpus_per_node=8).time.total
    assert found.seconds == pytest.approx(30 * step), "rows of usual length are the estimator's"
    longer = reckoned("costs.expected_examples=1280", *own, "costs.answer_tokens=400", stages=("train",))["train"]
    assert (longer.seconds or 0) > 1.2 * 30 * step


def test_the_judge_is_asked_once_per_prompt_and_once_per_answer(chain: dict[str, StageCost]) -> None:
    label, evaluate = chain["label"].judge, chain["evaluate"].judge
    assert (label.calls, label.most_calls, evaluate.calls) == (6000, 30_000, 500)
    assert label.tokens.output == 6000 * 4 * 250 and evaluate.tokens.output == 500 * 250
    assert label.cost == pytest.approx((label.tokens.input * 0.5 + label.tokens.output * 2) / 1e6)
    assert label.most_tokens.output == 30_000 * 8192, "judge.max_output_tokens"
    assert label.most_tokens.input == 2 * 5 * label.tokens.input


def test_longer_answers_are_more_to_read(chain: dict[str, StageCost]) -> None:
    longer = reckoned(*EXPECTED, "costs.answer_tokens=300", stages=("sample", "label"))["label"]
    more = longer.judge.tokens.input - chain["label"].judge.tokens.input
    assert more == pytest.approx(6000 * 4 * 100, rel=0.01)


def test_prompts_are_counted_where_the_file_is_here(tmp_path: Path) -> None:
    prompts = [
        Prompt(id=str(number), images=("a.png",) * (number % 2), turns=(Turn(role="user", content=text),))
        for number, text in enumerate(["Why? " * 8, "<image>Why? " + "so " * 20] * 150)
    ]
    path = tmp_path / "prompts.jsonl"
    write_records(path, prompts)
    found = reckoned(f"sample.prompts={path}", "label.sample=100", stages=("sample", "label", "build", "train"))
    assert found["sample"].what == "300 prompts, 4 answers each" and found["sample"].source == f"counted in {path}"
    assert found["label"].judge.calls == 100
    assert found["train"].what.startswith("254 examples, 6 steps")  # 300 x 5,084 / 6,000, x 3 / 128


def test_what_is_not_known_says_what_to_give() -> None:
    found = reckoned("costs.expected_prompts=10", stages=("sample", "label", "evaluate"))
    assert found["sample"].unknown == "" and found["label"].judge.calls == 10
    assert found["generate"].gpu_hours is None
    assert found["evaluate"].unknown == "/shared/heldout.jsonl is not here. Give costs.expected_questions=NUMBER"


def test_a_limit_counts_with_its_requeues(chain: dict[str, StageCost]) -> None:
    assert chain["sample"].most_hours == 24 * 16 * 6
    short = reckoned(*EXPECTED, "sample.run.time_limit=02:30:00", "cluster.max_requeues=0", stages=("sample",))
    assert short["sample"].most_hours == 2.5 * 16
    assert reckoned(*EXPECTED, *KUBERNETES, stages=("sample",))["sample"].most_hours is None


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [
        ("1-00:00:00", 86_400), ("08:00:00", 28_800), ("45:30", 2730), ("90", 5400), (90, 5400), ("2-12", 216_000),
        ("1-02:30", 95_400),
    ],
)  # fmt: skip
def test_time_limits_are_read_as_slurm_reads_them(limit: str | int, seconds: float) -> None:
    assert limit_seconds(limit) == seconds


def test_a_time_limit_that_is_none() -> None:
    with pytest.raises(UserError, match="run.time_limit='soon': give minutes"):
        limit_seconds("soon")


def composed(*overrides: str) -> Composed:
    words = ["prompts=p.jsonl", "answers={a: a.jsonl}", "out=o", *overrides]
    return compose_stage("evaluate", words)


def test_the_budget_is_the_most_that_is_spent() -> None:
    questions = [Questions(10, Tokens(1000, 100), Tokens(2000, 8192))]
    priced = ["judge.price.input_per_million=1", "judge.price.output_per_million=10", "runner.max_attempts=2"]
    free = judge_use(composed(*priced), questions)
    assert (free.calls, free.most_calls, free.tokens) == (10, 20, Tokens(10_000, 1000))
    assert free.cost == pytest.approx(0.02) and free.most_cost == pytest.approx((20 * 2000 + 20 * 8192 * 10) / 1e6)
    assert judge_use(composed(*priced, "budget.max_cost=0.5"), questions).most_cost == 0.5
    assert judge_use(composed("budget.max_tokens=1000"), questions).most_tokens.total == 1000


def test_a_judge_that_is_no_language_model_uses_no_tokens() -> None:
    found = reckoned(
        *EXPECTED, 'label.overrides=["judge=oracle"]', "costs.price_per_gpu_hour=1", stages=("sample", "label")
    )
    assert (found["label"].judge.calls, found["label"].judge.tokens) == (6000, Tokens())


def test_tasks_go_by_published_sizes_until_their_data_are_here() -> None:
    config = launch_config(*TRAINING, *DATA, *PLACES, stages=["evaluate"])
    settings = read_settings(config)
    jobs = {job.stage: job for job in make_jobs(settings, config)}
    tasks = {
        "mt_bench": {"data": "/nowhere"},
        "again": {"task": "mt_bench", "data": "/nowhere"},
        "pope": {"data": "/nowhere"},
    }
    for job in jobs.values():
        OmegaConf.update(job.composed.config, "tasks", tasks, force_add=True)
    OmegaConf.update(jobs["evaluate"].composed.config, "repeat", 3, force_add=True)
    generate, evaluate = Costs(settings, list(jobs.values())).stages()
    assert generate.what == f"{160 + 160 + 8910:,} answers for mt_bench, again, pope" and (generate.gpu_hours or 0) > 0
    assert generate.source == "mt_bench 80 published, again 80 published, pope 8,910 published"
    assert evaluate.judge.calls == 2 * 3 * 160, "two turns; nobody is asked about pope"
    assert evaluate.judge.tokens == Tokens(960 * 700, 960 * 200)


def test_a_task_whose_data_are_here_is_counted(tmp_path: Path, helpsteer: AttributeSchema) -> None:
    settings = {"_target_": f"{__name__}.AskingTask", "data": str(tmp_path)}
    found = task_size("own", settings, helpsteer, CostSettings(answer_tokens=100))
    assert (found.prompts, found.turns, found.images, found.most_tokens) == (2, 2, 0, 64)
    assert found.prompt_tokens == 10 and (found.source, found.known) == (f"counted in {tmp_path}", "counted")
    assert found.judge_calls == 3 and found.judge_input == 105, "20 characters of instructions, 400 of an answer"
    assert found.judge_output == 100
    away = settings | {"data": "/nowhere"}
    with pytest.raises(UserError, match="task own: its data are not here"):
        task_size("own", away, helpsteer, CostSettings())
    assert task_size("mine", away | {"task": "pope"}, helpsteer, CostSettings()) == SIZES["pope"]


def test_published_sizes() -> None:
    prompts = {name: size.prompts for name, size in SIZES.items()}
    assert prompts == {
        "mt_bench": 80, "alpaca_eval": 805, "mm_vet": 218, "llava_bench": 60, "pope": 2910 + 3000 + 3000, "mmbench": 4377,
        "scienceqa": 4241, "ifeval": 541,
    }  # fmt: skip
    asked = {name: size.judge_calls for name, size in SIZES.items() if size.judge_calls}
    assert asked == {"mt_bench": 160, "alpaca_eval": 805, "mm_vet": 218, "llava_bench": 60}


def test_examples_of_a_recipe() -> None:
    made = {
        name: find_recipe(name).usual_examples(6000, 4) for name in ("sft", "rejection", "steerlm_paper", "dpo", "ipo")
    }
    assert made == {"sft": 5084, "rejection": 5034, "steerlm_paper": 24_000, "dpo": 5084, "ipo": 6000}


def test_the_table_adds_up_at_the_users_prices(chain: dict[str, StageCost]) -> None:
    settings = read_settings(launch_config(*TRAINING, *DATA, *PLACES, *EXPECTED, *PRICED, stages=CHAIN))
    text = cost_text(list(chain.values()), settings)
    hours = sum(one.gpu_hours or 0 for one in chain.values())
    tokens = sum((one.judge.tokens.input * 0.5 + one.judge.tokens.output * 2) / 1e6 for one in chain.values())
    (line,) = [line for line in text.splitlines() if line.startswith("#") and line.split()[1:2] == ["sum"]]
    assert f" {hours:.2f} " in line and f" {3 * hours + tokens:,.2f} USD " in line and " 6,500 " in line
    assert "fitted to one H200" in text and "?" not in text
    assert all(line.startswith("# ") for line in text.splitlines())


def test_currencies_are_not_added_and_missing_prices_are_marked(chain: dict[str, StageCost]) -> None:
    config = launch_config(*TRAINING, *DATA, *PLACES, "costs.price_per_gpu_hour=2", "costs.currency=EUR", stages=CHAIN)
    text = cost_text(list(chain.values()), read_settings(config))
    (total,) = [line for line in text.splitlines() if line.split()[1:2] == ["sum"]]
    assert " EUR + " in total and " USD" in total
    free = cost_text(list(reckoned(*EXPECTED, stages=("sample",)).values()), read_settings(config))
    assert "EUR" in free
    unpriced = read_settings(launch_config(*TRAINING, *DATA, *PLACES, stages=("sample",)))
    text = cost_text(list(reckoned(*EXPECTED, stages=("sample",)).values()), unpriced)
    assert "costs.price_per_gpu_hour=..." in text and text.splitlines()[-1].startswith("# - money: ?")


def test_a_dry_run_ends_with_the_costs() -> None:
    printed = launch(launch_config(*TRAINING, *DATA, *PLACES, *EXPECTED, "dry_run=true", stages=CHAIN))
    assert printed.index("#SBATCH") < printed.index("# What this will cost, estimated")
    assert "# - label: 6,000 prompts, 4 answers each, judge=gemini (expected: costs.expected_prompts)\n" in printed


def test_without_a_gpu_to_reckon_with_the_counts_remain() -> None:
    found = reckoned(*EXPECTED, "costs.gpu=null", stages=("sample", "label", "build", "train"))
    assert found["sample"].gpu_hours is None and found["train"].what == "5,084 examples"
    assert found["label"].judge.calls == 6000
