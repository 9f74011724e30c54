"""Labelling by hand, over HTTP: what a person enters lands on the right candidate, at once, and nothing leaks."""

import html
import json
import logging
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import requests

import nemo_mm_align.labeling.stage
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.labeling.judges.human.answers import FormError, read_score
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.quality.collect import collect
from nemo_mm_align.labeling.stage import LabelSettings, LabelSummary, label
from nemo_mm_align.schema.attributes import AttributeSchema
from nemo_mm_align.schema.records import Annotation, Candidate, read_records
from tests.judge_server import Files, make_files, true_ratings

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/[\w-]+/")


@pytest.fixture(autouse=True)
def without_report(monkeypatch) -> None:
    monkeypatch.setattr(nemo_mm_align.labeling.stage, "report_quality", lambda *paths: None)  # has tests of its own


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return make_files(tmp_path, 3)


@dataclass
class Sitting:
    """A run in a thread, and its page."""

    address: str = ""
    summary: LabelSummary | None = None
    thread: threading.Thread = field(default_factory=threading.Thread)

    def get(self) -> str:
        reply = requests.get(self.address, timeout=60)
        assert reply.status_code == 200
        return reply.text

    def post(self, **values: object) -> requests.Response:
        return requests.post(self.address, data=values, timeout=60)


@contextmanager
def sitting(
    files: Files, schema: AttributeSchema, caplog, revise: bool = False, **changes: object
) -> Iterator[Sitting]:
    """Start the stage with judge=human; end it at the end and wait for that."""
    caplog.clear()
    paths = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": files.folder / "human.jsonl"}
    values = {**paths, "attribute_schema": schema, "allow_failures": True, **changes}
    run, now = LabelSettings.model_validate(values), Sitting()

    def work() -> None:
        now.summary = label(run, HumanJudge("anna", 0, revise))

    with caplog.at_level(logging.INFO):
        now.thread = threading.Thread(target=work, daemon=True)
        now.thread.start()
        while not (found := ADDRESS.search(caplog.text)):
            assert now.thread.is_alive()
            time.sleep(0.01)
        now.address = found[0]
        yield now
        with suppress(requests.RequestException):  # it may have ended by itself
            now.post(action="stop")
        now.thread.join(60)
        assert not now.thread.is_alive()


def key_of(page: str) -> str:
    found = re.search(r'name="key" value="([0-9a-f]+)"', page)
    assert found
    return found[1]


def revision_of(page: str) -> int:
    found = re.search(r'name="revision" value="([0-9]+)"', page)
    assert found
    return int(found[1])


def shown(page: str) -> list[str]:
    """The candidates on a page, in their order."""
    articles = re.findall(r"<article.*?</article>", page, re.DOTALL)
    texts = [re.search(r"<pre>(.*?)</pre>", article, re.DOTALL) for article in articles]
    return [html.unescape(text[1]) if text else "" for text in texts]


def index_of(page: str) -> int:
    found = re.search(r"Which one\? \((\d+)\)", page)
    assert found
    return int(found[1])


def answer(page: str, files: Files) -> dict[str, object]:
    """What a person enters who thinks as the test server does."""
    image = files.image(index_of(page))
    scores = {
        f"score-{position}-{name}": value
        for position, text in enumerate(shown(page), start=1)
        for name, value in true_ratings(image, text).items()
    }
    notes = {f"note-{position}": f"on {text}" for position, text in enumerate(shown(page), start=1)}
    return {"key": key_of(page), "revision": revision_of(page), **scores, **notes}


def annotations(files: Files) -> list[Annotation]:
    return list(read_records(files.folder / "human.jsonl", Annotation))


def test_scores_land_on_their_candidates_and_each_prompt_is_saved_at_once(files, helpsteer, caplog) -> None:
    ledger = files.folder / "human.ledger.jsonl"
    with sitting(files, helpsteer, caplog) as now:
        orders = []
        for count in range(3):
            page = now.get()
            assert f"{count} of 3 prompts labelled as human:anna" in page
            orders.append(tuple(shown(page)))
            assert now.post(**answer(page, files), reference="my own").status_code == 200
            assert ledger.read_text("utf-8").count('"status": "ok"') == count + 1
        assert "All is labelled" in now.post(action="stop").text
        now.thread.join(60)
    assert now.summary is not None and (now.summary.annotations, now.summary.unlabelled) == (3, 0)
    for index, annotation in enumerate(annotations(files)):
        assert (annotation.judge, annotation.reference_answer) == ("human:anna", "my own")
        for candidate in annotation.candidates:
            assert candidate.ratings == true_ratings(files.image(index), candidate.text)
            assert candidate.reasoning == f"on {candidate.text}".strip()
    in_file = [tuple(candidate.text for candidate in each.candidates) for each in files.candidates]
    assert any(list(order) != list(texts) for order, texts in zip(orders, in_file, strict=True)), "shuffled"


def test_it_can_be_stopped_and_gone_on_with(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        now.post(**answer(now.get(), files))
        assert "goes on where it was" in now.post(action="stop").text
        now.thread.join(60)
    assert now.summary is not None and now.summary.annotations == 1
    with sitting(files, helpsteer, caplog) as now:
        page = now.get()
        assert "1 of 3 prompts" in page and index_of(page) == 1
        for _ in range(2):
            now.post(**answer(now.get(), files))
    assert now.summary.annotations == 3
    with pytest.raises(AssertionError), sitting(files, helpsteer, caplog):
        pytest.fail("a page although nothing is left to label")


def test_what_is_left_for_later_comes_again_at_the_end(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        seen = []
        now.post(key=key_of(now.get()), action="skip")
        for _ in range(3):
            page = now.get()
            seen.append((index_of(page), "left for later before" in page))
            now.post(**answer(page, files))
    assert seen == [(1, False), (2, False), (0, True)]
    ledger = (files.folder / "human.ledger.jsonl").read_text("utf-8")
    assert "failed" not in ledger, "leaving a prompt for later is no failure"


@pytest.mark.parametrize(("value", "problem"), [(None, "is missing"), ("9", "outside 0 to 4"), ("2.5", "not a whole")])
def test_an_incomplete_answer_is_kept_on_the_page_and_not_saved(value, problem, files, helpsteer, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        entered = answer(now.get(), files)
        entered["score-2-coherence"], entered["note-1"] = value, "a <b> note"
        reply = now.post(**{name: each for name, each in entered.items() if each is not None})
        assert reply.status_code == 400 and problem in reply.text and "0 of 3" in reply.text
        assert "a &lt;b&gt; note</textarea>" in reply.text
        assert reply.text.count(" checked>") == 19, "all other scores are still chosen"
    assert not (files.folder / "human.jsonl").exists()


def test_an_answer_sent_twice_changes_nothing(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        entered = answer(now.get(), files)
        for _ in range(2):
            assert now.post(**entered).status_code == 200
        assert index_of(now.get()) == 1
    assert len(annotations(files)) == 1


def test_the_page_is_closed_to_others(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        page = now.get()
        root, token, _ = re.fullmatch(r"(http://[^/]+/)([\w-]+)(/)", now.address).groups()
        (image,) = re.findall(r'src="([^"]+)"', page)
        assert requests.get(now.address + image, timeout=60).content == files.image(0)
        wrong = ["", "x/", f"{token[:-1]}/", f"{token}", f"{token}/etc/passwd", f"{token}/{image[:-1]}1"]
        wrong += [f"{token}/image/{'0' * 32}/0", f"{token}/image/../../etc/passwd", f"x/{image}"]
        assert {requests.get(root + path, timeout=60).status_code for path in wrong} == {404}
        assert requests.get(now.address, headers={"Host": "evil.example"}, timeout=60).status_code == 404
        assert requests.get(now.address, headers={"Host": "localhost:9999"}, timeout=60).status_code == 200
        assert requests.post(root + "x/", data=answer(page, files), timeout=60).status_code == 404
        assert requests.post(now.address, json=answer(page, files), timeout=60).status_code == 404
        now.post(**answer(page, files))
        assert requests.get(now.address + image, timeout=60).status_code == 200, "it can still be corrected"
        second = key_of(now.get())
        now.post(key=second, action="skip")
        closed = (f"image/{second}/0", f"prompt-{second}", "prompt-", "answers/", "prompt-../answers")
        assert {requests.get(now.address + path, timeout=60).status_code for path in closed} == {404}
        policy = requests.get(now.address, timeout=60).headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "unsafe" not in policy
    assert len(annotations(files)) == 1


def test_texts_are_escaped_and_nobody_elses_scores_are_shown(files: Files, helpsteer, caplog) -> None:
    hostile = '</pre><script>alert(1)</script>" onload="x'
    turn = files.prompts[0].turns[-1].model_copy(update={"content": f"Which one? (0) {hostile}"})
    metadata = {"truth": "the-secret-truth", "score": 4}
    turns = (*files.prompts[0].turns[:-1], turn)
    files.prompts[0] = files.prompts[0].model_copy(update={"turns": turns, "metadata": metadata})
    candidates = (Candidate(text=hostile, finish_reason="length"), Candidate(text="fine"))
    files.candidates[0] = files.candidates[0].model_copy(
        update={"candidates": candidates, "sampling": {"model": "m-7"}}
    )
    files.write()
    with sitting(files, helpsteer, caplog) as now:
        page = now.get()
        assert hostile in shown(page) and "<script>alert" not in page and 'onload="' not in page
        assert page.count("<script") == 1
        assert "the-secret-truth" not in page and "m-7" not in page
        assert not re.search(r"<input[^>]* checked", page), "nothing is chosen beforehand"
        assert "http" not in page.split("<main>")[1], "nothing comes from elsewhere"


def test_every_field_has_a_label(files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        page = now.get()
    assert page.count('<label class="level"><input type="radio"') == page.count('type="radio"') == 4 * 5 * 5
    for area in re.findall(r'<textarea id="([^"]+)"', page):
        assert f'<label for="{area}"' in page
    assert page.count("<legend>") == page.count("<fieldset") == 20
    assert 'alt="Image 1 of the conversation"' in page and '<html lang="en">' in page


def test_scales_of_other_schemas(files: Files, caplog) -> None:
    attributes = [
        {"name": "risk", "minimum": 0, "maximum": 1, "integer": False, "default": 0, "higher_is_better": False}
    ]
    schema = AttributeSchema.model_validate({"name": "own", "attributes": attributes, "score": ["risk"]})
    with sitting(files, schema, caplog) as now:
        page = now.get()
        assert 'type="number" name="score-1-risk" min="0" max="1" step="any"' in page and "lower is better" in page
        scores = {f"score-{position}-risk": text for position, text in enumerate(["0,25", ".5", "1", "0"], start=1)}
        now.post(key=key_of(page), **scores)
    (annotation,) = annotations(files)
    assert sorted(candidate.ratings["risk"] for candidate in annotation.candidates) == [0, 0.25, 0.5, 1]
    for text in ("nan", "inf", "-1", "1e9", "x", ""):
        with pytest.raises(FormError):
            read_score(text, schema["risk"])


def test_a_person_is_no_service(helpsteer: AttributeSchema, files: Files, caplog) -> None:
    for annotator in ("", "a b", "x" * 65, "a/b"):
        with pytest.raises(UserError, match="annotator"):
            HumanJudge(annotator)
    with pytest.raises(UserError, match="page of its own"):
        HumanJudge("anna").judge(None)
    assert HumanJudge("anna").settings != HumanJudge("ben").settings
    with sitting(files, helpsteer, caplog) as now:
        port = int(now.address.split(":")[2].split("/")[0])
        values = {"prompts": files.prompts_path, "candidates": files.candidates_path, "out": files.folder / "b.jsonl"}
        with pytest.raises(UserError, match=f"judge.port={port}"):
            label(LabelSettings.model_validate({**values, "attribute_schema": helpsteer}), HumanJudge("ben", port))
    ledger = files.folder / "human.ledger.jsonl"
    assert "human:anna" in ledger.read_text("utf-8") and len(json.loads(ledger.read_text().splitlines()[0])) > 3


def ledger_lines(files: Files) -> list[dict]:
    lines = (files.folder / "human.ledger.jsonl").read_text("utf-8").splitlines()
    return [value for line in lines if "key" in (value := json.loads(line))]


def test_an_answer_can_be_corrected_and_the_ledger_keeps_both(files: Files, helpsteer, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        wrong = {**answer(now.get(), files), "score-1-verbosity": 0, "note-1": "a slip"}
        now.post(**wrong)
        now.post(**answer(now.get(), files))
        page = now.post(key=key_of(now.get()), action="back", **{"note-2": "half an answer"}).text
        assert index_of(page) == 1 and 'id="answered"' in page
        page = now.post(key=key_of(page), action="back").text
        assert index_of(page) == 0 and 'value="back"' not in page, "it was the first"
        assert "a slip</textarea>" in page and re.search(r'name="score-1-verbosity" value="0" required checked', page)
        assert page.count(" checked>") == 20
        right = answer(page, files)
        next_page = now.post(**right).text
        assert index_of(next_page) == 2 and "half an answer</textarea>" in next_page, "nothing filled in was lost"
        assert now.post(**right).status_code == 200, "sent twice, recorded once"
    lines = ledger_lines(files)
    first = [line for line in lines if line["key"] == wrong["key"]]
    assert [line.get("revision", 0) for line in first] == [0, 1] and len(lines) == 3
    assert first[0]["reasoning"] != first[1]["reasoning"], "the earlier answer stays in the ledger"
    quality = collect(files.folder / "human.jsonl", helpsteer, files.folder / "human.ledger.jsonl")
    assert (quality.prompts, quality.calls, len(quality.timeline.blocks)) == (2, 3, 2), "drift is one of first answers"
    for candidate in annotations(files)[0].candidates:
        assert candidate.ratings == true_ratings(files.image(0), candidate.text)


def test_a_finished_set_is_opened_again_for_corrections(files: Files, helpsteer, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        for _ in range(3):
            page = now.post(**answer(now.get(), files)).text
        assert 'id="complete"' in page and now.thread.is_alive(), "the last answer can be wrong as well"
    with sitting(files, helpsteer, caplog, revise=True) as now:
        listed = requests.get(now.address + "answers", timeout=60).text
        links = re.findall(r'href="(prompt-[0-9a-f]+)">(p[0-9])<', listed)
        assert [prompt for _, prompt in links] == ["p0", "p1", "p2"] and "Which one? (2)" in listed
        page = requests.get(now.address + links[1][0], timeout=60).text
        entered = answer(page, files)
        entered["score-2-helpfulness"] = (entered["score-2-helpfulness"] + 1) % 5
        assert 'id="complete"' in now.post(**entered).text
        assert "correction 1" in requests.get(now.address + "answers", timeout=60).text
    assert now.summary is not None and now.summary.tally.answered == 0 and "corrections: 1;" in caplog.text
    ratings = {each.text: each.ratings["helpfulness"] for each in annotations(files)[1].candidates}
    text = shown(page)[1]
    assert ratings[text] == entered["score-2-helpfulness"] != true_ratings(files.image(1), text)["helpfulness"]


def test_an_answer_from_an_older_page_replaces_nothing_unasked(files: Files, helpsteer, caplog) -> None:
    with sitting(files, helpsteer, caplog) as now:
        stale = answer(now.get(), files)
        now.post(**{**stale, "note-1": "from another tab"})
        reply = now.post(**stale)
        assert reply.status_code == 400 and "on another page meanwhile" in reply.text
        assert len(ledger_lines(files)) == 1 and revision_of(reply.text) == 1
        now.post(**{**stale, "revision": revision_of(reply.text)})
        incomplete = {**stale, "revision": 2, "score-1-verbosity": "7"}
        assert "outside 0 to 4" in now.post(**incomplete).text
    assert [line.get("revision", 0) for line in ledger_lines(files)] == [0, 1]
