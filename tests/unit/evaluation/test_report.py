import base64
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.core.run_health import Finding, Verdict
from nemo_mm_align.evaluation.metrics import SeedAnswers, text_ability
from nemo_mm_align.evaluation.report import ReportSample, choose_samples, write_report
from nemo_mm_align.evaluation.results import Layout, Results, TrainingFacts
from nemo_mm_align.evaluation.steering import steering_results
from nemo_mm_align.evaluation.steering_report import SteeredSample
from nemo_mm_align.schema.records import Prompt, Turn
from tests.unit.evaluation.judged import TASK, image_answer, results_by_method, seed_answers, text_answer
from tests.unit.evaluation.test_steering import sweep

SHARES = {"base": 0.4, "sft": 0.7, "rejection": 0.7, "steerlm": 0.4, "dpo": 0.8}
HOSTILE = '<script>alert("x")</script> & <b>'


class Page(HTMLParser):
    """Text and images of a page; complains about tags that do not match."""

    VOID = ("meta", "img", "br")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.images, self.text = [], [], ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            assert dict(attrs)["alt"]
            self.images.append(dict(attrs)["src"])

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.text += " " + data.strip()


def results_of(seeds, schema, **settings):
    steered = {name: steering_results([seed.steering[name] for seed in seeds], schema) for name in seeds[0].steering}
    return Results(
        created="2026-01-02T03:04:05+00:00",
        seeds=[seed.seed for seed in seeds],
        schema_name=schema.name,
        task=TASK.name,
        measures=TASK.measures,
        prompts={"image prompts": 40, "text instructions": 20},
        methods=results_by_method(seeds),
        steering=steered.get("steerlm", {}),
        steering_by_method=steered,
        text_ability=text_ability(seeds),
        **settings,
    )


def page_of(path) -> Page:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:)|@import|url\(|<script""", text), (
        "fetches something or runs code"
    )
    return Page(text)


def sample(tmp_path, size=(72, 72), question="Is there a circle?", **answers):
    Image.fromarray(np.full((size[1], size[0], 3), 200, np.uint8)).save(tmp_path / "image.png")
    prompt = Prompt(id="p", images=("image.png",), turns=(Turn(role="user", content=f"<image>\n{question}"),))
    return ReportSample(prompt, (tmp_path / "image.png",), answers, reference="yes, it is")


def test_complete_report(tmp_path, helpsteer):
    seeds = [seed_answers(seed, **SHARES) for seed in range(3)]
    for seed in seeds:
        seed.steering, seed.text_before = (
            {"steerlm": sweep(seed.seed, 0.6)},
            [text_answer(0, True), text_answer(1, True)],
        )
    results = results_of(
        seeds,
        helpsteer,
        layouts={"dpo": Layout(world_size=2, tensor=2)},
        versions={"torch": "9.9"},
        settings={"data": {"train_prompts": 600}},
    )
    results.methods["dpo"].training = TrainingFacts(
        examples=1234, epochs=3, optimizer_steps=112, seconds=45.6, losses=[(1, 0.7), (2, 0.6)], settings={"beta": 0.1}
    )
    shown = sample(tmp_path, dpo=image_answer(0))
    settings = [answer for answer in seeds[0].steering["steerlm"] if answer.prompt_id == "image-000"]
    steered = SteeredSample("steerlm", shown.prompt, shown.image_paths, settings[::-1])
    write_report(tmp_path / "report.html", results, helpsteer, [shown], [steered])
    page = page_of(tmp_path / "report.html")
    dpo = results.methods["dpo"]
    for text in (
        f"{dpo.score:.2f}",
        f"{dpo.measurements['score'].minus_base:+.2f}",
        f"{results.steering['verbosity'].spearman:.2f}",
        "3 seeds (0, 1, 2); 2026-01-02 03:04",
        "1,234",
        "112",
        "beta 0.1",
        "data.train_prompts",
        "600",
        "9.9",
        "yes, it is",
        "The same question at several settings",
        "verbosity 4",
        "all at default: helpfulness 4, correctness 4, coherence 4, complexity 2, verbosity 2",
        f"{results.steering['verbosity'].mae:.2f}",
    ):
        assert text in page.text, text
    assert "Not run" not in page.text
    assert page.text.index("all at default") < page.text.index("verbosity 0") < page.text.index("verbosity 4")
    assert (
        len(page.images) == 8
    )  # one question at several settings; shares, attributes, steering, lengths, text, losses; one sample
    assert all(image.startswith("data:image/") for image in page.images)


def test_subset_says_what_is_missing(tmp_path, helpsteer):
    results = results_of([seed_answers(base=0.5, dpo=0.6)], helpsteer)
    write_report(tmp_path / "report.html", results, helpsteer)
    page = page_of(tmp_path / "report.html")
    assert "not in the tables and plots: SFT, Rejection sampling and SteerLM." in page.text
    assert "Steering" not in page.text and "Training curves" not in page.text and "Sample answers" not in page.text
    assert "over the held-out prompts of one run" in page.text


def test_report_without_a_base_or_without_images(tmp_path, helpsteer):
    write_report(tmp_path / "a.html", results_of([seed_answers(dpo=0.6)], helpsteer), helpsteer)
    assert "Score − base" not in page_of(tmp_path / "a.html").text
    text_only = SeedAnswers(seed=0, methods={"base": [text_answer(0, True), text_answer(1, False)]})
    write_report(tmp_path / "b.html", results_of([text_only], helpsteer), helpsteer)
    page = page_of(tmp_path / "b.html")
    assert "0.50" in page.text and "Judged attributes" not in page.text


def test_trainings_say_how_they_went(tmp_path, helpsteer):
    results = results_of([seed_answers(base=0.5, dpo=0.6, sft=0.7)], helpsteer)
    worry = Finding(rule="images", worry=True, text="images are not used")
    well = Finding(rule="loss", worry=False, text="loss 0.6931 -> 0.4000")
    results.methods["sft"].training = TrainingFacts(health=Verdict(steps=150, findings=[well]))
    results.methods["dpo"].training = TrainingFacts(health=Verdict(steps=100, findings=[worry, well]))
    results.methods["base"].training = TrainingFacts()
    write_report(tmp_path / "report.html", results, helpsteer)
    text = " ".join(page_of(tmp_path / "report.html").text.split())
    assert "SFT: healthy after 150 steps loss 0.6931 -> 0.4000" in text
    assert "DPO: look at images after 100 steps images are not used loss 0.6931 -> 0.4000" in text
    assert text.count("after") == 2 and "Base:" not in text
    assert results == Results.model_validate_json(results.model_dump_json())
    write_report(tmp_path / "none.html", results_of([seed_answers(base=0.5)], helpsteer), helpsteer)
    assert "Health" not in page_of(tmp_path / "none.html").text


def test_everything_from_outside_is_escaped(tmp_path, helpsteer):
    results = results_of([seed_answers(base=0.5)], helpsteer, settings={HOSTILE: HOSTILE}, notes=[HOSTILE])
    shown = sample(tmp_path, question=HOSTILE, base=image_answer(0, answer=HOSTILE))
    write_report(tmp_path / "report.html", results, helpsteer, [shown], title=HOSTILE)
    page = page_of(tmp_path / "report.html")  # asserts that no script tag is there
    assert page.text.count(HOSTILE) == 7  # title twice, note, question, answer, setting's name and value


def test_headline_claims_no_more_than_the_intervals(tmp_path, helpsteer):
    def headline(**shares):
        write_report(tmp_path / "report.html", results_of([seed_answers(**shares)], helpsteer), helpsteer)
        return page_of(tmp_path / "report.html").text

    assert re.search(
        r"DPO comes first: score \(of 12\) [\d.]+, against [\d.]+ of the base \(\+[^)]*\d\]\)\.",
        headline(base=0.1, dpo=0.9),
    )
    assert "which does not separate them" in headline(base=0.4, dpo=0.45)
    assert "No method is better than the base" in headline(base=0.9, dpo=0.2)


def test_shift_towards_no_is_pointed_out(tmp_path, helpsteer):
    def answers(says_no):
        absent = [image_answer(n, absent=True, claims_presence=not says_no, yes_no_correct=says_no) for n in range(4)]
        return absent + [image_answer(n, yes_no_correct=not says_no) for n in range(4, 8)]

    seed = SeedAnswers(seed=0, methods={"base": answers(False), "dpo": answers(True)})
    results = results_of([seed], helpsteer)
    write_report(tmp_path / "report.html", results, helpsteer, cautions=TASK.cautions(results.methods))
    assert "DPO hallucinates less than the base, but is no better" in page_of(tmp_path / "report.html").text


def test_same_input_same_file(tmp_path, helpsteer):
    seeds = [seed_answers(base=0.5, dpo=0.6)]
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, results_of(seeds, helpsteer), helpsteer)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_large_images_are_scaled_and_broken_ones_named(tmp_path, helpsteer):
    results = results_of([seed_answers(base=0.5)], helpsteer)
    write_report(tmp_path / "report.html", results, helpsteer, [sample(tmp_path, size=(2000, 1000))])
    image = base64.b64decode(page_of(tmp_path / "report.html").images[-1].split(",")[1])
    assert int.from_bytes(image[16:20], "big") == 512  # width in PNG's header
    shown = sample(tmp_path)
    (tmp_path / "image.png").write_bytes(b"not an image")
    with pytest.raises(UserError, match=r"image\.png"):
        write_report(tmp_path / "report.html", results, helpsteer, [shown])


def test_samples_are_drawn_evenly_and_repeatably():
    prompts = [
        Prompt(id=f"image-{n:03d}", images=("x",), turns=(Turn(role="user", content="<image>"),)) for n in range(30)
    ]
    answers = [image_answer(number, source="charts" if number < 3 else "easy_vqa") for number in range(30)]
    chosen = choose_samples(prompts, answers, 8, seed=1)
    assert chosen == choose_samples(prompts, answers, 8, seed=1) != choose_samples(prompts, answers, 8, seed=2)
    ids = [int(prompt.id[-3:]) for prompt in chosen]
    assert len(set(ids)) == 8 and sum(number < 3 for number in ids) == 3  # all that the small source has
    assert choose_samples(prompts, [text_answer(0, True)], 8, seed=1) == []
