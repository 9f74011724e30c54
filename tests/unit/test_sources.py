import io
import json

import pytest
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.sources import SourceSettings, read_examples
from nemo_mm_align.schema.examples import PreferenceExample, TrainingExample
from nemo_mm_align.schema.records import Turn, write_records
from tests.unit.test_attributes import fractions

HEAD = "Please answer the question such that your response is in the following attributes in 5-point Likert scale:"
LABELS = "Helpfulness:4,Correctness:3,Coherence:2,Complexity:1,Verbosity:0"
VALUES = {"helpfulness": 4, "correctness": 3, "coherence": 2, "complexity": 1, "verbosity": 0}


def user(content: str) -> Turn:
    return Turn(role="user", content=content)


def assistant(content: str) -> Turn:
    return Turn(role="assistant", content=content)


def llava(question: str = "<image>\nWhat?", answer: str = "A cat.", **fields) -> dict:
    conversations = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": 7, "image": "cat.png", "conversations": conversations, **fields}


def write(path, records, lines=False):
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records), encoding="utf-8")
    return path


def read(path, schema=None, **settings):
    return read_examples(SourceSettings(path=str(path), **settings), schema)


def faults_of(tmp_path, records, schema=None) -> list[tuple[str, str]]:
    """Kinds of fault with the places of the records that have them."""
    with pytest.raises(UserError):
        read(write(tmp_path / "bad.json", records), schema, fault_report=str(tmp_path / "faults.jsonl"))
    lines = (tmp_path / "faults.jsonl").read_text(encoding="utf-8").splitlines()
    return [(fault["where"], fault["kind"]) for fault in map(json.loads, lines)]


@pytest.mark.parametrize("lines", [False, True])
def test_llava_conversations(tmp_path, lines):
    records = [llava(model="x"), llava("a <image> b <image>", image=["1.png", "sub/2.png"], id="two")]
    first, second = read(write(tmp_path / "data.json", records, lines))
    expected = TrainingExample(
        id="7",
        images=(str(tmp_path / "cat.png"),),
        turns=(user("<image>\nWhat?"), assistant("A cat.")),
        metadata={"model": "x"},
    )
    assert first == expected
    assert second.images == (str(tmp_path / "1.png"), str(tmp_path / "sub/2.png"))


def test_records_without_id_or_image_are_numbered_text(tmp_path):
    record = {"conversations": llava("Why?")["conversations"]}
    (example,) = read(write(tmp_path / "data.json", [record]))
    assert (example.id, example.images) == ("data-1", ())


QUESTION = {"from": "human", "value": "<image>\nIt's what?"}
DPO = {"image": "cat.png", "chosen": {"from": "gpt", "value": "a cat"}, "rejected": {"from": "gpt", "value": "a dog"}}


@pytest.mark.parametrize("question", [QUESTION, str(QUESTION), json.dumps(QUESTION)])
@pytest.mark.parametrize("plain", [False, True])
def test_the_authors_preference_records(tmp_path, question, plain):
    record = DPO | {"question": question, "ref_win_logp": -3.5, "ref_rej_logp": -7}
    if plain:
        record |= {"chosen": "a cat", "rejected": str(DPO["rejected"])}
    (pair,) = read(write(tmp_path / "dpo.json", [record]), image_root=str(tmp_path / "images"))
    assert pair == PreferenceExample(
        id="dpo-1",
        images=(str(tmp_path / "images/cat.png"),),
        turns=(user("<image>\nIt's what?"),),
        chosen="a cat",
        rejected="a dog",
        reference_chosen_log_prob=-3.5,
        reference_rejected_log_prob=-7,
    )


def test_a_question_that_is_code_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    record = DPO | {"image": None, "question": f"{{'value': open({str(marker)!r}, 'w')}}"}
    (pair,) = read(write(tmp_path / "dpo.json", [record]))
    assert pair.turns[0].content == record["question"] and not marker.exists()


def nemo_dpo(**fields) -> dict:
    prompt = (
        "<extra_id_0>System\n\n<extra_id_1>User\nHi\nthere\n<extra_id_1>Assistant\nHello\n"
        "<extra_id_1>User\nWhy?\n<extra_id_1>Assistant\n"
    )
    record = {"prompt": prompt, "chosen_response": "Because.\n<extra_id_1>", "rejected_response": "No.\n<extra_id_1>"}
    return record | {"chosen_reward": 4, "rejected_reward": 1.5} | fields


def test_nemo_aligner_preferences(tmp_path):
    (pair,) = read(write(tmp_path / "train.jsonl", [nemo_dpo()], lines=True))
    assert pair.turns == (user("Hi\nthere"), assistant("Hello"), user("Why?"))
    assert (pair.chosen, pair.rejected, pair.chosen_score, pair.rejected_score) == ("Because.", "No.", 4, 1.5)
    system = "<extra_id_0>System\nBe brief.\n<extra_id_1>User\nq\n<extra_id_1>Assistant\n"
    (pair,) = read(write(tmp_path / "train.jsonl", [nemo_dpo(prompt=system)], lines=True))
    assert pair.turns == (Turn(role="system", content="Be brief."), user("q"))


def steerlm(*messages, **fields) -> dict:
    keys = ("from", "value", "label")
    conversations = [dict(zip(keys, message, strict=True)) for message in messages]
    return {"system": "S", "mask": "User", "type": "VALUE_TO_TEXT", "conversations": conversations, **fields}


def test_nemo_aligner_steerlm(tmp_path, helpsteer):
    second = LABELS.replace("Verbosity:0", "Verbosity:2")
    record = steerlm(
        ("User", "q", None), ("Assistant", "a", LABELS.lower()), ("User", "r", ""), ("Assistant", "b", second)
    )
    (example,) = read(write(tmp_path / "train.jsonl", [record], lines=True), helpsteer)
    assert example.attributes == VALUES | {"verbosity": 2}
    expected = (
        Turn(role="system", content="S"),
        user(f"q\n{HEAD}\n{LABELS}"),
        assistant("a"),
        user("r"),
        assistant("b"),
    )
    assert example.turns == expected


def test_labels_outside_the_schema_are_faults_unless_ignored(tmp_path, helpsteer):
    record = steerlm(("User", "q", None), ("Assistant", "a", f"quality:4,toxicity:0,{LABELS}"))
    path = write(tmp_path / "train.jsonl", [record], lines=True)
    with pytest.raises(UserError, match="labels quality, toxicity are not in the attribute schema 'helpsteer'"):
        read(path, helpsteer)
    (example,) = read(path, helpsteer, ignore_labels=("quality", "toxicity"))
    assert example.attributes == VALUES
    with pytest.raises(UserError, match="no attribute schema"):
        read(path)


def test_own_records_come_back_as_written(tmp_path, helpsteer):
    image = str(tmp_path / "a.png")
    turns = (user("<image>\nq"), assistant("a"))
    training = TrainingExample(id="1", images=(image,), turns=turns, attributes=VALUES, metadata={"k": [1]})
    pair = PreferenceExample(
        id="2", images=(image,), turns=turns[:1], chosen="a", rejected="b", chosen_score=9, reference_chosen_log_prob=-1
    )
    for record in (training, pair):
        write_records(tmp_path / "own.jsonl", [record])
        assert read(tmp_path / "own.jsonl", helpsteer) == [record]


def test_chat_messages(tmp_path):
    content = [{"type": "image"}, {"type": "text", "text": "What?"}]
    question = {"role": "user", "content": content}
    answers = [{"role": "assistant", "content": text} for text in ("yes", "no")]
    (example,) = read(write(tmp_path / "a.json", [{"images": ["a.png"], "messages": [question, answers[0]]}]))
    assert example.turns == (user("<image>\nWhat?"), assistant("yes"))
    split = {"image": "a.png", "prompt": [question], "chosen": answers[:1], "rejected": answers[1:]}
    whole = {"image": "a.png", "chosen": [question, answers[0]], "rejected": [question, answers[1]]}
    pairs = read(write(tmp_path / "b.json", [split, whole]))
    assert [(pair.turns, pair.chosen, pair.rejected) for pair in pairs] == [
        ((user("<image>\nWhat?"),), "yes", "no")
    ] * 2


def test_an_attribute_line_in_the_text_becomes_attributes(tmp_path, helpsteer):
    path = write(tmp_path / "data.json", [llava(f"<image>\nWhat?\n{HEAD}\n{LABELS}")])
    (example,) = read(path, helpsteer)
    assert (example.turns[0].content, example.attributes) == ("<image>\nWhat?", VALUES)
    (example,) = read(path)
    assert example.turns[0].content == f"<image>\nWhat?\n{HEAD}\n{LABELS}" and example.attributes is None


def test_an_attribute_line_of_another_schema_is_found_and_checked(tmp_path):
    schema = fractions("clarity", "local_wit")
    values = {"clarity": 0.5, "local_wit": 1}
    own, papers = schema.steering_line(values), f"{HEAD}\nclarity:0.5,Local-Wit:1"
    for line in (own, papers):
        (example,) = read(write(tmp_path / "data.json", [llava(f"<image>\nWhat?\n{line}")]), schema)
        assert (example.turns[0].content, example.attributes) == ("<image>\nWhat?", values)
    assert faults_of(tmp_path, [llava(f"<image>\nWhat?\n{own}\n{papers}")], schema) == [
        ("record 1", "attribute_line_repeated")
    ]
    assert faults_of(tmp_path, [llava(f"<image>\nWhat?\n{HEAD}\n{LABELS}")], schema) == [("record 1", "unknown_label")]


def test_every_fault_of_every_record_is_reported(tmp_path, helpsteer):
    line = f"\n{HEAD}\n{LABELS}"
    records = [
        llava(),
        llava(f"<image>\n<image>\nWhat?{line}{line}"),
        llava("What?", " "),
        llava(conversations=[{"from": "gpt", "value": "an <image>"}]),
        llava(f"<image>\n{HEAD}\nHelpfulness:9,Quality:1,oops"),
        {"image": "cat.png"},
        llava(conversations=[{"from": "robot", "value": "x"}]),
        llava(image="../cat.png"),
        17,
    ]
    assert faults_of(tmp_path, records, helpsteer) == [
        ("record 2", "image_count"),
        ("record 2", "attribute_line_repeated"),
        ("record 3", "empty_answer"),
        ("record 3", "image_count"),
        ("record 4", "turn_order"),
        ("record 4", "image_count"),
        ("record 4", "image_outside_question"),
        ("record 5", "label_syntax"),
        ("record 5", "unknown_label"),
        ("record 5", "attribute_value"),
        ("record 6", "field"),
        ("record 7", "field"),
        ("record 8", "image_path"),
        ("record 9", "json"),
    ]
    path = tmp_path / "bad.json"
    with pytest.raises(UserError, match="8 of 9 records refused, 14 faults") as error:
        read(path, helpsteer)
    assert "record 2 (id 7): 2 <image> placeholders for 1 images. Remedy: write <image> once per image." in str(
        error.value
    )
    assert [example.id for example in read(path, helpsteer, on_fault="drop")] == ["7"]


def test_attributes_and_an_attribute_line_do_not_go_together(tmp_path, helpsteer):
    line = f"q\n{HEAD}\n{LABELS}"
    own = {"id": "1", "turns": [{"role": "user", "content": line}, {"role": "assistant", "content": "a"}]}
    record = own | {"attributes": VALUES, "extra": 1}
    assert faults_of(tmp_path, [own, record], helpsteer) == [
        ("record 2", "unknown_key"),
        ("record 2", "attributes_twice"),
    ]


@pytest.mark.parametrize(
    ("record", "kind"),
    [
        (DPO | {"question": QUESTION, "rejected": "a cat"}, "same_answers"),
        (DPO | {"question": QUESTION, "ref_win_logp": -1}, "reference"),
        (nemo_dpo(chosen_reward=0), "score_order"),
        (nemo_dpo(prompt="[INST] Hi [/INST]"), "markers"),
        (nemo_dpo(chosen_response="a\n<extra_id_1>User\nb\n<extra_id_1>"), "markers"),
        (steerlm(("User", "q", None), ("Assistant", "a", None), type="TEXT_TO_VALUE"), "field"),
        (DPO | {"question": QUESTION, "ref_win_logp": 3.0, "ref_rej_logp": -4}, "reference"),
        (DPO | {"question": QUESTION, "ref_win_logp": float("nan"), "ref_rej_logp": -4}, "field"),
        (nemo_dpo(chosen_reward=float("inf")), "field"),
        (llava(answer="half \ud83d"), "text"),
        ({"id": "1", "turns": [{"role": "user", "content": "q"}], "chosen": "a", "rejected": "b\udc00"}, "text"),
        ({"prompt": "q", "chosen": [{"role": "user", "content": "x"}], "rejected": "b"}, "field"),
    ],
)
def test_faults_of_single_formats(tmp_path, record, kind):
    assert faults_of(tmp_path, [record]) == [("record 1", kind)]


def test_files_that_cannot_be_read_are_named(tmp_path):
    for text, fault in [("[1, 2", "not a JSON list"), ("", "no record"), ('[{"x": 1}]', "has the keys x, .* llava ")]:
        (tmp_path / "data.json").write_text(text)
        with pytest.raises(UserError, match=f"data.json: .*{fault}"):
            read(tmp_path / "data.json")
    with pytest.raises(UserError, match="missing.jsonl: no such file"):
        read(tmp_path / "missing.jsonl")
    with pytest.raises(ValueError, match="unknown format 'xml'; known: auto, records"):
        SourceSettings(path="x", format="xml")


def test_bytes_that_are_no_text_are_a_fault_and_a_mark_at_the_start_is_not(tmp_path):
    path = tmp_path / "data.jsonl"
    good = json.dumps(llava()).encode()
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\r\n" + good.replace(b"What", b"Wh\xe4t") + b"\n" + good)
    with pytest.raises(UserError, match="1 of 3 records refused.*\n.*encoding\n  line 2 .*not UTF-8"):
        read(path)
    assert len(read(path, on_fault="drop")) == 2
    path.write_bytes(b"\xef\xbb\xbf\n [" + good + b"]")
    assert len(read(path)) == 1
    path.write_bytes(b"[" + good.replace(b"What", b"Wh\xe4t") + b"]")
    with pytest.raises(UserError, match="data.jsonl: not a JSON list"):
        read(path)


def test_attributes_that_are_no_numbers_are_a_fault_without_a_schema_too(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    assert faults_of(tmp_path, [{"id": "1", "turns": turns, "attributes": {"helpfulness": "good"}}]) == [
        ("record 1", "field")
    ]


def test_other_sums_of_the_authors_records_are_not_carried_along(tmp_path):
    derived = {f"ref_{side}_{what}": [-1.0] for side in ("win", "rej") for what in ("per_token_logp", "avg_logp")}
    record = DPO | derived | {"question": QUESTION, "ref_win_logp": -3.5, "ref_rej_logp": -7, "source": "x"}
    (pair,) = read(write(tmp_path / "dpo.json", [record]))
    assert pair.metadata == {"source": "x"} and pair.reference_chosen_log_prob == -3.5


def test_a_broken_line_is_one_fault_among_others(tmp_path):
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(llava()) + '\n\n{"id": \n' + json.dumps(llava(id=8)))
    with pytest.raises(UserError, match="1 of 3 records refused.*\n.*json\n  line 3 "):
        read(path)
    assert [example.id for example in read(path, on_fault="drop")] == ["7", "8"]


def test_training_and_preference_records_do_not_mix(tmp_path):
    own = {"id": "1", "turns": [{"role": "user", "content": "q"}]}
    pair = own | {"chosen": "a", "rejected": "b"}
    training = own | {"turns": [*own["turns"], {"role": "assistant", "content": "a"}]}
    with pytest.raises(UserError, match="PreferenceExample and TrainingExample"):
        read(write(tmp_path / "data.json", [pair, training]))


@pytest.fixture
def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (255, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def test_a_saved_dataset_keeps_its_images_bytes(tmp_path, png):
    import datasets

    rows = {
        "images": [[{"bytes": png, "path": None}], [{"bytes": png, "path": "x.png"}] * 2],
        "conversations": [llava("<image>\nWhat?")["conversations"], llava("<image><image>")["conversations"]],
    }
    data = datasets.Dataset.from_dict(rows).cast_column("images", datasets.List(datasets.Image()))
    datasets.DatasetDict({"train": data, "test": data.select([0])}).save_to_disk(str(tmp_path / "saved"))
    cache = tmp_path / "cache"
    examples = read(tmp_path / "saved", image_cache=str(cache))
    assert [example.id for example in examples] == ["saved-1", "saved-2"]
    (file,) = cache.iterdir()
    assert file.read_bytes() == png and file.suffix == ".png"
    assert examples[1].images == (str(file), str(file))
    assert len(read(tmp_path / "saved", split="test", image_cache=str(cache))) == 1
    with pytest.raises(UserError, match="no split 'dev'; there are train, test"):
        read(tmp_path / "saved", split="dev")


def test_a_folder_of_data_files(tmp_path, png, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")
    rows = {"image": [{"bytes": png, "path": None}], "question": [str(QUESTION)], "chosen": ["a"], "rejected": ["b"]}
    data = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    (tmp_path / "folder").mkdir()
    data.to_parquet(str(tmp_path / "folder" / "train.parquet"))
    for source in (tmp_path / "folder", tmp_path / "folder" / "train.parquet"):
        (pair,) = read(source, image_cache=str(tmp_path / "cache"))
        assert (pair.turns, pair.chosen) == ((user("<image>\nIt's what?"),), "a")
        assert pair.images[0].startswith(str(tmp_path / "cache"))


def test_a_dataset_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match="no such file or folder, and not a dataset's name"):
        read(tmp_path / "nowhere")
    with pytest.raises(UserError, match="owner/absent: cannot be opened as a dataset"):
        read("owner/absent")
