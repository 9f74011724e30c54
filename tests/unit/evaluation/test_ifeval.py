import json
import os
import subprocess
import sys

import pytest

from nemo_mm_align.core.errors import RecordError, UserError
from nemo_mm_align.evaluation.tasks.ifeval_checkers import TYPES, Instructions, check_answer, checkers
from tests.distributed import REPOSITORY
from tests.unit.evaluation.scored import figures, prompts_of, score, task_of
from tests.unit.evaluation.task_data import write_ifeval

CASES = {
    "change_case:capital_word_frequency": (
        {"capital_frequency": 2, "capital_relation": "at least"},
        ("BIG and SMALL words", "only ONE of them"),
    ),
    "change_case:english_capital": ({}, ("THIS IS A WHOLE SENTENCE IN ENGLISH.", "This Is A Sentence In English.")),
    "change_case:english_lowercase": ({}, ("this is a whole sentence in english.", "This is a sentence in english.")),
    "combination:repeat_prompt": (
        {"prompt_to_repeat": "Name a colour."},
        ("Name a colour. Red, of course.", "Red. Name a colour."),
    ),
    "combination:two_responses": ({}, ("One answer.\n******\nAnother one.", "One answer.\n***\nAnother one.")),
    "detectable_content:number_placeholders": (
        {"num_placeholders": 2},
        ("Dear [name], come to [place].", "Dear [name], come."),
    ),
    "detectable_content:postscript": ({"postscript_marker": "P.S."}, ("Goodbye.\nP.S. Write soon.", "Goodbye. Write.")),
    "detectable_format:constrained_response": ({}, ("My answer is maybe.", "Perhaps.")),
    "detectable_format:json_format": ({}, ('```json\n{"a": [1, 2]}\n```', '{"a": [1, 2]')),
    "detectable_format:multiple_sections": (
        {"section_spliter": "SECTION", "num_sections": 2},
        ("SECTION 1\nRed.\nSECTION 2\nBlue.", "SECTION 1\nRed."),
    ),
    "detectable_format:number_bullet_lists": ({"num_bullets": 2}, ("* one\n* two", "* one\n* two\n* three")),
    "detectable_format:number_highlighted_sections": (
        {"num_highlights": 2},
        ("*One part* and *another part*.", "*One part* and another."),
    ),
    "detectable_format:title": ({}, ("<<A title>>\nText.", "A title\nText.")),
    "keywords:existence": ({"keywords": ["river", "stone"]}, ("A stone in the River.", "A stone in the sea.")),
    "keywords:forbidden_words": ({"forbidden_words": ["river"]}, ("The rivers are wide.", "The river is wide.")),
    "keywords:frequency": (
        {"keyword": "tea", "frequency": 2, "relation": "at least"},
        ("Tea, more tea.", "Tea, more coffee."),
    ),
    "keywords:letter_frequency": (
        {"letter": "z", "let_frequency": 3, "let_relation": "less than"},
        ("A zigzag walk.", "Puzzles fizz."),
    ),
    "language:response_language": (
        {"language": "de"},
        (
            "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter.",
            "This is quite an ordinary English sentence.",
        ),
    ),
    "length_constraints:nth_paragraph_first_word": (
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "finally"},
        ("First this.\n\nFinally, that.", "First this.\n\nThen, finally, that."),
    ),
    "length_constraints:number_paragraphs": ({"num_paragraphs": 2}, ("One.\n***\nTwo.", "One.\n\nTwo.")),
    "length_constraints:number_sentences": (
        {"relation": "less than", "num_sentences": 3},
        ("Dr. Smith met Mr. Jones at 5 p.m. today. They left.", "One came. Two came. Three left."),
    ),
    "length_constraints:number_words": (
        {"relation": "at least", "num_words": 4},
        ("These are four words", "Only three words"),
    ),
    "punctuation:no_comma": ({}, ("No such mark here.", "Here, there is one.")),
    "startend:end_checker": ({"end_phrase": "That is all."}, ("Well. That is all.", "That is all. Well.")),
    "startend:quotation": ({}, ('"All in quotes."', 'Not "all" in quotes.')),
}
"""By the kind of an instruction: its arguments, and an answer that follows it and one that does not."""


def demand(name, arguments, key=1):
    return Instructions(key, "Do it.", [name], [arguments])


@pytest.mark.parametrize("name", TYPES)
def test_checkers_accept_right_answers_and_refuse_wrong_ones(name):
    arguments, (right, wrong) = CASES[name]
    assert check_answer(demand(name, arguments), right).strict == (True,)
    assert check_answer(demand(name, arguments), wrong).strict == (False,)


def test_all_kinds_of_instructions_are_known():
    checkers()
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert sorted(INSTRUCTION_DICT) == list(TYPES) == sorted(CASES)


def test_loose_passes_over_first_line_last_line_and_asterisks():
    name, arguments = "startend:quotation", {}
    for answer in ('Sure:\n"Yes."', '"Yes."\nBye', 'Sure:\n"Yes."\nBye', '*"Yes."*'):
        followed = check_answer(demand(name, arguments), answer)
        assert (followed.strict, followed.loose) == ((False,), (True,)), answer
    assert check_answer(demand("punctuation:no_comma", {}), "").loose == (False,)  # nothing follows nothing


@pytest.fixture
def data(tmp_path):
    return write_ifeval(tmp_path)


def test_figures_are_those_by_hand(data, tmp_path):
    task = task_of("ifeval", data=str(data))
    prompts = prompts_of(task, tmp_path)
    responses = {
        "No commas, a title.": "<<A>> and b",
        "Tea and coffee.": "Tea, please.",
        "No commas.": "Well, here:\nnone.",
    }
    path = tmp_path / "responses.jsonl"
    path.write_text("".join(json.dumps({"prompt": key, "response": text}) + "\n" for key, text in responses.items()))
    answers = task.read_answers(path)
    assert list(answers) == ["1", "2", "30"]
    scored = score(task, prompts, answers)
    assert figures(task, scored) == pytest.approx(
        {
            "prompt_strict": 1 / 3,  # tea without coffee, and a comma in the first line
            "prompt_loose": 2 / 3,
            "instruction_strict": 3 / 5,
            "instruction_loose": 4 / 5,
            "type_strict.punctuation:no_comma": 1 / 2,
            "type_loose.punctuation:no_comma": 1,
            "type_strict.detectable_format:title": 1,
            "type_loose.detectable_format:title": 1,
            "type_strict.keywords:frequency": 1 / 2,
            "type_loose.keywords:frequency": 1 / 2,
        }
    )
    assert scored[1].notes == ("Does not follow keywords:frequency.",)
    assert task.field_files("dpo", scored)["input_response_data_dpo.jsonl"] == path.read_text()
    assert score(task, prompts, {"1": "Failed to obtain answer via API"})[0].failed


def test_prompts_are_greedy_and_long_enough(data, tmp_path):
    prompt = prompts_of(task_of("ifeval", data=str(data / "input_data.jsonl")), tmp_path)["2"]
    assert (prompt.decoding.temperature, prompt.decoding.max_new_tokens) == (0, 1280)
    assert prompt.question == "Tea and coffee." and not prompt.images
    assert "num_words" not in prompt.metadata["ifeval"]["kwargs"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"instruction_id_list": ["punctuation:no_coma"]},
            "punctuation:no_coma' is unknown. Did you mean punctuation:no_comma",
        ),
        ({"kwargs": []}, "kwargs is no list of objects, one for each instruction"),
        ({"key": "x"}, "key is no whole number"),
        ({"key": 1}, "key 1 stands in line 1 already"),
    ],
)
def test_broken_prompts_name_their_line(data, tmp_path, change, message):
    path = data / "input_data.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], json.dumps({**json.loads(lines[2]), **change})]))
    with pytest.raises(RecordError, match=rf"input_data\.jsonl:3: .*{message}"):
        task_of("ifeval", data=str(data)).prompts(tmp_path)


def test_a_checker_that_would_make_up_an_argument_is_not_asked():
    with pytest.raises(UserError, match="keywords:frequency has no keyword"):
        check_answer(demand("keywords:frequency", {"frequency": 1, "relation": "at least"}), "text")


def test_foreign_responses_are_named(data, tmp_path):
    task = task_of("ifeval", data=str(data))
    path = tmp_path / "responses.jsonl"
    path.write_text(json.dumps({"prompt": "Tea", "response": ""}) + "\n")
    with pytest.raises(RecordError, match="prompt 'Tea' is none of"):
        task.read_answers(path)
    path.write_text(2 * (json.dumps({"prompt": "Tea and coffee.", "response": ""}) + "\n"))
    with pytest.raises(RecordError, match="prompt 2 is answered twice"):
        task.read_answers(path)


OFFLINE = """
import socket
def refuse(*arguments, **options):
    raise SystemExit("asked the network")
socket.socket.connect = socket.getaddrinfo = refuse
from nemo_mm_align.evaluation.tasks.ifeval_checkers import Instructions, check_answer
demand = Instructions(1, "", ["length_constraints:number_sentences", "change_case:capital_word_frequency"],
    [{"relation": "less than", "num_sentences": 2}, {"capital_frequency": 1, "capital_relation": "at least"}])
print(check_answer(demand, "Mr. A. Smith came TODAY.").strict)
"""


def test_nothing_is_downloaded(tmp_path):
    """A machine without NLTK's data: the sentence model is laid out in the cache, and found."""
    homeless = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "NLTK_DATA": "",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    command = [sys.executable, "-c", OFFLINE]
    run = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env={**os.environ, **homeless})
    assert run.stdout.splitlines()[-1:] == ["(True, True)"], run.stderr
    assert (tmp_path / "cache/nemo_mm_align/nltk_data/tokenizers/punkt_tab/english/ortho_context.tab").is_file()


def test_without_the_extra_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks.ifeval.utils", None)
    checkers.cache_clear()
    with pytest.raises(UserError, match=r"task ifeval: .*pip install '\.\[ifeval\]'"):
        check_answer(demand("punctuation:no_comma", {}), "text")
