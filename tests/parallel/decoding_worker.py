"""One rank of test_decoding.py: answers the same prompts in the layout given, in float64, and writes what came out."""

from __future__ import annotations

import itertools
import json
import sys
import threading
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path

import torch

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.inference import prefixes
from nemo_mm_align.inference.decode import generate_batch
from nemo_mm_align.inference.engine import AnswerStep, Engine, Ticket
from nemo_mm_align.inference.generator import Generator
from nemo_mm_align.inference.led_session import LedSession
from nemo_mm_align.inference.loading import OpenedModel, open_for_inference
from nemo_mm_align.inference.prefill import ImageBatch
from nemo_mm_align.inference.requests import Request, make_requests
from nemo_mm_align.inference.rollout import Dialogue, roll_out
from nemo_mm_align.inference.rows import DecodingRequest, Progress
from nemo_mm_align.inference.sampling_settings import SamplingSettings
from nemo_mm_align.inference.session import DecodingSession
from nemo_mm_align.inference.stage import DecodingStage
from nemo_mm_align.model.config import ParallelConfig
from nemo_mm_align.model.llava import Llava
from nemo_mm_align.parallel import runtime
from nemo_mm_align.parallel.first_rank import share
from nemo_mm_align.schema.records import Prompt, Turn, read_records
from tests.decoding_model import GREEDY, SAMPLED, STOP_IDS, TEMPLATE
from tests.float64 import Float64


def images_of(generator: Generator, requests: list[Request]) -> ImageBatch | None:
    return generator.load([path for request in requests for path in request.encoded.image_paths])


def tokens(generator: Generator, requests: list[Request], settings: SamplingSettings) -> list:
    encoded = [request.encoded for request in requests]
    answers = generate_batch(generator.model, encoded, images_of(generator, requests), settings, STOP_IDS)
    return [[[answer.ids, answer.finish_reason] for answer in row] for row in answers]


def embeddings(model: Llava, images: ImageBatch | None) -> torch.Tensor | None:
    return None if images is None else model.encode_images(images.pixels_NCHW)[images.index_K]


def cache_error(generator: Generator, requests: list[Request], steps: int = 4) -> float:
    """Largest relative difference of logits, decoded with a cache in one batch or computed afresh row by row."""
    model, drawn = generator.model, torch.Generator().manual_seed(1)
    lengths = [len(request.encoded.ids) for request in requests]
    new = torch.randint(5, 90, (len(requests), steps), generator=drawn)
    rows, lengths_B = torch.arange(len(requests)), torch.tensor(lengths)
    ids = torch.tensor([item.encoded.ids + [0] * (max(lengths) - len(item.encoded.ids)) for item in requests])
    images, worst = images_of(generator, requests), 0.0
    cached = DecodingStage(model, len(requests), max(lengths) + steps)
    for step in range(steps + 1):
        if step == 0:
            logits = cached.prefill(ids, lengths_B - 1, rows, rows, embeddings(model, images))
        else:
            columns_B, end = lengths_B + step - 1, max(lengths) + step
            mask = (torch.arange(end) <= columns_B.unsqueeze(1))[:, None, None, :]
            logits = cached.step(new[:, step - 1 : step], columns_B.unsqueeze(1), mask, columns_B, end)
        for row, request in enumerate(requests):
            own = torch.cat([torch.tensor(request.encoded.ids), new[row, :step]]).unsqueeze(0)
            fresh, first = DecodingStage(model, 1, own.shape[1]), torch.zeros(1, dtype=torch.int64)
            pictures = embeddings(model, images_of(generator, [request]))
            expected = fresh.prefill(own, torch.tensor([own.shape[1] - 1]), first, first, pictures)
            if logits is not None:
                finite = expected[0].isfinite()
                difference = (logits[row] - expected[0])[finite].abs().max() / expected[0][finite].abs().max()
                worst = max(worst, float(difference))
    return worst


def led(generator: Generator, requests: list[Request], settings: SamplingSettings) -> tuple[list, list]:
    """The same answers, twice, from a session that one rank leads, in which requests join two at a time while others are at work.

    Prompts are kept, so that the second time little of them is computed. Some ask for log-probabilities: told beside.
    """
    length = max(len(request.encoded.ids) for request in requests) + settings.max_new_tokens
    rows, answers, told, waiting = [], {}, {}, list(zip(requests, itertools.cycle([None, 0, 3]), strict=False)) * 2
    own = DecodingSession(generator.model, 4 * settings.num_samples, length, kept=len(requests))
    with LedSession(own) as session:
        if not session.leads:
            followed: list[Progress] = []
            session.follow(followed.extend)
            assert followed
            return [], []
        while waiting or session.busy:
            if waiting and session.room >= 2 * settings.num_samples:
                group, waiting = waiting[:2], waiting[2:]
                asked = [
                    DecodingRequest(
                        item.encoded, settings, frozenset(STOP_IDS), tuple(map(str, item.encoded.image_paths)), top
                    )
                    for item, top in group
                ]
                rows += session.admit(asked, images_of(generator, [item for item, _ in group]))
            for progress in session.step():
                told.setdefault(progress.row, []).append(progress.logprobs and astuple(progress.logprobs))
                if progress.finish_reason:
                    answers[progress.row] = session.retire(progress.row)
    assert own.reused[1] > 0.3 * own.reused[0], own.reused
    assert own.pictures_reused[0] - own.pictures_reused[1] == 3, "each picture is encoded once"
    flat = [[answers[row].ids, answers[row].finish_reason] for row in rows]
    groups = [flat[start : start + settings.num_samples] for start in range(0, len(flat), settings.num_samples)]
    return groups, [told[row] for row in rows]


@dataclass
class Client:
    """Of an engine; keeps the answers to one request."""

    answers: dict[int, list]

    def stepped(self, ticket: Ticket, steps: Sequence[AnswerStep]) -> None:
        self.answers |= {s.sample: [s.answer.ids, s.answer.finish_reason] for s in steps if s.answer is not None}

    def failed(self, ticket: Ticket, error: BaseException) -> None:
        raise error


def served(generator: Generator, requests: list[Request], settings: SamplingSettings) -> list:
    """The same answers from an engine, of which other threads ask while it works; half of what is asked is given up."""
    length = max(len(request.encoded.ids) for request in requests) + settings.max_new_tokens
    session = LedSession(DecodingSession(generator.model, 2 * settings.num_samples, length))
    if not session.leads:
        with session:
            session.follow()
        return []
    engine, clients = Engine(session, waiting=2 * len(requests)), [Client({}) for _ in requests]

    def ask() -> None:
        for item, client in zip(requests, clients, strict=True):
            asked = DecodingRequest(item.encoded, settings, frozenset(STOP_IDS))
            engine.cancel(engine.submit(asked, images_of(generator, [item]), Client({})))
            engine.submit(asked, images_of(generator, [item]), client)
        engine.end()

    asking = threading.Thread(target=ask)
    asking.start()
    engine.run()
    asking.join()
    return [[answer for _, answer in sorted(client.answers.items())] for client in clients]


ROLLED = replace(SAMPLED, num_samples=1)


def dialogues(found: list[Prompt]) -> list[Dialogue]:
    """Of one, two and three questions, every other one asked for brevity."""
    asked = [None, {"verbosity": 0}]
    follow_ups = ["w1 w2", "w5 w6 w7 w8"]
    return [
        Dialogue(prompt, tuple(follow_ups[: place % 3]), ROLLED, asked[place % 2]) for place, prompt in enumerate(found)
    ]


def turn_by_turn(generator: Generator, asked: list[Dialogue], folder: Path) -> list[list]:
    """What dialogues come to where each question is a prompt of its own; on rank 0."""
    found = []
    for dialogue in asked:
        prompt, answers = dialogue.prompt, []
        for number, question in enumerate(["", *dialogue.follow_ups], start=1):
            if number > 1:
                said = Turn(role="assistant", content=answers[-1]["text"])
                turns = (*prompt.turns, said, Turn(role="user", content=question))
                prompt = prompt.model_copy(update={"id": f"{dialogue.prompt.id}\0{number}", "turns": turns})
            sets = generator.generate(
                [prompt], ROLLED, [dialogue.attributes], lambda path: folder / path, progress=False
            )
            answers += share([record.candidates[0].model_dump(mode="json") for record in sets])
        found.append(answers)
    return found


def refused(generator: Generator, prompts: list[Prompt], folder: Path) -> str:
    """What every rank hears of a picture that cannot be read."""
    prompt = next(prompt for prompt in prompts if prompt.images)
    try:
        roll_out(generator, [Dialogue(prompt, (), ROLLED)], lambda path: folder / "none" / path, progress=False)
    except UserError as error:
        return str(error)
    return ""


def check(opened: OpenedModel, prompts: Path, out: Path) -> None:
    found = list(read_records(prompts, Prompt))
    requests = make_requests(found, opened.encoder, resolve=lambda path: prompts.parent / path)
    generator = opened.generator(max_batch_tokens=32768)
    generator.model.eval()
    with torch.no_grad():
        error = torch.tensor([cache_error(generator, requests[:5])])
    runtime.broadcast_from_last_stage(error)
    small = opened.encoder, opened.image_processor, 1000
    answers, told = led(generator, requests, SAMPLED)
    result = {
        "layout": runtime.layout(),
        "greedy": tokens(generator, requests, GREEDY),
        "sampled": tokens(generator, requests, SAMPLED),
        "one_by_one": [tokens(generator, [request], SAMPLED)[0] for request in reversed(requests)][::-1],
        "records": [
            record.model_dump(mode="json")
            for record in Generator(generator.model, *small).generate(
                found, SAMPLED, [None, {"verbosity": 0}], lambda path: prompts.parent / path, progress=False
            )
        ],
        "led": answers,
        "told": told,
        "served": served(generator, requests, SAMPLED),
        "rolled_out": [
            [answer.model_dump(mode="json") for answer in rolled.answers]
            for rolled in roll_out(
                Generator(generator.model, opened.encoder, opened.image_processor, 600),
                dialogues(found[:6]),
                lambda path: prompts.parent / path,
                progress=False,
            )
        ],
        "turn_by_turn": turn_by_turn(generator, dialogues(found[:6]), prompts.parent),
        "refused": refused(generator, found, prompts.parent),
        "cache_error": float(error),
    }
    if runtime.rank() == 0:
        out.write_text(json.dumps(result), encoding="utf-8")


def main(folder: str, prompts: str, out: str, tensor: str, pipeline: str, first: str) -> None:
    from nemo_mm_align.schema.attributes import AttributeSchema

    schema = AttributeSchema.model_validate_json((Path(prompts).parent / "schema.json").read_text(encoding="utf-8"))
    parallel = ParallelConfig(int(tensor), int(pipeline), num_layers_in_first_pipeline_stage=int(first) or None)
    opened = open_for_inference(folder, parallel, "fp32", TEMPLATE, schema)
    runtime.initialize(parallel, seed=1)
    prefixes.LEAST = 4  # prompts are short here
    with Float64():
        check(opened, Path(prompts), Path(out))
    runtime.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
