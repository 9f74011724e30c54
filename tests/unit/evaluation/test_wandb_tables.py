import json

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.evaluation.wandb_tables import COLUMNS, check_run, log_tables, summary_values, table_rows
from tests.unit.evaluation.several_tasks import METHODS, results_of

wandb = pytest.importorskip("wandb")
RESULTS = {task: results_of(task, methods) for task, methods in METHODS.items()}


@pytest.fixture
def run_folder(tmp_path, monkeypatch):
    for name in ("WANDB_API_KEY", "NETRC", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "offline")
    (tmp_path / "wandb.json").write_text(json.dumps({"id": "abc12345", "project": "alignment", "entity": None}))
    return tmp_path


def test_tables_reach_the_trainings_run_offline(run_folder):
    log_tables(run_folder, RESULTS)
    wandb.teardown()  # as at the end of the process
    (folder,) = run_folder.glob("wandb/offline-run-*-abc12345")
    tables = {path.name.partition("_0_")[0]: path for path in folder.glob("files/media/table/evaluation/*.json")}
    assert set(tables) == {"dialogues", "yes_no"}
    table = json.loads(tables["dialogues"].read_text())
    assert table["columns"] == COLUMNS
    dpo = next(row for row in table["data"] if row[:2] == ["dpo", "score"])
    found = dict(zip(COLUMNS, dpo, strict=True))
    assert (found["value"], found["answers"], found["failed"], found["minus_base"]) == (6.25, 40, 0, 0.25)
    (record,) = folder.glob("run-abc12345.wandb")
    assert b"evaluation/yes_no/dpo/f1" in record.read_bytes()


def test_rows_and_summary():
    rows = list(table_rows(RESULTS["dialogues"]))
    assert all(len(row) == len(COLUMNS) for row in rows) and len(rows) == 9
    assert (
        summary_values(RESULTS)["evaluation/dialogues/steerlm/score"] == RESULTS["dialogues"].methods["steerlm"].score
    )
    assert len(summary_values(RESULTS)) == 6


def test_the_newest_start_that_was_set_aside_counts_where_the_folder_has_none(run_folder):
    (run_folder / "run_0").mkdir()
    (run_folder / "wandb.json").rename(run_folder / "run_0/wandb.json")
    assert check_run(run_folder) == {"id": "abc12345", "project": "alignment", "entity": ""}


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "no such file"), ("{", "is broken"), ("[]", "is broken"), ('{"project": "p"}', "names no id")],
)
def test_a_folder_that_names_no_run(run_folder, text, message):
    path = run_folder / "wandb.json"
    path.unlink()
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=rf"wandb\.json: {message}"):
        check_run(run_folder)


def test_without_a_login_it_is_said_before_anything_is_computed(run_folder, monkeypatch):
    monkeypatch.delenv("WANDB_MODE")
    with pytest.raises(UserError, match="WANDB_API_KEY, or WANDB_MODE=offline"):
        check_run(run_folder)
