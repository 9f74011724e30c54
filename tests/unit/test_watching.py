"""What is watched while a model is trained: held-out shares, the best checkpoint, rules of the verdict, figures of answers."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemo_mm_align.callbacks.checkpointing import SaveCheckpoints
from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.callbacks.validation import BestCheckpoint
from nemo_mm_align.callbacks.watch_rules import RISING, answers, faults_of, overfitting, validation_accuracy
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_files import VALIDATION_FILE, read_metrics
from nemo_mm_align.datasets.held_out import hold_out
from nemo_mm_align.datasets.sample import Sample
from nemo_mm_align.parallel import checkpoint
from nemo_mm_align.parallel.best_checkpoint import Monitor, read_best
from nemo_mm_align.schema.examples import TrainingExample
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.schema.records import Candidate, Turn
from nemo_mm_align.training import guards
from nemo_mm_align.training.guards import figures_of, repeats
from nemo_mm_align.training.validation_data import warn_of_overlap
from nemo_mm_align.training.watch_settings import ValidationSettings
from tests.checkpoint_files import metadata_of, write_checkpoint
from tests.word_task import WordTask


def example(name: str, image: str = "") -> TrainingExample:
    mark = "<image>\n" if image else ""
    turns = (Turn(role="user", content=f"{mark}What?"), Turn(role="assistant", content="That."))
    return TrainingExample(id=name, images=(image,) if image else (), turns=turns)


def names(examples: list) -> list[str]:
    return [one.id for one in examples]


class TestHeldOutShare:
    """Records that lie on both sides would be learned by heart and praised for it."""

    def test_rows_of_one_prompt_and_of_one_picture_stay_together(self) -> None:
        examples = [example(f"p{n // 4}#{n % 4}", f"{n // 8}.png") for n in range(80)]
        kept, held = hold_out(examples, 0.25, "x")
        assert len(held) == 16 and sorted(names(kept) + names(held)) == sorted(names(examples))
        for tie in (lambda one: one.id.partition("#")[0], lambda one: one.images[0]):
            assert not set(map(tie, kept)) & set(map(tie, held))

    def test_the_order_of_the_file_changes_nothing(self) -> None:
        examples = [example(f"r{n}") for n in range(50)]
        _, held = hold_out(examples, 0.1, "x")
        _, again = hold_out(examples[::-1], 0.1, "x")
        assert len(held) == 5 and names(held) == names(again)[::-1]

    def test_one_picture_for_all_is_parted_with_a_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        kept, held = hold_out([example(f"r{n}", "same.png") for n in range(10)], 0.2, "x.jsonl")
        assert (len(kept), len(held)) == (8, 2)
        assert (
            "x.jsonl: too many records share one picture" in caplog.text and "some pictures are on both" in caplog.text
        )

    @pytest.mark.parametrize(("count", "share"), [(1, 0.5), (3, 0.99)])
    def test_nothing_left_to_train_on_is_refused(self, count: int, share: float) -> None:
        with pytest.raises(UserError, match="leaves nothing to train on"):
            hold_out([example(f"r{n}") for n in range(count)], share, "x")


def test_prompts_on_both_sides_are_counted_whatever_their_ids(caplog: pytest.LogCaptureFixture) -> None:
    def sample(name: str, prompt: int, answer: int, image: str = "a.png") -> Sample:
        return Sample(name, [Path(image)], [EncodedSequence([1, prompt, answer], [False, False, True])])

    training = [sample("t0", 5, 7), sample("t1", 6, 7)]
    held = [sample("v0", 5, 7), sample("v1", 5, 8), sample("v2", 9, 7), sample("v3", 6, 7, "b.png")]
    warn_of_overlap(training, held, lambda path: path.name)
    assert (
        "2 of 4 held-out samples ask what the training data ask as well, 1 of them with the same answers" in caplog.text
    )


@pytest.mark.parametrize(
    ("monitor", "mode", "higher"),
    [
        ("loss", None, False),
        ("mae_helpfulness", None, False),
        ("rewards/accuracies", None, True),
        ("saturated", "max", True),
    ],
)
def test_which_way_a_metric_is_better(monitor: str, mode: str | None, higher: bool) -> None:
    assert ValidationSettings(1, monitor, mode, None).higher_is_better == higher  # type: ignore[arg-type]


def best_of(run: Path, data: str = "d", higher: bool = False) -> BestCheckpoint:
    return BestCheckpoint(run, run / "checkpoints", Monitor("validation/loss", higher), data)


def validated(run: Path, values: dict[int, float], data: str = "d") -> BestCheckpoint:
    """A run that saved after each validation."""
    (run / "metrics").mkdir(exist_ok=True)
    best = best_of(run, data)
    best.begin(0)
    for step, value in values.items():
        write_checkpoint(run / "checkpoints", metadata_of(step))
        if best.note({"step": step, "validation/loss": value}):
            best.candidate = step
            best.settle()
    return best


class TestBestCheckpoint:
    """Named by what is recorded and what is there."""

    def test_the_first_of_equal_ones_and_none_that_is_no_number(self, tmp_path: Path) -> None:
        validated(tmp_path, {2: 0.5, 4: math.nan, 6: 0.5, 8: 0.6})
        named = read_best(tmp_path)
        assert named is not None and (named.step, named.value) == (2, 0.5)
        assert (tmp_path / "best").resolve() == tmp_path / "checkpoints/step_00000002"

    def test_a_resumed_run_forgets_what_it_will_do_again(self, tmp_path: Path) -> None:
        validated(tmp_path, {2: 0.5, 4: 0.4, 6: 0.3})
        best_of(tmp_path).begin(4)
        named = read_best(tmp_path)
        assert named is not None and named.step == 4
        assert [line["step"] for line in read_metrics(tmp_path / VALIDATION_FILE)] == [2, 4]

    def test_killed_before_the_name_was_given_it_is_given_at_the_next_start(self, tmp_path: Path) -> None:
        best = validated(tmp_path, {2: 0.5})
        assert best.note({"step": 4, "validation/loss": 0.4})
        write_checkpoint(tmp_path / "checkpoints", metadata_of(4))
        best_of(tmp_path).begin(4)
        named = read_best(tmp_path)
        assert named is not None and named.step == 4

    def test_a_candidate_whose_checkpoint_is_not_complete_is_not_named_yet(self, tmp_path: Path) -> None:
        best = validated(tmp_path, {2: 0.5})
        best.note({"step": 4, "validation/loss": 0.4})
        best.candidate = 4
        best.settle()
        assert best.spared == [2, 4]
        assert not best.note({"step": 6, "validation/loss": 0.45})  # worse than what is being written

    def test_other_held_out_data_are_not_compared_with(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        validated(tmp_path, {2: 0.5})
        best_of(tmp_path, data="other").begin(2)
        assert read_best(tmp_path) is None and not (tmp_path / "best").exists()
        assert "was validated on other data" in caplog.text

    def test_it_outlives_the_newest_few_whether_or_not_the_run_validates(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(checkpoint.torch.distributed, "barrier", lambda: None)
        best = validated(tmp_path, {2: 0.3, 4: 0.5, 6: 0.6, 8: 0.7})
        trainer = SimpleNamespace(global_step=8, save_checkpoint=lambda folder: None)
        stop = SimpleNamespace(requested=False)
        for known in (best, None):
            SaveCheckpoints(tmp_path / "checkpoints", 8, 1, 99, stop, best=known).on_train_batch_end(trainer, None)  # type: ignore[arg-type]
            kept = [path.name for path in checkpoint.checkpoints_of(tmp_path / "checkpoints")]
            assert kept == ["step_00000002", "step_00000008"]


def run(validation: list[float], training: tuple[float, float] = (0.6, 0.2), best: int = 1) -> Series:
    """Validations every 10 steps; the training loss until the best one, and after it."""
    lines = [{"step": step, "loss": training[step > 10 * best]} for step in range(1, 10 * len(validation) + 1)]
    return Series(lines, validation=[{"step": 10 * n, "validation/loss": v} for n, v in enumerate(validation, 1)])


class TestRules:
    """Verdicts on series made by hand that lie within and beyond each threshold."""

    def test_a_held_out_loss_that_rises_while_the_other_falls_is_overfitting(self) -> None:
        found = overfitting(run([0.5, 0.51, 0.52, 0.6]))
        assert found is not None and found.worry
        assert (
            "validation loss 0.5000 -> 0.6000, best 0.5000 after step 10: worse in all 3 validations since"
            in found.text
        )
        assert "RUN/best" in found.text and RISING == 3

    @pytest.mark.parametrize(
        "series", [run([0.5, 0.51, 0.52]), run([0.5, 0.6, 0.7, 0.49]), run([0.5, 0.6, 0.7, 0.8], training=(0.6, 0.6))]
    )
    def test_two_are_chance_a_recovery_is_none_and_a_loss_that_stands_is_something_else(self, series: Series) -> None:
        found = overfitting(series)
        assert found is not None and not found.worry

    def test_one_validation_is_one_value(self) -> None:
        found = overfitting(run([6.7147]))
        assert found is not None and found.text == "validation loss 6.7147 after step 10, measured once"

    def test_nothing_validated_is_nothing_said(self) -> None:
        assert (
            overfitting(Series([])) is None and validation_accuracy(Series([])) is None and answers(Series([])) is None
        )

    @pytest.mark.parametrize(("right", "worry"), [(0.5, True), (0.51, False)])
    def test_pairs_not_trained_on_are_ranked_by_chance(self, right: float, worry: bool) -> None:
        line = {"step": 1, "validation/rewards/accuracies": right, "validation/rewards/margins": 0.1}
        found = validation_accuracy(Series([], validation=[line]))
        assert found is not None and found.worry == worry

    @pytest.mark.parametrize(
        ("change", "fault"),
        [
            ({"words": 4.9}, "shorter than 0.5 times"),
            ({"words": 20.1}, "longer than 2 times"),
            ({"empty": 0.2}, "more of them are empty"),
            ({"repeating": 0.3}, "more of them repeat themselves"),
            ({"words": 5.0, "empty": 0.1, "repeating": 0.25, "cut": 1.0}, ""),
        ],
    )
    def test_answers_are_compared_with_the_first_ones(self, change: dict[str, float], fault: str) -> None:
        first = {"guards/words": 10.0, "guards/empty": 0.0, "guards/cut": 0.0, "guards/repeating": 0.0}
        last = first | {f"guards/{name}": value for name, value in change.items()}
        faults = faults_of(first, last, (0.5, 2.0))
        assert [fault in one for one in faults] == [True] * bool(fault)
        found = answers(Series([], guards=[first, last], lengths=(0.5, 2.0)))
        assert found is not None and found.worry == bool(fault)


def test_figures_of_answers_counted_by_hand() -> None:
    said = ["one two three", "", " ".join("abcdefgh" * 2), "a b c d e f g h a b c d e f g"]
    reasons = ["stop", "stop", "length", "stop"]
    answers = [Candidate(text=text, finish_reason=reason) for text, reason in zip(said, reasons, strict=True)]  # type: ignore[arg-type]
    assert figures_of(answers) == {
        "guards/words": (3 + 0 + 16 + 15) / 4,
        "guards/empty": 0.25,
        "guards/cut": 0.25,
        "guards/repeating": 0.25,
    }
    assert repeats(list("abcdefghabcdefgh")) and not repeats(list("abcdefghabcdefg"))


def test_a_tasks_own_prompts_are_taken_spread_over_it(tmp_path: Path) -> None:
    prompts = guards._prompts(None, WordTask(), tmp_path)
    assert [one.id for one in guards._chosen(prompts, 3)] == ["q0", "q2", "q4"]
    assert len(guards._chosen(prompts, 99)) == 6


@pytest.fixture(autouse=True)
def _warnings(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
