"""Refusals that are the service's and not the sample's, in this version's lines and in earlier ones."""

import pytest

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.llm.refusals import kind_of_error, kind_of_recorded
from tests.judge_server import (
    Files,
    Reply,
    judge_server,
)
from tests.unit.ledger.runs import COUNT, JUDGES, Run, assert_right, lines_of, write_lines


def refusal(status: int, message: str, name: str = "", code: str = "") -> Reply:
    return Reply({"error": {"code": code or status, "message": message, "status": name}}, status)


REFUSALS = {
    "place": (400, "User location is not supported for the API use.", "FAILED_PRECONDITION"),
    "billing": (400, "Your credit balance is too low to access the API.", ""),
    "plan": (400, "Enable billing on your project in the console.", "FAILED_PRECONDITION"),
    "not enabled": (403, "Generative Language API has not been used in project 1 before or it is disabled.", ""),
    "account": (400, "Access denied: this account was suspended.", ""),
    "debt": (400, "Arrearage", ""),
    "unpaid": (402, "Payment required", ""),
    "address": (404, "Not Found", ""),
    "method": (405, "Method Not Allowed", ""),
    "law": (451, "not here", ""),
}


@pytest.mark.parametrize("judge", JUDGES)
@pytest.mark.parametrize(("status", "message", "name"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_of_the_service_stops_the_run_and_is_asked_again(
    status, message, name, judge, run: Run, files
) -> None:
    refuses = [True]
    with judge_server(lambda exchange: refusal(status, message, name) if refuses else None) as server:
        with pytest.raises(
            UserError, match=rf"the service works for no prompt: HTTP {status}: .*start the same command"
        ):
            run(server, judge)
        assert len(server.exchanges) == 1
        assert [line.get("kind") for line in lines_of(files)] == [None, "refused"]
        refuses.clear()
        assert run(server, judge).tally.answered == COUNT
    assert_right(files)


OWN = (
    "the image is too large",
    "Request payload size exceeds the limit",
    "a country house in the region of the lake",
    "disabled",
)


@pytest.mark.parametrize("message", OWN)
def test_a_refusal_of_a_request_is_its_own(message: str) -> None:
    assert kind_of_error(400, f"{message} INVALID_ARGUMENT") == "bad_request"
    assert kind_of_error(422, message) == "bad_request"


def test_a_quota_that_passes_is_no_refusal() -> None:
    text = "You exceeded your current quota, please check your plan and billing details."
    assert kind_of_error(429, text) == "rate_limit"
    assert kind_of_error(429, "insufficient_quota") == "refused"
    assert [kind_of_error(status, "") for status in (0, 204, 307, 401, 403, 407, 408, 409, 425, 500, 504)] == [
        "server",
        "server",
        "refused",
        "auth",
        "auth",
        "auth",
        "timeout",
        "server",
        "server",
        "server",
        "timeout",
    ]


OLD_LINES = {
    "place": ("bad_request", "HTTP 400: User location is not supported for the API use.", "{}"),
    "place in the body": ("bad_request", "HTTP 400: no", '{"error": {"status": "FAILED_PRECONDITION"}}'),
    "moved": ("bad_request", "HTTP 307: moved to http://elsewhere/", ""),
    "address": ("bad_request", "HTTP 404: Not Found", ""),
    "image": ("bad_request", "/data/a: b/0.png: no such image. Check the record's path and the image root.", ""),
    "image of another kind": ("bad_request", "0.png: neither PNG, JPEG, WebP nor GIF. Convert it to PNG or JPEG.", ""),
    "natural end": ("unparsable", "the reply ended with eos_token", ""),
}


@pytest.mark.parametrize(("kind", "message", "raw"), OLD_LINES.values(), ids=OLD_LINES)
def test_earlier_ledgers_set_nothing_aside_for_the_services_faults(kind, message, raw, run: Run, files: Files) -> None:
    with judge_server() as server:
        run(server)
        lines = lines_of(files)
        for line in lines[1:]:
            line.update(status="failed", kind=kind, message=message, raw=raw)
        write_lines(files, [lines[0], *(line for line in lines[1:] for _ in range(5))])
        assert run(server).tally.answered == COUNT
    assert_right(files)


def test_the_samples_own_faults_stay_its_own() -> None:
    own = (
        ("bad_request", "HTTP 400: Invalid image"),
        ("bad_request", "prompt 'x' has no valid truth"),
        ("unparsable", "the reply ended with OTHER"),
        ("unparsable", "the reply ended with tool_calls"),
        ("unparsable", "no rating of candidate 2 of 3"),
        ("safety", "the reply was blocked (SAFETY)"),
    )
    assert [kind_of_recorded(kind, message, "") for kind, message in own] == [kind for kind, _ in own]
