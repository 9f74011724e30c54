import json
import logging

import pytest
import yaml
from PIL import Image

from nemo_mm_align.core import file_state
from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import ANSWERS, PAIRS, SampleKind
from nemo_mm_align.datasets.length_report import show_loss_mask
from nemo_mm_align.datasets.plan import PlanSettings, plan_lengths
from nemo_mm_align.datasets.rows import batch_length
from nemo_mm_align.datasets.sample import Sample, SampleStore
from nemo_mm_align.schema.examples import PreferenceExample, TrainingExample
from nemo_mm_align.schema.image_hashes import ImageHashes
from nemo_mm_align.schema.prompts import ChatTemplate, EncodedSequence, Encoder
from nemo_mm_align.schema.records import Turn
from tests.unit import toy_tokenizers

IMAGE_TOKENS = 5


@pytest.fixture(scope="module")
def encoder(repository, helpsteer) -> Encoder:
    template = yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()) | {"system": ""}
    tokenizer = toy_tokenizers.byte_level()
    image = tokenizer.convert_tokens_to_ids("<image>")
    return Encoder(tokenizer, ChatTemplate.from_config(template), image, IMAGE_TOKENS, helpsteer)


@pytest.fixture
def picture(tmp_path) -> str:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def example(name: str, answer: str, *images: str) -> TrainingExample:
    question = "<image>\n" * len(images) + "What is it?"
    turns = (Turn(role="user", content=question), Turn(role="assistant", content=answer))
    return TrainingExample(id=name, images=images, turns=turns)


def pair(name: str, *images: str, **fields) -> PreferenceExample:
    turns = (Turn(role="user", content="<image>\n" * len(images) + "q"),)
    return PreferenceExample(id=name, images=images, turns=turns, chosen="yes", rejected="no no no no", **fields)


class Either(SampleKind):
    """Answers and pairs among each other: as many sequences as each has."""

    def encode(self, example, encoder) -> Sample:
        return (PAIRS if isinstance(example, PreferenceExample) else ANSWERS).encode(example, encoder)

    def flaw(self, sample):
        return PAIRS.flaw(sample) if len(sample.sequences) == 2 else None


EITHER = Either()


def sequences_of(example, encoder) -> list[EncodedSequence]:
    return EITHER.encode(example, encoder).sequences


def test_the_plan_counts_what_is_trained_on(encoder, picture, tmp_path):
    examples = [example("short", "yes"), example("long", "yes " * 40, picture, picture), pair("pair", picture)]
    samples, plan = plan_lengths(examples, encoder, PlanSettings(max_length=400), EITHER)
    encoded = [sequences_of(item, encoder) for item in examples]
    assert [sample.sequences for sample in samples] == encoded
    assert plan.lengths == [max(map(len, sequences)) for sequences in encoded]
    assert (plan.longest_id, plan.longest) == ("long", len(encoded[1][0]))
    assert plan.image_tokens == 2 * IMAGE_TOKENS + 2 * IMAGE_TOKENS
    assert plan.answer_tokens == sum(sequence.num_answer_tokens for sequences in encoded for sequence in sequences)
    assert sum(count for _, _, count in plan.histogram()) == 3
    plan.write(tmp_path / "out" / "plan.json")
    written = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert written["longest"] == {"id": "long", "length": plan.longest} and written["kept"] == 3


def test_too_long_is_an_error_unless_it_is_to_be_dropped(encoder):
    examples = [example("fits", "yes"), example("long", "yes " * 100)]
    longest = len(sequences_of(examples[1], encoder)[0])
    with pytest.raises(
        UserError, match=rf"dropped long: too long: {longest} tokens .*\n.*raise model.max_length .*{longest}"
    ):
        plan_lengths(examples, encoder, PlanSettings(max_length=longest - 1), EITHER)
    assert len(plan_lengths(examples, encoder, PlanSettings(max_length=longest), EITHER)[0]) == 2
    samples, plan = plan_lengths(examples, encoder, PlanSettings(max_length=longest - 1, on_too_long="drop"), EITHER)
    assert [sample.id for sample in samples] == ["fits"]
    assert [(item.id, item.reason, item.length) for item in plan.dropped] == [("long", "too long", longest)]
    with pytest.raises(UserError, match="No example is left"):
        plan_lengths(examples, encoder, PlanSettings(max_length=5, on_too_long="drop"), EITHER)


def test_a_pair_is_dropped_when_one_of_its_answers_is_too_long(encoder):
    given = pair("p")
    chosen, rejected = map(len, sequences_of(given, encoder))
    assert chosen < rejected
    with pytest.raises(UserError, match=f"{rejected} tokens"):
        plan_lengths([given], encoder, PlanSettings(max_length=rejected - 1), EITHER)


def test_bad_images_and_texts_are_faults(encoder, picture, tmp_path):
    (tmp_path / "bad.png").write_text("no image")
    examples = [
        example("good", "yes", picture),
        example("missing", "yes", picture, str(tmp_path / "none.png")),
        example("damaged", "yes", str(tmp_path / "bad.png")),
        example("special", "yes</s>", picture),
    ]
    with pytest.raises(UserError, match="3 dropped") as error:
        plan_lengths(examples, encoder, PlanSettings(max_length=400), EITHER)
    for fault in ("none.png: no such image", "bad.png: not an image", "contains '</s>'", "set data.on_fault=drop"):
        assert fault in str(error.value)
    samples, plan = plan_lengths(examples, encoder, PlanSettings(max_length=400, on_fault="drop"), EITHER)
    assert [sample.id for sample in samples] == ["good"]
    assert [(item.id, item.reason) for item in plan.dropped] == [
        ("missing", "image"),
        ("damaged", "image"),
        ("special", "text"),
    ]
    unchecked, _ = plan_lengths(examples[:3], encoder, PlanSettings(max_length=400, check_images=False), EITHER)
    assert len(unchecked) == 3


def test_a_pair_is_compared_as_tokens(repository, helpsteer):
    """A tokenizer that splits at blanks tells neither their number nor words that it does not know."""
    template = yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()) | {"system": ""}
    tokenizer = toy_tokenizers.word_level()
    image = tokenizer.convert_tokens_to_ids("<image>")
    words = Encoder(tokenizer, ChatTemplate.from_config(template), image, IMAGE_TOKENS, helpsteer)
    blanks = pair("blanks").model_copy(update={"chosen": "red circle", "rejected": "red  circle"})
    unknown = pair("unknown").model_copy(update={"chosen": "zebra", "rejected": "walrus"})
    with pytest.raises(UserError, match="2 dropped(?s:.*)blanks: same answers: .* are the same tokens") as error:
        plan_lengths([blanks, pair("good"), unknown], words, PlanSettings(max_length=400), EITHER)
    assert "dropped unknown: same answers" in str(error.value) and "data.on_fault=drop" in str(error.value)
    settings = PlanSettings(max_length=400, on_fault="drop")
    samples, _ = plan_lengths([blanks, pair("good"), unknown], words, settings, EITHER)
    assert [sample.id for sample in samples] == ["good"]


def test_images_that_were_checked_are_known_by_their_hash_and_not_decoded_again(
    encoder, picture, tmp_path, monkeypatch
):
    monkeypatch.setattr(file_state, "SETTLED_S", -1e9)  # as if they had been written long ago
    (tmp_path / "bad.png").write_text("nothing")
    examples = [example("good", "yes", picture), example("bad", "yes", str(tmp_path / "bad.png"))]
    settings = PlanSettings(max_length=400, on_fault="drop")
    hashes = ImageHashes(tmp_path / "hashes")
    samples, plan = plan_lengths(examples, encoder, settings, EITHER, hashes=hashes)
    first = samples.pictures(hashes.of)
    assert hashes.save() and [item.reason for item in plan.dropped] == ["image"]
    decoded = []
    monkeypatch.setattr("nemo_mm_align.datasets.plan.verify_bytes", lambda data, path: decoded.append(path))
    again = ImageHashes(tmp_path / "hashes")
    samples, _ = plan_lengths(examples[:1], encoder, settings, EITHER, hashes=again)
    assert samples.pictures(again.of) == first and decoded == [] and again.others == []
    Image.new("RGB", (8, 8), "red").save(picture)
    later = ImageHashes(tmp_path / "hashes")
    samples, _ = plan_lengths(examples, encoder, settings, EITHER, hashes=later)
    assert samples.pictures(later.of) != first and later.others == [picture]
    assert set(decoded) == {picture, str(tmp_path / "bad.png")}, "a broken image is not remembered as checked"


def test_stored_reference_log_probs_travel_along(encoder):
    examples = [pair("a", reference_chosen_log_prob=-1.5, reference_rejected_log_prob=-2), pair("b")]
    samples, _ = plan_lengths(examples, encoder, PlanSettings(max_length=400), EITHER)
    assert [sample.reference_log_probs for sample in samples] == [[-1.5, -2], None]


def test_unknown_words_are_warned_of(repository, caplog):
    tokenizer = toy_tokenizers.word_level()
    template = ChatTemplate.from_config(
        yaml.safe_load((repository / "conf/template/vicuna_v1.yaml").read_text()) | {"system": ""}
    )
    encoder = Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), IMAGE_TOKENS)
    with caplog.at_level(logging.WARNING):
        _, plan = plan_lengths([example("a", "xylophone zebra")], encoder, PlanSettings(max_length=99), EITHER)
    assert plan.unknown_tokens == 3  # it, xylophone, zebra
    assert "unknown to the tokenizer" in caplog.text


def test_one_length_per_batch_rounded_up(encoder):
    samples, _ = plan_lengths([pair("a"), example("b", "yes")], encoder, PlanSettings(max_length=400), EITHER)
    prompt = samples[0].sequences[0].prompt_length
    chosen, rejected = (len(sequence) - 1 for sequence in samples[0].sequences)  # the last token predicts nothing
    assert batch_length(samples) == max(rejected, len(samples[1].sequences[0]) - 1)
    assert batch_length(samples[:1], multiple=16) == -(-rejected // 16) * 16
    assert batch_length(samples[:1], shared_prefix=True) == chosen + rejected - (prompt - 1)


def test_the_store_gives_back_what_was_put_in(tmp_path):
    samples = [
        Sample("a", [tmp_path / "a.png"], [EncodedSequence([70000, 5, 6], [False, True, True])]),
        Sample("b", [], [EncodedSequence([1, 2], [False, True]), EncodedSequence([1, 3], [False, True])], [-1.0, -2.0]),
    ]
    store = SampleStore(samples)
    assert list(store) == samples and store[-1] == samples[1] and store[:1] == samples[:1] and len(store) == 2
    store.set_reference_log_probs(1, [-3, -4])
    assert store[1].reference_log_probs == [-3, -4]
    with pytest.raises(ValueError, match="2 reference log-probs for 1 sequences"):
        store.set_reference_log_probs(0, [-3, -4])


def test_a_sequence_is_shown_with_what_is_trained_on(encoder, picture):
    sequence = sequences_of(example("a", "yes, no", picture), encoder)[0]
    assert show_loss_mask(sequence, encoder) == "USER: <image>*5\nWhat is it? ASSISTANT:« yes, no</s>»"
