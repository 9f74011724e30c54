"""The server asked as evaluation and curation kits ask: their bodies and headers, and what they read of a reply.

Written after VLMEvalKit's `vlmeval/api/gpt.py`, lmms-eval's `models/chat/openai.py` with `protocol.py`, and NeMo-Curator's
`models/client/openai_client.py`; none of them is installed. Each must get the answers that the official client gets.
"""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import openai
import pytest
import requests
from PIL import Image

from tests.decoding_model import make_folder
from tests.serving_process import KEY, ServingProcess, serving

pytestmark = pytest.mark.e2e

SETTINGS = [
    "template=vicuna_v1",
    "template.system=''",
    "attribute_schema=helpsteer",
    "slots=2",
    "max_waiting=1",
    "length=1000",
    "name=tiny",
]
QUESTIONS = [f"w{number} w{2 * number} w9" for number in range(8)]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServingProcess]:
    folder = tmp_path_factory.mktemp("clients")
    make_folder(folder / "model")
    with serving(folder, f"checkpoint={folder}/model", *SETTINGS) as found:
        yield found


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    return Image.radial_gradient("L").resize((120, 110)).convert("RGB")


@dataclass(frozen=True)
class Answer:
    """What a client reads, and what the model was asked for, which it does not: the small model's words hold no numbers."""

    text: str
    attributes: dict[str, float] | None


def official(server: ServingProcess, content: Any, tokens: int = 16, **more: Any) -> Answer:
    reply = server.client(retries=5).chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": content}], temperature=0, max_tokens=tokens, **more
    )
    return Answer(str(reply.choices[0].message.content), reply.choices[0].attributes)


def steered(verbosity: int, complexity: int = 2) -> dict[str, Any]:
    return {"extra_body": {"attributes": {"verbosity": verbosity, "complexity": complexity}}}


def data_url(picture: Image.Image, kind: str) -> str:
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


@dataclass
class Kit:
    """As VLMEvalKit: raw JSON over `requests`, pictures as JPEG with their detail, the whole of the reply by hand."""

    server: ServingProcess
    model: str = "tiny"
    extra_body: dict[str, Any] | None = None

    def ask(self, parts: Sequence[dict[str, Any]], tokens: int = 16) -> tuple[int, Answer]:
        payload = {"model": self.model, "messages": [{"role": "user", "content": list(parts)}], "n": 1, "temperature": 0,
                   "max_tokens": tokens, **(self.extra_body or {})}  # fmt: skip
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
        reply = requests.post(
            f"{self.server.address}/v1/chat/completions", headers=headers, data=json.dumps(payload), timeout=66
        )
        status = 0 if 200 <= reply.status_code < 300 else reply.status_code
        try:
            choice = json.loads(reply.text)["choices"][0]
            return status, Answer(choice["message"]["content"].strip(), choice["attributes"])
        except KeyError:
            return status, Answer(json.loads(reply.text)["error"]["message"], None)


def test_vlmevalkit_asks_with_a_detail_and_steers_by_its_extra_body(
    server: ServingProcess, picture: Image.Image
) -> None:
    shown = [
        {"type": "image_url", "image_url": {"url": data_url(picture, "JPEG"), "detail": "low"}},
        {"type": "text", "text": "w3 w4"},
    ]
    assert Kit(server).ask(shown) == (0, official(server, shown))
    short = Kit(server, extra_body={"chat_template_kwargs": {"attributes": {"verbosity": 0}}})
    assert short.ask(shown) == Kit(server, "tiny@verbosity=0").ask(shown) == (0, official(server, shown, **steered(0)))
    assert short.ask(shown) != Kit(server).ask(shown)
    status, said = Kit(server).ask([{"type": "text", "text": "w1"}], tokens=32_768)
    assert status == 400 and "maximum context length is 1000 tokens" in said.text, "its --max-tokens unless set"


def lmms_eval(server: ServingProcess, model: str, contents: Sequence[Any]) -> list[tuple[Answer, int, int]]:
    """As lmms-eval: 32 at a time by the official client, five tries of its own around those of the client."""
    client = openai.OpenAI(api_key=KEY, base_url=f"{server.address}/v1/".rstrip("/"))

    def one(content: Any) -> tuple[Answer, int, int]:
        payload = {
            "messages": [{"role": "user", "content": content}],
            "model": model,
            "max_tokens": min(16, 4096),
            "temperature": 0,
        }
        for attempt in range(5):
            try:
                reply = client.chat.completions.create(**payload)
            except Exception:
                assert attempt < 4, "it would write its failure down as the answer"
                continue
            assert getattr(reply.usage, "completion_tokens_details", None) is None, "no tokens of reasoning are claimed"
            (choice,) = reply.choices
            answer = Answer(choice.message.content, choice.attributes)
            return answer, reply.usage.prompt_tokens, reply.usage.completion_tokens
        raise AssertionError

    with ThreadPoolExecutor(32) as pool:
        return list(pool.map(one, contents))


def model_args(text: str) -> dict[str, str]:
    """As lmms-eval reads its settings: parted at each comma, each at its first equals sign."""
    return dict(part.split("=", 1) for part in text.split(",") if part)


def test_lmms_eval_steers_by_several_attributes_in_a_name(server: ServingProcess, picture: Image.Image) -> None:
    given = model_args("model_version=tiny@verbosity=0;complexity=4,api_key=none,timeout=300")
    shown = [{"type": "image_url", "image_url": {"url": data_url(picture, "PNG")}}, {"type": "text", "text": "w3 w4"}]
    contents = [shown, *([{"type": "text", "text": question}] for question in QUESTIONS)]
    found = lmms_eval(server, given["model_version"], contents)
    assert [answer for answer, _, _ in found] == [official(server, content, **steered(0, 4)) for content in contents]
    assert all(prompt > 5 and 0 < length <= 16 for _, prompt, length in found)
    assert lmms_eval(server, "tiny@verbosity=0+complexity=4", contents[:2]) == found[:2]
    assert lmms_eval(server, "tiny@verbosity=0", contents) != found


async def curator(server: ServingProcess, model: str, **extra: Any) -> list[list[Answer]]:
    """As NeMo-Curator: five at a time by the asynchronous client, with all its defaults, further tries after a 429."""
    client, limit = (
        openai.AsyncOpenAI(api_key=KEY, base_url=f"{server.address}/v1", max_retries=0),
        asyncio.Semaphore(5),
    )

    async def one(question: str) -> list[Answer]:
        async with limit:
            for attempt in range(8):
                try:
                    reply = await client.chat.completions.create(
                        messages=[{"role": "user", "content": question}], model=model, max_tokens=16, n=1, seed=0, stop=None,
                        stream=False, temperature=0.0, top_p=0.95, timeout=120, **extra,
                    )  # fmt: skip
                except openai.RateLimitError as error:
                    assert "429" in str(error), "by which it knows that another try is worth it"
                    await asyncio.sleep(0.1 * 2**attempt)
                    continue
                return [Answer(str(choice.message.content), choice.attributes) for choice in reply.choices]
        raise AssertionError("still full after eight tries")

    return await asyncio.gather(*(one(question) for question in QUESTIONS))


def test_nemo_curator_asks_and_steers(server: ServingProcess) -> None:
    plain = asyncio.run(curator(server, "tiny"))
    assert plain == [[official(server, question)] for question in QUESTIONS]
    wanted = [[official(server, question, **steered(0))] for question in QUESTIONS]
    assert asyncio.run(curator(server, "tiny@verbosity=0")) == wanted != plain
    kwargs = {"chat_template_kwargs": {"attributes": {"verbosity": 0}}}
    assert asyncio.run(curator(server, "tiny", extra_body=kwargs)) == wanted


def test_clients_that_come_in_a_crowd_try_again_and_are_all_answered(server: ServingProcess) -> None:
    """More at a time than slots and queue hold: the client of `openai` waits as long as it is told to."""
    client = openai.OpenAI(api_key=KEY, base_url=f"{server.address}/v1", max_retries=30, timeout=120)

    def one(question: str) -> tuple[str | None, Answer]:
        reply = client.chat.completions.with_raw_response.create(
            model="tiny", messages=[{"role": "user", "content": question}], temperature=0, max_tokens=16,
            extra_headers={"X-Request-Id": question.replace(" ", "-")},
        )  # fmt: skip
        choice = reply.parse().choices[0]
        return reply.headers["X-Request-Id"], Answer(str(choice.message.content), choice.attributes)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(one, QUESTIONS))
    assert found == [(question.replace(" ", "-"), official(server, question)) for question in QUESTIONS]
