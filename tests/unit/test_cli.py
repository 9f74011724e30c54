import errno
import importlib
from unittest.mock import patch

import pytest
from omegaconf import OmegaConf
from pydantic import BaseModel

from nemo_mm_align.cli.entry_point import describe, user_errors
from nemo_mm_align.core.errors import UserError
from tests.distributed import DistributedError, run_distributed


def message_of(function, capsys) -> str:
    with pytest.raises(SystemExit) as caught:
        user_errors(function)()
    assert caught.value.code == 2
    output = capsys.readouterr().err
    assert output.startswith("error: ") and "Traceback" not in output
    return output


def raising(error):
    def function():
        raise error

    return function


def test_result_and_name_pass_through():
    @user_errors
    def double(number: int) -> int:
        return 2 * number

    assert double(21) == 42
    assert double.__name__ == "double"


def test_user_error_prints_its_message_alone(capsys):
    assert message_of(raising(UserError("a.jsonl:3: torn.")), capsys) == "error: a.jsonl:3: torn.\n"


def test_job_scripts_find_the_error_in_a_file(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("NEMO_MM_ALIGN_FAULT_FILE", str(tmp_path / "FAULT"))
    message_of(raising(UserError("a.jsonl:3: torn.")), capsys)
    assert (tmp_path / "FAULT").read_text() == "a.jsonl:3: torn.\n"
    monkeypatch.setenv("NEMO_MM_ALIGN_FAULT_FILE", str(tmp_path / "nowhere/FAULT"))
    message_of(raising(UserError("a.jsonl:3: torn.")), capsys)


def test_bugs_keep_their_traceback(monkeypatch, tmp_path):
    monkeypatch.setenv("NEMO_MM_ALIGN_FAULT_FILE", str(tmp_path / "FAULT"))
    with pytest.raises(KeyError):
        user_errors(raising(KeyError("x")))()
    assert not (tmp_path / "FAULT").exists()


def test_traceback_on_request(monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError):
        user_errors(raising(UserError("a")))()


def test_missing_value_names_the_override(capsys):
    config = OmegaConf.create({"data": {"train": "???"}})
    assert "data.train has no value. Give it on the command line: data.train=..." in message_of(
        lambda: config.data.train, capsys
    )


def test_missing_value_behind_an_interpolation_is_named_itself(capsys):
    config = OmegaConf.create({"base": "???", "folder": "${base}/run"})
    assert "base has no value. Give it on the command line: base=..." in message_of(lambda: config.folder, capsys)


def test_unknown_key_lists_the_known_ones(capsys):
    config = OmegaConf.create({"model": {"width": 4, "depth": 2}})
    OmegaConf.set_struct(config, True)
    assert "no key model.widht. Did you mean width? Known here: depth, width." in message_of(
        lambda: config.model.widht, capsys
    )


def test_broken_interpolation_is_named(capsys):
    config = OmegaConf.create({"a": "${b.c}"})
    assert "b.c" in message_of(lambda: config.a, capsys)


def test_fault_in_a_typed_setting_names_the_field(capsys):
    class Settings(BaseModel, extra="forbid"):
        steps: int

    text = message_of(lambda: Settings(steps="many", seed=1), capsys)
    assert "configuration of Settings: steps: Input should be a valid integer" in text
    assert "seed: Extra inputs are not permitted" in text


def test_full_disk_is_named_through_a_wrapping_error(capsys):
    def save():
        try:
            raise OSError(errno.ENOSPC, "No space left on device", "/data/step_10/weights")
        except OSError as error:
            raise RuntimeError("checkpoint failed") from error

    assert "the disk is full while writing /data/step_10/weights" in message_of(save, capsys)


def test_really_full_device(capsys):
    def save():
        with open("/dev/full", "w") as file:
            file.write("x" * 100_000)

    assert "the disk is full" in message_of(save, capsys)


def test_other_system_errors_are_not_swallowed():
    with pytest.raises(FileNotFoundError):
        user_errors(raising(FileNotFoundError(errno.ENOENT, "No such file")))()


@pytest.mark.parallel
def test_one_message_for_all_ranks():
    with pytest.raises(DistributedError) as caught:
        run_distributed("tests/unit/cli_worker.py", 3)
    assert str(caught.value).count("error: answers.jsonl:3: no such prompt.") == 1
    assert 'cli_worker.py", line' not in str(caught.value)


def test_a_package_that_is_missing_is_said_with_its_extra_and_no_other_bug_is_hidden() -> None:
    with pytest.raises(ModuleNotFoundError) as inside:
        importlib.import_module("transformers.models.nosuch")
    assert describe(inside.value) is None, "installed: a bug, or another version"
    absent = ModuleNotFoundError("No module named 'easy_vqa_absent'", name="easy_vqa_absent")
    assert describe(absent) is None, "nobody's extra"
    missing = ModuleNotFoundError("No module named 'einops'", name="einops")
    with patch("importlib.util.find_spec", return_value=None):
        assert "nemo_mm_align[train]" in str(describe(missing))
        bug = KeyError("bug")
        bug.__context__ = missing
        assert describe(bug) is None
