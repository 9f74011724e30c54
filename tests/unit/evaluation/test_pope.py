import json
import random

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.tasks.task import Answered, scored_by
from nemo_mm_align.evaluation.tasks.yes_or_no import RULES, whole_words
from tests.distributed import REPOSITORY
from tests.unit.evaluation.fastchat_files import write_lines
from tests.unit.evaluation.scored import figures, prompts_of, score, task_of
from tests.unit.evaluation.task_data import POPE_LABELS, POPE_SPLITS, write_pope

READ = {  # by hand: tp, fp, fn, tn of the labels yes, no, yes, no
    "random": ("Yes", "No", "Yes.", "no"),  # 2 0 0 2
    "popular": ("Yes", "Yes, there is.", "No, it is not.", "No"),  # 1 1 1 1
    "adversarial": ("There is one", "yes", "Yes", "There is not."),  # 2 1 0 1; the first says neither
}


@pytest.fixture
def pope(tmp_path):
    return write_pope(tmp_path / "pope")


def pope_answers(folder, split):
    return [{"question": f"Is there a {split}{n} in the image?", "answer": text} for n, text in enumerate(READ[split])]


def test_figures_of_an_answer_file_are_those_by_hand(pope, tmp_path):
    task = task_of("pope", data=str(pope))
    prompts = prompts_of(task, tmp_path)
    path = write_lines(tmp_path / "answers.json", [one for split in POPE_SPLITS for one in pope_answers(pope, split)])
    scored = score(task, prompts, task.read_answers(path))
    found = figures(task, scored)
    assert found["mean_f1"] == pytest.approx((1 + 0.5 + 0.8) / 3)
    assert found["accuracy"] == pytest.approx(9 / 12) and found["unparsable"] == pytest.approx(2 / 12)
    wanted = {"f1": 0.8, "precision": 2 / 3, "recall": 1, "yes_rate": 0.75, "accuracy_by_split": 0.75}
    assert {name: found[f"{name}.adversarial"] for name in wanted} == pytest.approx(wanted)
    assert [found[f"yes_rate.{split}"] for split in POPE_SPLITS] == [
        0.5,
        0.5,
        0.75,
    ]  # of the answers, not of the labels
    assert {one.group for one in scored} == {"COCO_0", "COCO_1"} and {one.source for one in scored} == set(POPE_SPLITS)


def test_what_says_neither_is_wrong_by_words(pope, tmp_path):
    task = task_of("pope", data=str(pope), rule="words")
    prompts = prompts_of(task, tmp_path)
    scored = score(task, prompts, {f"adversarial-{n + 1}": text for n, text in enumerate(READ["adversarial"])})
    found = figures(task, scored)  # tp 1, fp 1, fn 1, and a no that nobody read
    assert (found["f1.adversarial"], found["recall.adversarial"], found["accuracy"]) == (0.5, 0.5, 0.25)
    assert found["yes_rate.adversarial"] == 0.5 and found["mean_f1"] == 0.5


def test_resamples_weigh_answers(pope, tmp_path):
    task = task_of("pope", data=str(pope))
    prompts = prompts_of(task, tmp_path)
    scored = score(task, prompts, {f"popular-{n + 1}": text for n, text in enumerate(READ["popular"])})
    f1 = next(one for one in task.statistics if one.measure == "f1.popular")
    columns = {name: np.array([one.columns[name] for one in scored]) for name in f1.columns}
    weights = np.array([[1, 1, 1, 1], [4, 0, 0, 0], [2, 2, 0, 0], [0, 0, 0, 4]], float)
    np.testing.assert_allclose(f1.compute(weights, columns), [0.5, 1, 2 / 3, np.nan])


def test_prompts_ask_as_llava_does(pope, tmp_path):
    prompt = prompts_of(task_of("pope", data=str(pope), image_root="/coco"), tmp_path)["popular-3"]
    assert prompt.turns[0].content == (
        "<image>\nIs there a popular2 in the image?\nAnswer the question using a single word or phrase."
    )
    assert prompt.images == ("/coco/COCO_1.jpg",) and prompt.metadata["label"] == "yes"
    assert (prompt.decoding.temperature, prompt.decoding.max_new_tokens) == (0, 128)
    bare = prompts_of(task_of("pope", data=str(pope), suffix=""), tmp_path)["popular-3"]
    assert bare.question == "Is there a popular2 in the image?" and bare.images == (str(pope / "COCO_1.jpg"),)


def test_llavas_questions_labels_and_answers(pope, tmp_path):
    """Its ids run through all splits, its labels lie in POPE's files, its answers come in any order."""
    suffix = "\nAnswer the question using a single word or phrase."
    questions = [
        {
            "question_id": 100 * k + n,
            "image": f"COCO_{n // 2}.jpg",
            "text": f"Is there a {split}{n} in the image?{suffix}",
            "category": split,
        }
        for k, split in enumerate(POPE_SPLITS)
        for n in range(4)
    ]
    data = write_lines(tmp_path / "llava_pope_test.jsonl", questions)
    task = task_of("pope", data=str(data), annotations=str(pope), rule="llava")
    prompts = prompts_of(task, tmp_path)
    assert prompts["popular-102"].turns[0].content.count("single word") == 1
    answers = [
        {"question_id": 100 * k + n, "text": READ[split][n]} for k, split in enumerate(POPE_SPLITS) for n in range(4)
    ][::-1]
    scored = score(task, prompts, task.read_answers(write_lines(tmp_path / "answers.jsonl", answers)))
    assert figures(task, scored)["mean_f1"] == pytest.approx((1 + 0.5 + 0.8) / 3)
    files = task.field_files("base", scored)
    assert json.loads(files["base_pope_popular.json"].splitlines()[1]) == pope_answers(pope, "popular")[1]
    with pytest.raises(RecordError, match="question_id 0 stands in line 1 already"):
        task.read_answers(write_lines(tmp_path / "twice.jsonl", [answers[-1], answers[-1]]))
    with pytest.raises(UserError, match="question_id 7 is none"):
        task.read_answers(write_lines(tmp_path / "other.jsonl", [{"question_id": 7, "text": "yes"}]))
    with pytest.raises(UserError, match=r"task\.annotations"):
        task_of("pope", data=str(data)).prompts(tmp_path)


def test_llavas_ids_are_not_those_of_popes_files(pope, tmp_path):
    path = write_lines(tmp_path / "answers.jsonl", [{"question_id": 1, "text": "yes"}])
    with pytest.raises(UserError, match="question_id 1 is random-1 and popular-1.*llava_pope_test"):
        task_of("pope", data=str(pope)).read_answers(path)


def test_answers_written_are_read_back(pope, tmp_path):
    task = task_of("pope", data=str(pope))
    prompts = prompts_of(task, tmp_path)
    answers = {f"{split}-{n + 1}": text for split in POPE_SPLITS for n, text in enumerate(READ[split])}
    files = task.field_files("dpo", score(task, prompts, answers))
    assert sorted(files) == ["dpo_pope_adversarial.json", "dpo_pope_popular.json", "dpo_pope_random.json"]
    (tmp_path / "written").mkdir()
    for name, text in files.items():
        (tmp_path / "written" / name).write_text(text)
    back = task.read_answers(tmp_path / "written")
    assert {key: texts[0] for key, texts in back.items()} == answers
    assert task.read_answers(tmp_path / "written" / "dpo_pope_popular.json").keys() == {
        f"popular-{n}" for n in (1, 2, 3, 4)
    }
    ours = write_lines(tmp_path / "ours.jsonl", [{"prompt_id": "popular-1", "candidates": [{"text": "Yes"}]}])
    assert task.read_answers(ours) is None


def test_an_answer_left_out_does_not_shift_the_others(pope, tmp_path):
    lines = pope_answers(pope, "popular")
    task = task_of("pope", data=str(pope))
    with pytest.raises(RecordError, match=r"gap\.jsonl:2: answers 'Is there a popular2.*expected 'Is there a popular1"):
        task.read_answers(write_lines(tmp_path / "gap.jsonl", [lines[0], *lines[2:]]))
    everything = [one for split in POPE_SPLITS for one in pope_answers(pope, split)]
    with pytest.raises(RecordError, match=r"more\.jsonl:13: answers 'Is there a popular0"):
        task.read_answers(write_lines(tmp_path / "more.jsonl", [*everything, lines[0]]))
    with pytest.raises(UserError, match="ends after 3 answers; 'Is there a popular3"):
        task.read_answers(write_lines(tmp_path / "short.jsonl", lines[:3]))


def test_failed_requests_are_missing(pope, tmp_path):
    task = task_of("pope", data=str(pope))
    prompts = prompts_of(task, tmp_path)
    scored = score(task, prompts, {"random-1": "[LMMS_EVAL_REQUEST_FAILED after 5 retries] no", "random-3": ""})
    assert scored[0].failed and not scored[0].columns and not scored[0].values
    assert (
        scored[1].values["unparsable"] == 1 and scored[1].values["accuracy"] == 1
    )  # POPE reads an empty answer as yes
    unanswered = scored_by(task, [Answered(prompts["random-1"], "", failure="timeout")])
    assert unanswered[0].failed == "timeout"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "maybe"}, "popular.json:2: label 'maybe' is neither yes nor no"),
        ({"question_id": 1}, "popular.json:2: question_id 1 stands twice in the popular split"),
        ({"text": None}, "popular.json:2: question is missing"),
        ({"image": ""}, "popular.json:2: image is missing"),
    ],
)
def test_broken_questions_name_their_line(pope, tmp_path, change, message):
    path = pope / "coco_pope_popular.json"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    records[1] = {key: value for key, value in {**records[1], **change}.items() if value is not None}
    write_lines(path, records)
    with pytest.raises(RecordError, match=message):
        task_of("pope", data=str(pope)).prompts(tmp_path)


def test_a_dataset_with_pictures_inside(tmp_path):
    import datasets

    rows = [
        {
            "question_id": str(n + 1),
            "question": f"Is there a {n}?",
            "answer": label,
            "image_source": "COCO_7",
            "category": "popular",
        }
        for n, label in enumerate(POPE_LABELS)
    ]
    picture = Image.new("RGB", (4, 4), (1, 2, 3))
    made = datasets.Dataset.from_list([{**row, "image": picture} for row in rows])
    datasets.DatasetDict({"test": made}).save_to_disk(tmp_path / "saved")
    task = task_of("pope", data=str(tmp_path / "saved"))
    prompts = prompts_of(task, tmp_path / "images")
    assert list(prompts) == [f"popular-{n}" for n in (1, 2, 3, 4)]
    with Image.open(prompts["popular-1"].images[0]) as image:
        assert image.getpixel((0, 0)) == (1, 2, 3)
    assert {one.group for one in score(task, prompts, dict.fromkeys(prompts, "Yes"))} == {"COCO_7"}


def published(text: str) -> str:
    """From the public definition: the first sentence, without commas, cut at spaces."""
    if text.find(".") != -1:
        text = text[: text.find(".")]
    parts, word = [], ""
    for mark in text:
        if mark == " ":
            parts, word = [*parts, word], ""
        elif mark != ",":
            word += mark
    return "no" if any(part in ("No", "no", "not") for part in [*parts, word]) else "yes"


def test_rules_agree_with_the_public_definition():
    generator = random.Random(7)
    pieces = ["yes", "Yes", "YES", "no", "No", "NO", "not", "Not", "n't", "nothing", "know", "a", "dog", "是", ""]
    joints = [" ", ",", ", ", ".", ". ", "\n", "  ", "!", "-", "", "\t", "\u00a0", "'", "’"]
    for _ in range(20000):
        text = "".join(generator.choice(pieces) + generator.choice(joints) for _ in range(generator.randrange(6)))
        assert RULES["pope"](text) == RULES["llava"](text) == published(text), text
        said = [
            word
            for word in ("yes", "no")
            if word in "".join(c if c.isalnum() or c in "'’" else " " for c in text.lower()).split()
        ]
        quoted = "'" in text or "’" in text
        assert quoted or whole_words(text) == (said[0] if len(said) == 1 else ""), text


def test_the_documentation_tells_what_the_rules_make_of_answers():
    page = (REPOSITORY / "docs/tasks.md").read_text("utf-8").partition("| answer | `pope`")[2]
    rows = [[cell.strip(" `") for cell in line.split("|")[1:-1]] for line in page.splitlines()[2:16]]
    assert len(rows) == 14
    for answer, *said in rows:
        equal = answer.lower().strip()
        read = [
            RULES["pope"](answer),
            RULES["llava"](answer),
            RULES["words"](answer),
            equal if equal in ("yes", "no") else "",
        ]
        assert [one or "none" for one in read] == said, answer
