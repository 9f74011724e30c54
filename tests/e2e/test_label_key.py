"""The API key shows nowhere: not in files, not in logs, not in tracebacks, whatever the service and the client do with it."""

from pathlib import Path

import pytest

from tests.e2e.test_label import CONCURRENCY, KEY, Command, assert_complete, attempts
from tests.judge_server import Exchange, Reply, error, generated, honest, judge_server, make_files

pytestmark = pytest.mark.e2e

PIECES = [KEY[start : start + 10] for start in range(5, len(KEY) - 10)]
"""No part of the key may show either: bodies are cut, and the cut may fall into it."""


def echoes(exchange: Exchange) -> list[Reply]:
    """Replies that repeat the key in places where a client, a log or an exception may pick it up."""
    key = exchange.headers["x-goog-api-key"]
    return [
        error(400, f"bad request with {key}"),
        error(500, details=[{"reason": key}]),
        Reply("x" * 19_990 + key, 500, {"Content-Type": "text/plain"}),
        Reply(f"<html>{key}</html>", headers={"Content-Type": "text/html"}),
        Reply(f"not gzip: {key}", headers={"Content-Encoding": "gzip"}),
        Reply(f'{{"{key}": 1}}'),  # unknown fields are quoted by the client's parser
        Reply(generated(f"Your key is {key}.")),
        Reply(generated("{}", key)),
        Reply({"promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": key}}),
        with_key(honest(exchange), key),
        error(429, "slow down", Retry_After=key),
    ]


def with_key(reply: Reply, key: str) -> Reply:
    """The key in the reasoning of a judgement that is otherwise fine: it is not used, and not changed either."""
    assert isinstance(reply.body, dict)
    part = reply.body["candidates"][0]["content"]["parts"][0]
    part["text"] = part["text"].replace("on red", f"on red {key}")
    return reply


@pytest.mark.parametrize("full_error", [False, True], ids=["", "HYDRA_FULL_ERROR"])
def test_a_service_that_repeats_the_key_finds_no_listener(
    tmp_path: Path, repository: Path, full_error: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = make_files(tmp_path, 14)
    order = {files.question(index): index for index in range(14)}

    def behaviour(exchange: Exchange) -> Reply | None:
        replies = echoes(exchange)
        index = order[exchange.question]
        return replies[index] if index < len(replies) else None

    if full_error:
        monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
        monkeypatch.setenv("GOOGLE_SDK_PYTHON_LOGGING_SCOPE", "google")
    with judge_server(behaviour) as server:
        command = Command(repository, files, server)
        code, output = command.run("hydra.verbose=true", "runner.max_attempts=2", "runner.max_backoff_s=0.05")
        echoed = {order[exchange.question] for exchange in server.exchanges}
    assert code == (1 if full_error else 2) and ("Traceback" in output) == full_error
    assert "11 of 14 prompts have no annotation" in output and echoed == set(range(14))
    assert '"POST /v1beta' in output, "the check means something only if debug messages were there"
    contents = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    everything = b"".join([*contents, output.encode()])
    assert everything.count(b"[API key]") > 12, "the replies with the key in them were recorded"
    assert not any(piece.encode() in everything for piece in PIECES)
    kinds = {line["prompt_id"]: line.get("kind") for line in attempts(files)}
    assert [kinds[f"p{index}"] for index in (0, 3, 4, 5, 6, 9, 11)] == [
        "bad_request",
        "server",
        "server",
        "server",
        "server",  # prose with the key in it: what repeats the key is not read at all
        "server",
        None,
    ]
    assert not (tmp_path / "outputs").exists() and not list(tmp_path.glob("*.log"))


@pytest.mark.parametrize("location", ["http://[{key}", "http://{key}.example/?key={key}"])
def test_a_redirect_ends_the_run_and_is_asked_again_later(location: str, tmp_path: Path, repository: Path) -> None:
    files = make_files(tmp_path, 14)
    moved = [True]

    def behaviour(exchange: Exchange) -> Reply | None:
        return Reply("", 307, {"Location": location.format(key=exchange.headers["x-goog-api-key"])}) if moved else None

    with judge_server(behaviour) as server:
        command = Command(repository, files, server)
        code, output = command.run()
        asked = len(server.exchanges)
        moved.clear()
        again, _ = command.run()
    assert (code, again) == (2, 0) and asked <= CONCURRENCY
    assert "the service works for no prompt: HTTP 307" in output and "no redirect is followed" in output
    assert not any(piece.lower() in output.lower() for piece in PIECES)
    assert_complete(files)
