"""Going on from a checkpoint: what must be as it was, what may change, and what is refused."""

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.model.config import LanguageConfig, LlavaConfig, VisionConfig
from nemo_mm_align.parallel.checkpoint_folder import METADATA_FILE, CheckpointMetadata, read_metadata
from nemo_mm_align.schema.images import ImageProcessor
from nemo_mm_align.schema.prompts import EncodedSequence
from nemo_mm_align.training.resume import check_resumable, check_same_model, checkpoint_to_resume
from tests.checkpoint_files import write_checkpoint

RECIPE = {"name": "dpo", "beta": 0.1, "data": "d0", "global_batch_size": 4, "seed": 1, "shuffle": True, "steps": 9,
          "optimizer": "torch AdamW for precision=fp32"}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's checkpoints folder with one checkpoint, of step 7."""
    metadata = CheckpointMetadata(
        step=7, model={}, lora=None, template={}, attribute_schema=None, image_processor={}, recipe=RECIPE,
        base_path="/models/a", base_fingerprint="abc", precision="fp32",
    )  # fmt: skip
    return write_checkpoint(tmp_path / "checkpoints", metadata).parent


def test_the_same_run_goes_on_silently(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = checkpoint_to_resume(run, resume=True)
    assert found == run / "step_00000007"
    assert check_resumable(found, RECIPE, "abc") == 7 and not caplog.records
    assert checkpoint_to_resume(run / "nowhere", resume=False) is None


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"data": "d1"}, "was trained with other training data than data.train holds now. Take that back, or choose"),
        ({"global_batch_size": 8}, r"was trained with global_batch_size=4 \(now 8\)"),
        ({"optimizer": "apex FusedAdam"}, r"optimizer=torch AdamW for precision=fp32 \(now apex FusedAdam\)"),
        ({"seed": 2, "name": "sft"}, r"was trained with name=dpo \(now sft\), seed=1 \(now 2\)"),
    ],
)
def test_other_samples_or_batches_are_refused(run: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        check_resumable(run / "step_00000007", RECIPE | change, "abc")


def test_another_base_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="was trained from another model \\(/models/a\\)"):
        check_resumable(run / "step_00000007", RECIPE, "xyz")


def test_other_pictures_are_refused_and_named(run: Path) -> None:
    folder = run / "step_00000007"
    metadata = read_metadata(folder)
    told = metadata.model_copy(update={"recipe": RECIPE | {"pictures": "p0"}})
    (folder / METADATA_FILE).write_text(json.dumps(told.content()))
    assert check_resumable(folder, RECIPE | {"pictures": "p0"}, "abc") == 7
    changed = [f"{letter}.png" for letter in "gfedcba"]
    with pytest.raises(
        UserError, match=r"other pictures than its data name now \(a.png, .*, e.png and 2 more\). Take that back"
    ):
        check_resumable(folder, RECIPE | {"pictures": "p1"}, "abc", changed)


def test_another_image_processing_or_other_sizes_are_refused(run: Path) -> None:
    folder, processor = run / "step_00000007", ImageProcessor(image_size=28)
    config = LlavaConfig(
        LanguageConfig(num_layers=2, hidden_size=8, num_attention_heads=2, ffn_hidden_size=8, vocab_size=9),
        VisionConfig(
            num_layers=2, hidden_size=8, num_attention_heads=2, ffn_hidden_size=8, image_size=28, patch_size=14
        ),
        image_token_id=3,
    )
    metadata = read_metadata(folder).model_copy(
        update={"model": config.to_dict(), "image_processor": processor.model_dump(mode="json")}
    )
    (folder / METADATA_FILE).write_text(json.dumps(metadata.content()))
    check_same_model(folder, config, processor)
    with pytest.raises(UserError, match=r"image_processor.pad_to_square=True \(now False\)\. Take that back"):
        check_same_model(folder, config, processor.model_copy(update={"pad_to_square": False}))
    other = replace(config, language=replace(config.language, num_layers=3))
    with pytest.raises(UserError, match=r"language.num_layers=2 \(now 3\)"):
        check_same_model(folder, other, processor)
    told = dict(metadata.image_processor)
    del told["pad_to_square"]  # as if an earlier version had not known it
    (folder / METADATA_FILE).write_text(json.dumps(metadata.model_copy(update={"image_processor": told}).content()))
    check_same_model(folder, config, processor)


def test_a_checkpoint_that_does_not_tell_its_pictures_goes_on_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert check_resumable(run / "step_00000007", RECIPE | {"pictures": ""}, "abc") == 7
        assert not caplog.records, "text alone"
        assert check_resumable(run / "step_00000007", RECIPE | {"pictures": "p1"}, "abc") == 7
    assert "an earlier version did not note its pictures" in caplog.text


def test_pictures_are_told_by_content_and_order() -> None:
    def pictures(*samples: str) -> str:
        return SampleStore([Sample(name, list(map(Path, images)), []) for name, images in enumerate(samples)]).pictures(
            str
        )

    assert pictures("a", "b") == pictures("a", "b") and pictures("", "") == ""
    assert (
        len({pictures("a", "b"), pictures("b", "a"), pictures("ab", ""), pictures("", "ab"), pictures("a", "c")}) == 5
    )


def test_changed_hyperparameters_and_length_are_said(run: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert check_resumable(run / "step_00000007", RECIPE | {"beta": 0.2, "steps": 20}, "abc") == 7
    assert "beta=0.1 (now 0.2), steps=9 (now 20): going on with the new values" in caplog.text


def test_a_new_run_does_not_mix_its_checkpoints_with_old_ones(run: Path) -> None:
    with pytest.raises(UserError, match="holds checkpoints up to step_00000007.*checkpoint.resume=false"):
        checkpoint_to_resume(run, resume=False)


def test_fingerprint_tells_tokens_loss_masks_and_order() -> None:
    def store(*samples: tuple[str, list[int], list[bool]]) -> str:
        return SampleStore(
            [Sample(name, [], [EncodedSequence(ids, mask)]) for name, ids, mask in samples]
        ).fingerprint()

    first, second = ("a", [1, 2, 3], [False, True, True]), ("b", [4, 5], [False, True])
    others = [store(second, first), store(first), store(("a", [1, 2, 4], first[2]), second)]
    others.append(store(("a", first[1], [False, False, True]), second))
    assert store(first, second) == store(first, second)
    assert len({store(first, second), *others}) == 5
