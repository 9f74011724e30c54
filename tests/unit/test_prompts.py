import pytest
import yaml
from PIL import Image

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.datasets.kinds import PAIRS
from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.prompts import ChatTemplate, EncodedSequence, Encoder, add_image_token, with_attributes
from nemo_mm_align.schema.records import Turn
from tests.unit import toy_tokenizers

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
VALUES = {"helpfulness": 4, "correctness": 3, "coherence": 2, "complexity": 1, "verbosity": 0}
LINE = (
    "Please answer the question such that your response is in the following attributes in 5-point Likert scale:\n"
    "Helpfulness:4,Correctness:3,Coherence:2,Complexity:1,Verbosity:0"
)


def turns(*contents: str, system: str | None = None) -> list[Turn]:
    roles = ["user", "assistant"] * len(contents)
    head = [] if system is None else [Turn(role="system", content=system)]
    return head + [Turn(role=role, content=content) for role, content in zip(roles, contents, strict=False)]


CHAT = turns("<image>\nWhat is it?", "A red circle.", "Are you sure?", " yes, I think ")


def template_of(repository, name: str) -> ChatTemplate:
    path = repository / f"conf/template/{name}.yaml"
    return ChatTemplate.from_config(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.fixture(params=["vicuna_v1", "chatml", "nemo_aligner"])
def template(request, repository) -> ChatTemplate:
    return template_of(repository, request.param)


@pytest.fixture(scope="module")
def vicuna(repository) -> ChatTemplate:
    return template_of(repository, "vicuna_v1")


@pytest.fixture(scope="module", params=toy_tokenizers.ALL)
def tokenizer(request):
    return toy_tokenizers.ALL[request.param]()


def encoder_of(tokenizer, template, schema=None) -> Encoder:
    return Encoder(tokenizer, template, tokenizer.convert_tokens_to_ids("<image>"), 3, schema)


def test_vicuna_is_llavas_conversation_format(vicuna):
    expected = (
        f"{SYSTEM} USER: <image>\nWhat is it? ASSISTANT: A red circle.</s>"
        "USER: Are you sure? ASSISTANT: yes, I think</s>"
    )
    assert vicuna.render(CHAT) == expected
    assert vicuna.render(CHAT[:-1], add_generation_prompt=True) == expected.removesuffix(" yes, I think</s>")


def test_an_empty_system_text_leaves_nothing(vicuna):
    plain = vicuna.model_copy(update={"system": ""})
    assert plain.render(turns("q"), add_generation_prompt=True) == "USER: q ASSISTANT:"
    assert vicuna.render(turns("q", system="")) == "USER: q "
    assert vicuna.render(turns("q", system="Be brief.")) == "Be brief. USER: q "


def test_an_unknown_template_field_is_named():
    with pytest.raises(UserError, match="sytem"):
        ChatTemplate.from_config({"name": "x", "user_prefix": "", "assistant_prefix": "", "stop": "</s>", "sytem": ""})


def test_attribute_turn_is_the_papers(helpsteer):
    assert with_attributes(turns("<image>\nq"), helpsteer, VALUES) == turns(f"<image>\nq\n{LINE}")
    assert with_attributes(CHAT, helpsteer, VALUES)[2].content == f"Are you sure?\n{LINE}"
    with pytest.raises(UserError, match="verbosity"):
        with_attributes(CHAT, helpsteer, {name: 4 for name in VALUES if name != "verbosity"})


def test_attributes_before_the_answer_are_nemo_aligners(repository, helpsteer):
    """As in its documentation: docs/user-guide/steerlm.rst and process_to_attribute_conditioned_format.py."""
    template = template_of(repository, "nemo_aligner")
    labels = "<extra_id_2>helpfulness:4,correctness:3,coherence:2,complexity:1,verbosity:0\n"
    head = f"<extra_id_0>System\n{SYSTEM}\n<extra_id_1>User\n<image>\nWhat is it?\n<extra_id_1>Assistant\n"
    later = "A red circle.\n<extra_id_1>User\nAre you sure?\n<extra_id_1>Assistant\n"
    turns, asked = template.ask(CHAT, helpsteer, VALUES)
    assert turns == CHAT and asked == labels
    assert template.render(turns, asked=asked) == f"{head}{later}{labels}yes, I think\n<extra_id_1>"
    assert template.render(turns[:-1], True, asked) == head + later + labels
    text, spans = template.render_spans(turns, asked=asked)
    assert [text[start:end] for start, end in spans] == ["A red circle.\n<extra_id_1>", "yes, I think\n<extra_id_1>"]


@pytest.mark.parametrize("name", ["nemo_aligner", "vicuna_v1"])
def test_what_is_asked_for_is_part_of_the_prompt_and_not_trained(repository, helpsteer, name):
    template = template_of(repository, name)
    tokenizer = toy_tokenizers.byte_level()
    encoder = encoder_of(tokenizer, template, helpsteer)
    sequence = encoder.encode_example(CHAT, VALUES)
    prompt = encoder.encode_prompt(CHAT[:-1], VALUES)
    assert sequence.ids[: len(prompt)] == prompt
    answers = [tokenizer.decode(answer).strip() for answer in runs(sequence)]
    ending = "\n<extra_id_1>" if name == "nemo_aligner" else "</s>"
    assert answers == [f"A red circle.{ending}", f"yes, I think{ending}"]
    with_line, without = (len(encoder.encode_prompt(CHAT[:-1], values)) for values in (VALUES, None))
    assert with_line > without + 10


def test_an_empty_answer_is_its_stop_token_where_it_is_to_be_rated(vicuna):
    encoder = encoder_of(toy_tokenizers.byte_level(), vicuna)
    with pytest.raises(UserError, match="turn 2 .assistant. is empty"):
        encoder.encode_answers(turns("q"), ["yes", ""])
    full, empty = encoder.encode_answers(turns("q"), ["yes", " "], may_be_empty=True)
    prompt = encoder.encode_prompt(turns("q"))
    assert empty.ids[: len(prompt)] == prompt and empty.ids[-1] == full.ids[-1] == encoder.stop_id
    assert encoder.decode(empty.ids[len(prompt) :]) == ""


def test_templates_of_older_checkpoints_stay_what_they_were(repository):
    assert template_of(repository, "vicuna_v1").model_dump(mode="json").keys() == {
        *("name", "system", "system_prefix", "system_suffix", "user_prefix", "user_suffix", "assistant_prefix"),
        *("answer_prefix", "stop", "separator"),
    }
    nemo = template_of(repository, "nemo_aligner")
    bare = nemo.model_copy(update={"later_user_prefix": "", "attributes_prefix": ""})
    for template in (nemo, bare):
        assert ChatTemplate.from_config(template.model_dump(mode="json")) == template


def as_parts(turn: Turn) -> dict:
    parts = [{"type": "image"}] * turn.content.count("<image>\n")
    return {"role": turn.role, "content": [*parts, {"type": "text", "text": turn.content.replace("<image>\n", "")}]}


@pytest.mark.parametrize("generate", [False, True])
@pytest.mark.parametrize(
    "conversation", [CHAT, turns("q"), turns("<image>\n<image>\nq", 'a "quoted" {{ä}}', system="S é")]
)
def test_jinja_renders_the_same_text(template, helpsteer, conversation, generate):
    tokenizer = toy_tokenizers.byte_level()
    given = {"tokenize": False, "add_generation_prompt": generate, "chat_template": template.jinja(helpsteer)}
    plain = [{"role": turn.role, "content": turn.content} for turn in conversation]
    for messages in (plain, [as_parts(turn) for turn in conversation]):
        assert tokenizer.apply_chat_template(messages, **given) == template.render(conversation, generate)
        turns, asked = template.ask(conversation, helpsteer, VALUES)
        steered = template.render(turns, generate, asked)
        assert tokenizer.apply_chat_template(messages, **given, attributes=VALUES) == steered
        turns, asked = template.ask(conversation, helpsteer, helpsteer.complete({"verbosity": 0}))
        defaults = template.render(turns, generate, asked)
        assert tokenizer.apply_chat_template(messages, **given, attributes={"verbosity": 0.0}) == defaults


def test_jinja_without_a_schema_refuses_attributes(vicuna):
    given = {"tokenize": False, "chat_template": vicuna.jinja()}
    messages = [{"role": "user", "content": "q"}]
    assert toy_tokenizers.byte_level().apply_chat_template(messages, **given) == f"{SYSTEM} USER: q "
    with pytest.raises(Exception, match="without attributes"):
        toy_tokenizers.byte_level().apply_chat_template(messages, **given, attributes=VALUES)


def runs(sequence: EncodedSequence) -> list[list[int]]:
    """Runs of consecutive tokens with loss."""
    found, previous = [], False
    for token, trained in zip(sequence.ids, sequence.loss_mask, strict=True):
        if trained and not previous:
            found.append([])
        if trained:
            found[-1].append(token)
        previous = trained
    return found


def test_loss_is_on_answers_and_their_stop_tokens(tokenizer, template):
    encoder = encoder_of(tokenizer, template)
    sequence = encoder.encode_example(CHAT)
    answers = runs(sequence)
    assert [answer[-1] for answer in answers] == [encoder.stop_id] * 2 and sequence.ids[-1] == encoder.stop_id
    expected = ["A red circle.", "yes, I think"]
    assert [encoder.decode(answer).replace(" .", ".").replace(" ,", ",") for answer in answers] == expected
    assert sequence.num_answer_tokens == sum(map(len, answers)) < len(sequence)


@pytest.mark.parametrize("conversation", [CHAT, CHAT[:2], turns("q", "Žluťoučký 🐎 (x)", system="")])
def test_an_example_begins_with_its_generation_prompt(tokenizer, template, helpsteer, conversation):
    encoder = encoder_of(tokenizer, template, helpsteer)
    for attributes in (None, VALUES):
        prompt = encoder.encode_prompt(conversation[:-1], attributes)
        sequence = encoder.encode_example(conversation, attributes)
        assert sequence.ids[: len(prompt)] == prompt
        assert all(sequence.loss_mask[len(prompt) :]) and not sequence.loss_mask[len(prompt) - 1]
        assert sequence.prompt_length == (len(prompt) if len(conversation) < 4 else sequence.loss_mask.index(True))


def test_answers_are_the_same_tokens_whatever_spaces_surround_them(tokenizer, template):
    encoder = encoder_of(tokenizer, template)
    assert encoder.encode_example(turns("q", "\n yes \n")) == encoder.encode_example(turns("q", "yes"))


def test_each_image_takes_its_tokens(tokenizer, template):
    encoder = encoder_of(tokenizer, template)
    none, two = (encoder.encode_prompt(turns(f"{images}q")) for images in ("", "<image><image>"))
    place = two.index(encoder.image_token_id)
    assert two[place : place + 6] == [encoder.image_token_id] * 6
    assert two.count(encoder.image_token_id) == 6 and none.count(encoder.image_token_id) == 0
    assert encoder.decode(two) == encoder.decode([token for token in two if token != encoder.image_token_id])


def test_bos_follows_the_tokenizers_convention(vicuna, template):
    llama, plain = toy_tokenizers.llama_like(), toy_tokenizers.byte_level()
    bos = llama.bos_token_id
    prompt = encoder_of(llama, vicuna).encode_prompt(turns("q"))
    assert prompt[0] == bos and prompt.count(bos) == 1
    text = vicuna.render(turns("q"), add_generation_prompt=True)
    assert prompt == llama(text).input_ids
    assert not encoder_of(plain, template).add_bos


def test_a_bos_that_the_template_writes_is_not_doubled(repository):
    chatml = ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/chatml.yaml").read_text()))
    tokenizer = toy_tokenizers.llama_like(bos="<|im_start|>")
    assert tokenizer("q").input_ids[0] == tokenizer.bos_token_id
    assert encoder_of(tokenizer, chatml).encode_prompt(turns("q"))[:2].count(tokenizer.bos_token_id) == 1


def test_a_preference_has_loss_on_the_two_last_answers_only(tokenizer, template, helpsteer):
    pair = PreferenceExample(id="1", images=("a.png",), turns=tuple(CHAT[:-1]), chosen="yes", rejected="no, I think")
    encoder = encoder_of(tokenizer, template, helpsteer)
    chosen, rejected = encoder.encode_preference(pair)
    prompt = encoder.encode_prompt(CHAT[:-1])
    for sequence, text in ((chosen, "yes"), (rejected, "no, I think")):
        assert sequence.ids[: len(prompt)] == prompt and sequence.prompt_length == len(prompt)
        assert encoder.decode(sequence.ids[len(prompt) :]).replace(" ,", ",") == text
    assert PAIRS.encode(pair, encoder).sequences == [chosen, rejected]


@pytest.mark.parametrize(
    ("conversation", "fault"),
    [
        (turns("say </s>", "a"), "turn 1 .user. contains '</s>'"),
        (turns("q", "a<s>b"), "turn 2 .assistant. contains '<s>'"),
        (turns("q", "a", system="<|im_start|>"), "turn 1 .system. contains"),
        (turns("q", "an <image>"), "may only stand in a user turn"),
        (turns("q", " \n"), "turn 2 .assistant. is empty"),
        (turns("q"), "end with an assistant turn"),
    ],
)
def test_text_that_would_not_train_as_it_reads_is_refused(tokenizer, template, conversation, fault):
    with pytest.raises(UserError, match=fault):
        encoder_of(tokenizer, template).encode_example(conversation)


def test_attributes_need_a_schema_and_a_prompt_a_user_turn(tokenizer, template):
    encoder = encoder_of(tokenizer, template)
    with pytest.raises(UserError, match="attribute_schema"):
        encoder.encode_prompt(turns("q"), VALUES)
    with pytest.raises(UserError, match="end with a user turn"):
        encoder.encode_prompt(turns("q", "a"))


def test_a_token_across_prompt_and_answer_is_refused(vicuna):
    glued = vicuna.model_copy(update={"answer_prefix": ""})
    encoder = encoder_of(toy_tokenizers.word_level(), glued.model_copy(update={"assistant_prefix": "ASSISTANT"}))
    with pytest.raises(UserError, match="token boundary"):
        encoder.encode_example(turns("q", "yes"))


def test_tokens_that_the_tokenizer_lacks_are_named(vicuna):
    tokenizer = toy_tokenizers.byte_level()
    with pytest.raises(UserError, match="'<eot>' is not one token"):
        encoder_of(tokenizer, vicuna.model_copy(update={"stop": "<eot>"}))
    with pytest.raises(UserError, match="image_token_id is 7"):
        Encoder(tokenizer, vicuna, 7, 3)
    before = len(tokenizer)
    assert add_image_token(tokenizer) == tokenizer.convert_tokens_to_ids("<image>") and len(tokenizer) == before


def test_a_hugging_face_processor_gives_the_same_ids(vicuna, helpsteer):
    from transformers import CLIPImageProcessor, LlavaProcessor

    tokenizer = toy_tokenizers.llama_like()
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28})
    processor = LlavaProcessor(
        images, tokenizer, 14, "default", vicuna.jinja(helpsteer), "<image>", num_additional_image_tokens=1
    )
    question = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    messages = [{"role": "user", "content": question}]
    text = processor.apply_chat_template(messages, add_generation_prompt=True, attributes=VALUES)
    ids = processor(text=text, images=Image.new("RGB", (28, 28))).input_ids[0]
    encoder = Encoder(tokenizer, vicuna, tokenizer.convert_tokens_to_ids("<image>"), 4, helpsteer)
    assert encoder.encode_prompt(turns("<image>\nWhat is it?"), VALUES) == list(ids)


@pytest.mark.slow
def test_chatml_is_smollm2s_own_template(smollm2_gguf, repository, helpsteer):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    chatml = ChatTemplate.from_config(yaml.safe_load((repository / "conf/template/chatml.yaml").read_text()))
    for conversation in (CHAT[:3], [*CHAT[:3], turns("", "sure")[1]], turns("q", system="Be brief.")):
        messages = [{"role": turn.role, "content": turn.content} for turn in conversation]
        for generate in (False, True):
            own = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=generate)
            assert chatml.render(conversation, generate) == own
    assert add_image_token(tokenizer) == 49152
    encoder = Encoder(tokenizer, chatml, 49152, 3, helpsteer)
    assert (encoder.stop_id, encoder.pad_id, encoder.add_bos) == (2, 2, False)
    sequence = encoder.encode_example(CHAT, VALUES)
    assert [encoder.decode(answer) for answer in runs(sequence)] == ["A red circle.", "yes, I think"]
    expected = tokenizer(chatml.render(with_attributes(CHAT, helpsteer, VALUES)), add_special_tokens=False).input_ids
    assert [token for token in sequence.ids if token != 49152] == [token for token in expected[:-1] if token != 49152]
