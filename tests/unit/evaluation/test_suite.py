import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.evaluation import findings
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.cost import Cost, total_cost
from nemo_mm_align.evaluation.finished import read_tasks
from nemo_mm_align.evaluation.length_plot import length_bins, words_of
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.overview import overview_figures, overview_heads, overview_rows, regression_note
from nemo_mm_align.evaluation.permutation import sign_flip_p_values
from nemo_mm_align.evaluation.section import section_of
from nemo_mm_align.evaluation.suite import Suite, TaskReport, write_suite
from nemo_mm_align.evaluation.summary import summarise
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.tasks.judged import SEVERAL
from nemo_mm_align.schema.records import Prompt, Turn
from tests.unit.evaluation.several_tasks import METHODS, SCHEMA, Dialogues, dialogue, evaluate, results_of

HOSTILE = '<script>alert("x")</script> & <b> | *'


class Page(HTMLParser):
    """Text of a page without script and foreign addresses; complains about tags that do not match."""

    def __init__(self, text):
        super().__init__()
        assert not re.search(r"""(?:src|href)=["'](?!data:|#)|@import|url\(|<script""", text)
        self.open, self.words, self.ids, self.links, self.folded = [], [], [], [], []
        self.feed(text)
        assert self.open == [] and set(self.links) <= set(self.ids) and len(set(self.ids)) == len(self.ids)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found["href"].removeprefix("#")] if "href" in found else []
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)
            self.folded += [data.strip()] if "details" in self.open else []


def page_of(folder) -> Page:
    return Page((folder / "report.html").read_text(encoding="utf-8"))


def test_figures_of_a_task_by_hand():
    found = results_of("dialogues", METHODS["dialogues"])
    base, dpo, steerlm = (one.measurements for one in found.methods.values())
    assert (base["score"].value, dpo["score"].value) == (6, 6.25)
    assert (dpo["score"].minus_base, dpo["category.math"].minus_base, dpo["category.writing"].minus_base) == (
        0.25,
        -1,
        1.5,
    )
    differences = np.array([-1.0, 1.5] * 20)[:, None]
    assert dpo["score"].p_value == sign_flip_p_values(differences)[0]
    assert (dpo["category.math"].comparisons, dpo["score"].comparisons) == (2, 1)
    assert dpo["category.math"].p_corrected == pytest.approx(2 / 10_001), "two of the smallest, each times two at most"
    assert (steerlm["score"].n, steerlm["score"].failed_share, steerlm["score"].minus_base) == (36, 0.1, None)
    assert steerlm["category.math"].unreliable and steerlm["score"].p_value is None


def test_a_statistic_is_a_figure_like_any_other():
    found = results_of("yes_no", METHODS["yes_no"])
    base, dpo = (found.methods[name].measurements["f1"] for name in ("base", "dpo"))
    assert (base.value, dpo.value) == (2 * 24 / (24 + 30), 1)
    assert dpo.minus_base == pytest.approx(1 - 48 / 54) and dpo.minus_base_interval.low >= 0
    assert (dpo.interval.low, dpo.interval.high) == (1, 1) and base.interval.low < base.value < base.interval.high
    assert (found.resampling.groups, found.resampling.prompts) == (10, 60)


def test_one_file_holds_all_tasks(tmp_path):
    evaluate(tmp_path, "base", "dpo", "steerlm")
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["format"] == 3 and list(found["tasks"]) == ["dialogues", "yes_no"]
    assert (found["cost"]["calls"], found["cost"]["money"], found["cost"]["seconds"]) == (190, 1.75, 72.4)
    assert [one["published"] for one in found["sources"]["dialogues"]] == [True, False]
    suite = Suite.model_validate_json((tmp_path / "results.json").read_text())
    assert read_tasks(tmp_path) == suite.tasks and suite.tasks["dialogues"].format == 2


def test_the_page_says_what_fell_what_failed_and_what_it_cost(tmp_path):
    page = page_of(evaluate(tmp_path, "base", "dpo", "steerlm"))
    for text in (
        "Regression. DPO, dialogues: math (By category) fell by 1.00 [-1.00, -1.00] against the base; "
        "p < 0.001, < 0.001 corrected for 2 comparisons.",
        "SteerLM: 4 of 40 answers (10 %) could not be scored in Score (of 10); that is more than 5 %, and not compared.",
        "SteerLM: 2 of 20 answers (10 %) could not be scored in math (By category) and writing (By category); that is",
        "p-values are corrected for 3 comparisons (Holm), all of this table.",
        "1,000 resamples of 10 groups of prompts (60 prompts)",
        "Score (of 10) is corrected for 1 comparison.",
        "190",
        "6 rate_limit, 4 unparsable",
        "1.75 USD",
        "as published (sha256 aaaaaaaaaaaa)",
        "changed (sha256 bbbbbbbbbbbb)",
        "gpt-4o-2024-11-20",
    ):
        assert text in page.text, text
    assert page.text.count("evaluate it") == 1, "the command is all tasks' own"
    assert page.links.count("overview") == 2 and {"task-dialogues", "task-yes_no", "cost"} <= set(page.links)


def test_overview_corrects_for_all_that_it_shows():
    tasks = {name: results_of(name, methods) for name, methods in METHODS.items()}
    found = overview_figures(tasks)
    p_values = sorted(one.p_value for one in found.values() if one.p_value is not None)
    corrected = sorted(one.p_corrected for one in found.values() if one.p_value is not None)
    assert len(p_values) == 3 and corrected[0] == pytest.approx(min(1, 3 * p_values[0]))
    assert {one.comparisons for one in found.values()} == {3, None}
    assert tasks["dialogues"].methods["dpo"].measurements["score"].comparisons == 1, "a task's own stays as it is"


def test_markdown_holds_the_same_tables(tmp_path):
    text = (evaluate(tmp_path, "base", "dpo", "steerlm") / "report.md").read_text()
    assert "| Method | dialogues: Score (of 10) | yes\\_no: F1 |" in text
    assert "**Regression.** DPO, dialogues: math (By category) fell by 1.00" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"(?<!\\)\|", rows[0])) for line in rows[:5])
    assert re.search(r"\| math \| 20 \| 6\.00<br>\\\[5\.\d\d, 6\.\d\d\\\] \| 5\.00<br>", text)
    assert "| All tasks | 190 | 10<br>6 rate\\_limit, 4 unparsable |" in text


def test_dialogues_are_shown_turn_by_turn_with_the_judges_words_folded(tmp_path):
    Image.fromarray(np.full((20, 20, 3), 99, np.uint8)).save(tmp_path / "image.png")
    turns = (Turn(role="user", content="<image>\nWhat is it?"),)
    prompt = Prompt(id="d00", images=("image.png",), turns=turns, follow_ups=("And why?", "Sure?"))
    said = dialogue(0, 7.0, follow_up_answers=("Because.",), judgements=(HOSTILE, "Rating: [[7]]"))
    methods = {"base": [said]}
    results = results_of("dialogues", methods)
    shown = ReportSample(prompt, (tmp_path / "image.png",), {"base": said})
    write_suite(tmp_path / "out", {"dialogues": TaskReport(results, SCHEMA, [shown])})
    page = page_of(tmp_path / "out")
    assert "What is it? Turn 2: And why? Turn 3: Sure?" in page.text
    assert "Turn 1 answer 0 Turn 2 Because. Turn 3 (not answered) Score (of 10) 7" in page.text
    assert HOSTILE in page.folded and "Rating: [[7]]" in page.folded


def test_words_of_a_dialogue_are_counted_once():
    said = ScoredAnswer(prompt_id="d", answer="one two", follow_up_answers=("three",))
    assert words_of(said) == words_of(said.model_copy(update={"num_words": 3})) == 3


def test_without_a_fall_the_page_says_so(tmp_path):
    assert (
        "No figure is worse than the base's by more than its interval."
        in page_of(evaluate(tmp_path, "base", "base", "steerlm")).text
    )
    alone = page_of(evaluate(tmp_path / "alone", "dpo")).text
    assert "No figure is worse" not in alone and "Regression" not in alone


def test_a_fall_that_chance_may_have_made_is_no_regression():
    """An interval clear of zero is not enough where the test, corrected for its comparisons, says otherwise."""
    results = results_of("dialogues", METHODS["dialogues"])
    found = results.methods["dpo"].measurements["category.math"]
    fell = "DPO, d: math (By category) fell by 1.00 [-1.00, -1.00] against the base"

    def said(**changes):
        results.methods["dpo"].measurements["category.math"] = found.model_copy(update=changes)
        return findings.regressions(results, "d"), findings.further_falls(results, "d")

    assert said(p_value=0.02, p_corrected=0.04)[0] == [f"{fell}; p = 0.020, 0.040 corrected for 2 comparisons."]
    assert said(p_value=0.03, p_corrected=0.06) == ([], ["DPO, d: math (By category)"])
    assert said(p_value=0.06, p_corrected=None) == ([], ["DPO, d: math (By category)"])
    assert said(p_value=None, p_corrected=None) == ([f"{fell}."], [])
    said(p_value=0.03, p_corrected=0.06)
    assert regression_note({"d": results}) == (
        "Some figures are worse than the base's by more than their own interval; so many comparisons show some by chance: "
        "DPO, d: math (By category)."
    )
    assert findings.further_note(["DPO: Score"], ["DPO: F1 fell"]).startswith("Further figures are worse")
    assert findings.further_note([]) == ""


def test_money_is_added_where_all_have_some():
    priced, free, unknown = Cost(2, money=1.0, currency="EUR"), Cost(), Cost(3)
    assert total_cost([]) is None
    assert (total_cost([priced, free]).money, total_cost([priced, free]).currency) == (1, "EUR")
    assert total_cost([priced, unknown]).money is None and total_cost([priced, unknown]).calls == 5
    assert total_cost([priced, Cost(1, money=1.0, currency="USD")]).money is None
    assert total_cost([Cost(1, {"safety": 1}), Cost(1, {"safety": 2})]).failures == 3


def test_lengths_are_binned_from_short_to_long():
    words, scores = length_bins(np.arange(40)[::-1], np.arange(40) % 2)
    assert list(words) == [4.5, 14.5, 24.5, 34.5] and list(scores) == [0.5] * 4
    assert [list(one) for one in length_bins(np.array([3, 1]), np.array([1, 0]))] == [[2], [0.5]]


def test_the_overview_has_more_rows_than_columns():
    one = results_of("dialogues", METHODS["dialogues"])
    tasks = dict.fromkeys(("a", "b", "c", "d"), one)
    heads, rows = overview_heads(tasks), overview_rows(tasks)
    assert heads == ["Task", "Base", "DPO", "SteerLM"]
    assert [row[0].value for row in rows] == [f"{name}: Score (of 10)" for name in tasks]
    assert rows[0][2].value == "6.25"
    assert overview_heads({"a": one})[0] == "Method"


class Graded(Dialogues):
    """With a share that is worth a column only where it happens."""

    measures = (*Dialogues.measures[:1], SEVERAL)


@pytest.mark.parametrize(("several", "shown"), [(0.0, False), (1.0, True)])
def test_a_share_that_is_zero_everywhere_has_no_column_and_no_plot(several: float, shown: bool) -> None:
    def answers(last: float) -> list[ScoredAnswer]:
        return [
            ScoredAnswer(prompt_id=str(n), answer="a", values={"score": 5.0, SEVERAL.name: last * (n == 3)})
            for n in range(4)
        ]

    methods = {"base": answers(0.0), "dpo": answers(several)}
    results = summarise([SeedAnswers(seed=0, methods=methods)], SCHEMA, Graded(), bootstrap=True)
    section = section_of(TaskReport(results, SCHEMA, scored=methods))
    assert (SEVERAL.label in section["method_heads"], section["shares_plot"] is not None) == (shown, shown)
    assert (SEVERAL.about in section["abouts"]) == shown
    assert results.methods["dpo"].measurements[SEVERAL.name].value == several / 4, "results.json has it"
