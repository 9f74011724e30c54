"""All judges that ask a service, over HTTP against the local server: what each sends, and every way in which it fails."""

import logging
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from PIL import Image

import nemo_mm_align.llm.clients.question_images
from nemo_mm_align.labeling.judge import CountsTokens, price_of
from nemo_mm_align.llm.failures import CallFailure
from nemo_mm_align.schema.attributes import AttributeSchema
from tests.judge_server import FAULTS, Files, error, judge_server, reference_answer, true_ratings
from tests.unit.judges.services import (
    KEY,
    PRICE,
    TEXTS,
    MakeJudge,
    anthropic,
    ask,
    failure_of,
    gemini,
    google_genai,
    openai,
)
from tests.waiting import wait_until


@pytest.fixture(params=[gemini, google_genai, openai, anthropic], ids=lambda make: make.__name__)
def make(request) -> MakeJudge:
    return request.param


def test_ratings_follow_image_and_candidate(make: MakeJudge, files: Files, helpsteer: AttributeSchema) -> None:
    with judge_server() as server:
        judge = make(server.address, price=PRICE)
        for index in range(3):
            reply = judge.judge(ask(files, helpsteer, index, want_reference=True))
            assert list(reply.ratings) == [true_ratings(files.image(index), text) for text in TEXTS]
            assert reply.reference_answer == reference_answer(files.image(index))
            assert (reply.reasoning[0], reply.model_version) == ("on red", "test-001")
            assert reply.usage == {"input_tokens": 100, "output_tokens": 50}
    assert [exchange.images for exchange in server.exchanges] == [[files.image(index)] for index in range(3)]
    assert [exchange.mime_types[0] for exchange in server.exchanges] == ["image/png", "image/jpeg", "image/webp"]
    price = price_of(judge)
    assert price is not None and price.cost(1e6, 5e5) == 3.0


def test_every_fault_has_its_class_and_is_not_retried_by_the_client(make, files, helpsteer) -> None:
    found = {}
    names = [name for name in FAULTS if make is not gemini or name not in ("slow", "stall")]  # others have those below
    for name in names:
        with judge_server(lambda exchange, name=name: FAULTS[name].reply(exchange)) as server:
            with pytest.raises(CallFailure) as caught:
                make(server.address, timeout_s=0.5 if name in ("slow", "stall") else 60).judge(ask(files, helpsteer))
            wait_until(lambda server=server: server.exchanges)  # the client may have given up before the server read
            assert len(server.exchanges) == 1, name
        found[name] = caught.value.kind
        if name == "page":
            assert "log in to the proxy" in caught.value.raw, "what came instead of a reply is kept"
        assert KEY not in f"{caught.value}{caught.value.raw}{caught.value.__cause__}"
    expected = {name: FAULTS[name].kind for name in names}
    if make in (openai, anthropic):  # their protocols know no other reason
        expected["recitation"] = "safety"
    assert found == expected


def test_waits_are_read_from_headers(make, files: Files, helpsteer: AttributeSchema) -> None:
    begun = datetime.now(UTC)
    date = format_datetime(begun + timedelta(seconds=90), usegmt=True)
    until_date = failure_of(make, error(503, Retry_After=date), files, helpsteer).retry_after
    passed = (datetime.now(UTC) - begun).total_seconds()
    assert 89 - passed <= until_date <= 90, "to the second"
    assert failure_of(make, error(429, Retry_After="3"), files, helpsteer).retry_after == 3
    assert failure_of(make, error(429, Retry_After_Ms="1500"), files, helpsteer).retry_after == 1.5
    assert failure_of(make, error(429, Retry_After="soon"), files, helpsteer).retry_after is None


def test_the_key_shows_nowhere(make, files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with caplog.at_level(logging.DEBUG):
        echo = failure_of(make, error(400, f"wrong key: {KEY}"), files, helpsteer)
    with judge_server() as server:
        judge = make(server.address)
        judge.judge(ask(files, helpsteer))
        texts = [repr(judge), repr(vars(judge.client)), repr(judge.settings), caplog.text, echo.raw, str(echo)]
    assert "[API key]" in echo.raw and "[API key]" in echo.message
    assert not any(KEY in text for text in texts)
    headers = server.exchanges[0].headers
    assert KEY in (headers.get("x-goog-api-key"), headers.get("authorization", "").removeprefix("Bearer "))


def test_bytes_go_as_they_are_undecoded(make, files: Files, helpsteer: AttributeSchema, monkeypatch) -> None:
    """What the file is called and whether it is whole was the input check's business."""
    path = files.folder / "cut.txt"
    path.write_bytes(files.image(1)[:40])
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("decoded"))
    with judge_server() as server:
        make(server.address).judge(ask(files, helpsteer, image_paths=(path,)))
    assert server.exchanges[0].images == [path.read_bytes()] and server.exchanges[0].mime_types == ["image/jpeg"]


def test_gif_becomes_png_where_the_service_takes_none(make, files, helpsteer, caplog, monkeypatch) -> None:
    monkeypatch.setattr(nemo_mm_align.llm.clients.question_images, "_noted", set())
    path = files.folder / "a.gif"
    Image.new("RGB", (8, 8), (255, 0, 0)).save(path)
    with judge_server() as server:
        judge = make(server.address)
        for _ in range(2):
            judge.judge(ask(files, helpsteer, image_paths=(path,)))
    taken = make in (openai, anthropic)
    assert server.exchanges[0].mime_types == ["image/gif" if taken else "image/png"]
    assert caplog.text.count("sent as PNG") == (0 if taken else 1)


@pytest.mark.parametrize("content", [b"", b"BM not an image", None])
def test_an_image_that_has_gone_or_changed_fails_this_request_alone(make, content, files, helpsteer) -> None:
    asked = ask(files, helpsteer)
    asked.image_paths[0].unlink()
    if content is not None:
        asked.image_paths[0].write_bytes(content)
    with judge_server() as server, pytest.raises(CallFailure, match=r"0\.png") as caught:
        make(server.address).judge(asked)
    assert caught.value.kind == "input" and not server.exchanges


def test_both_clients_of_gemini_share_their_judgements() -> None:
    """The same question to the same model is not paid twice because another client asks it."""
    assert gemini("http://x").settings == google_genai("http://x").settings
    assert "thinking_budget" not in google_genai("http://x").settings
    assert google_genai("http://x", thinking_budget=0).settings["thinking_budget"] == 0


def test_services_count_tokens(files: Files, helpsteer: AttributeSchema) -> None:
    for make in (gemini, google_genai, anthropic):
        with judge_server() as server:
            judge = make(server.address)
            assert isinstance(judge, CountsTokens)
            assert judge.count_tokens(ask(files, helpsteer)) == 100
        assert len(server.counted) == 1 and not server.exchanges


def test_a_call_fills_no_log(make: MakeJudge, files: Files, helpsteer: AttributeSchema, caplog) -> None:
    with judge_server() as server, caplog.at_level(logging.INFO):
        make(server.address).judge(ask(files, helpsteer))
    assert len(server.exchanges) == 1 and not caplog.records, "thousands of calls, thousands of lines"
