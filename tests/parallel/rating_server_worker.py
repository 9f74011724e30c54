"""One rank of test_rating_server.py: an attribute model over HTTP in one layout after the other, and what clients were told."""

from __future__ import annotations

import base64
import json
import socket
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import requests
import uvicorn
from openai import APIStatusError, OpenAI

from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.schema.records import Turn
from nemo_mm_align.serving.gate import Gate
from nemo_mm_align.serving.led_rater import LedRater
from nemo_mm_align.serving.metrics import ServerMetrics
from nemo_mm_align.serving.pictures import PictureStore
from nemo_mm_align.serving.rating_engine import RatingEngine
from nemo_mm_align.serving.rating_routes import RatingRoutes
from nemo_mm_align.serving.reading import BodyReader
from nemo_mm_align.serving.served_model import ServedModel
from tests.attribute_checkpoints import helpsteer
from tests.parallel.each_layout import in_each_layout
from tests.served_app import LIMITS, application

LAYOUTS = {"tp2": ParallelConfig(2), "pp2": ParallelConfig(1, 2)}
NAME = "rater"
LENGTH = 96
WAITING = 40
TEXT_ONLY = "p0"
JSON = {"Content-Type": "application/json"}


def conversations(folder: Path) -> dict[str, list[list[dict[str, Any]]]]:
    """Each prompt's candidates as lists of messages, the pictures as data URLs."""
    candidates = {
        line["prompt_id"]: line["candidates"] for line in map(json.loads, (folder / "candidates.jsonl").open())
    }
    found = {}
    for prompt in map(json.loads, (folder / "prompts.jsonl").open()):
        question = {"role": "user", "content": _parts(prompt, folder)}
        answers = [{"role": "assistant", "content": one["text"]} for one in candidates[prompt["id"]]]
        found[prompt["id"]] = [[question, answer] for answer in answers]
    return found


def _parts(prompt: dict[str, Any], folder: Path) -> list[dict[str, Any]]:
    """Text and pictures of the question, in turn."""
    first, *texts = prompt["turns"][0]["content"].split("<image>\n")
    parts: list[dict[str, Any]] = [{"type": "text", "text": first}]
    for name, text in zip(prompt["images"], texts, strict=True):
        picture = base64.b64encode((folder / name).read_bytes()).decode()
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}})
        parts.append({"type": "text", "text": text})
    return parts


class Server:
    """The routes over a real socket."""

    def __init__(self, engine: RatingEngine, served: ServedModel, readers: Executor) -> None:
        gate, metrics = Gate(100), ServerMetrics(NAME, lambda: engine.figures, engine.slots)
        routes = RatingRoutes(served, helpsteer(), engine, metrics, BodyReader(LIMITS, gate, readers))
        app = application([routes.router()], engine, gate, metrics)
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]})

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def reward(client: OpenAI, messages: list[dict[str, Any]], model: str = NAME) -> dict[str, float]:
    """What NeMo-Curator 0.9's ``OpenAIClient.query_reward_model`` makes of a reply."""
    response = client.chat.completions.create(messages=messages, model=model)  # type: ignore[arg-type]
    assert response.choices[0].logprobs is not None
    return {score.token: score.logprob for score in response.choices[0].logprobs.content or ()}


def ask(url: str, opened: OpenedModel, folder: Path) -> dict[str, Any]:
    """All that a client is told."""
    client, asked = OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0), conversations(folder)
    every = [one for several in asked.values() for one in several]
    with ThreadPoolExecutor(8) as threads:
        rewards = list(threads.map(lambda one: reward(client, one), every))
    text = asked[TEXT_ONLY][0]
    question, answer = text[0]["content"][0]["text"], text[1]["content"]
    (sequence,) = opened.encoder.encode_answers([Turn(role="user", content=question)], [answer])
    shortest = next(several for several in asked.values() if len(several) > 1)
    return {
        "rewards": rewards,
        "chat": client.chat.completions.create(messages=text, model=NAME, temperature=0).model_dump(),  # type: ignore[arg-type]
        "several": requests.post(f"{url}/v1/chat/completions", json={"messages": shortest}).json(),
        "classify": requests.post(f"{url}/classify", json={"messages": every, "use_activation": False}).json(),
        "within": requests.post(f"{url}/classify", json={"messages": every, "model": NAME}).json(),
        "ids": requests.post(f"{url}/classify", json={"input": [sequence.ids] * 2, "use_activation": False}).json(),
        "pooling": requests.post(f"{url}/pooling", json={"messages": text, "task": "classify"}).json(),
        "packed": requests.post(f"{url}/pooling", json={"messages": text, "encoding_format": "base64"}).json(),
        "ignored": dict(requests.post(f"{url}/classify", json={"messages": text, "top_k": 3}).headers),
        "refused": refusals(client, url, text),
        "metrics": requests.get(f"{url}/metrics").text,
    }


def refusals(client: OpenAI, url: str, text: list[dict[str, Any]]) -> dict[str, Any]:
    """Statuses and errors of what cannot be rated."""
    found: dict[str, Any] = {}
    calls: dict[str, Callable[[], Any]] = {
        "question": lambda: reward(client, text[:1]),
        "model": lambda: reward(client, text, "another"),
        "stream": lambda: client.chat.completions.create(messages=text, model=NAME, stream=True),  # type: ignore[call-overload]
        "long": lambda: reward(client, [text[0], {"role": "assistant", "content": "five " * LENGTH}]),
    }
    for name, call in calls.items():
        try:
            found[name] = call()
        except APIStatusError as error:
            found[name] = [error.status_code, error.body]
    bodies = {
        "none": {}, "both": {"messages": text, "input": "a"}, "empty": {"input": []}, "image": {"input": "<image> a"},
        "token": {"input": [10**6]}, "nested": {"messages": [text, text[:1]]}, "many": {"messages": [text] * (WAITING + 1)},
    }  # fmt: skip
    for name, body in bodies.items():
        reply = requests.post(f"{url}/classify", json=body)
        found[name] = [reply.status_code, reply.json()["error"]]
    found["json"] = [
        (reply := requests.post(f"{url}/classify", data="{", headers=JSON)).status_code,
        reply.json()["error"],
    ]
    return found


def serve(folder: Path, parallel: ParallelConfig) -> dict[str, Any]:
    opened = open_for_inference(folder / "run", parallel, "fp32", rates=True)
    rater = LedRater(opened.rater(max_batch_tokens=4 * LENGTH), LENGTH)
    if not rater.leads:
        rater.follow()
        return {}
    engine = RatingEngine(rater, WAITING)
    served = ServedModel(NAME, opened.encoder, PictureStore(opened.image_processor), LENGTH, engine.slots)
    with ThreadPoolExecutor(2) as readers, Server(engine, served, readers) as server, ThreadPoolExecutor(1) as thread:
        told = thread.submit(ask, server.url, opened, folder)
        told.add_done_callback(lambda future: engine.end())
        engine.run()
        assert engine.idle
        return told.result()


if __name__ == "__main__":
    in_each_layout(LAYOUTS, serve, Path(sys.argv[1]), Path(sys.argv[2]))
