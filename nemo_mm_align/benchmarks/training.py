"""Part ``training``: steps of this engine against TRL's DPOTrainer and transformers, on the same rows."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nemo_mm_align.benchmarks import peers
from nemo_mm_align.benchmarks.agreed import OPTIM, SEED
from nemo_mm_align.benchmarks.engine import EngineTraining
from nemo_mm_align.benchmarks.machine import load_average
from nemo_mm_align.benchmarks.pairs import PairSizes, batch_of, draw_pairs, positions, samples_of
from nemo_mm_align.benchmarks.recipes import IMITATION, PREFERENCE
from nemo_mm_align.benchmarks.timing import Action, Timing, alternate, speedup
from nemo_mm_align.benchmarks.trl_peer import TrlPairs
from nemo_mm_align.model.config import LlavaConfig, ParallelConfig
from nemo_mm_align.parallel import runtime

TOLERANCE = 1e-4
_COMPARED_STEPS = 2


def check_equal(losses: dict[str, float], tolerance: float = TOLERANCE) -> None:
    """Stop the run where two sides do not compute the same; a faster wrong number is no result."""
    first = next(iter(losses.values()))
    wrong = {name: loss for name, loss in losses.items() if not abs(loss - first) <= tolerance * abs(first)}
    if wrong:
        raise RuntimeError(f"losses differ by more than {tolerance} relative: {losses}")


def measure_preference(settings: dict[str, Any]) -> dict[str, Any]:
    """Time steps on pairs: TRL as it comes and with its options, ours with one feature more per line."""
    runtime.initialize(ParallelConfig(), SEED)
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    pairs, loss = draw_pairs(config, PairSizes(**settings["pairs"]), SEED), settings["loss"]
    with tempfile.TemporaryDirectory() as scratch:
        trl = TrlPairs(folder / "policy", folder / "reference", pairs, OPTIM, loss, Path(scratch))
    ours = EngineTraining(folder / "policy", PREFERENCE, folder / "reference", changes=loss)
    samples, pixels_NCHW = samples_of(pairs, config), trl.batch["pixel_values"]
    plain, shared = (batch_of(samples, config, pixels_NCHW, shared_prefix=shared) for shared in (False, True))
    cached_plain, cached_shared = ours.with_reference(plain), ours.with_reference(shared)
    trl.fill_reference()
    options = _options_of_trl(trl.keeps_answers)
    losses = {name: trl.loss(**choice) for name, choice in options.items()}
    losses |= {"ours": ours.loss(cached_plain), "ours, shared prefix": ours.loss(cached_shared)}
    check_equal(losses)
    *_, peer, _ = options  # the fastest that computes the reference
    for _ in range(_COMPARED_STEPS):  # the second one shows that gradients and update agree as well
        check_equal({"TRL": trl.step(**options[peer]), "ours": ours.step([plain], recompute=True)})
    actions: dict[str, Action] = {
        **{name: partial(trl.step, **choice) for name, choice in options.items()},
        "ours": lambda: ours.step([plain], recompute=True),
        "ours, cached reference": lambda: ours.step([cached_plain]),
        "ours, shared prefix": lambda: ours.step([shared], recompute=True),
        "ours, cached reference, shared prefix": lambda: ours.step([cached_shared]),
    }
    timings = alternate(actions, settings["rounds"])
    facts = {"loss": loss, "rows": list(plain.input_ids_BS.shape), "shared_rows": list(shared.input_ids_BS.shape)}
    return _result(timings, peer, positions(plain), facts, losses)


def _options_of_trl(keeps_answers: bool) -> dict[str, dict[str, bool]]:
    """Lines of the table and what they ask of TRL, the slowest first."""
    cached = ", precomputed reference"
    if not keeps_answers:
        return {"TRL": {}, f"TRL{cached}": {"cached": True}}
    answers = {"answers_only": True}
    return {
        "TRL, defaults": {},
        "TRL, use_logits_to_keep": answers,
        f"TRL, use_logits_to_keep{cached}": {**answers, "cached": True},
    }


def measure_imitation(settings: dict[str, Any]) -> dict[str, Any]:
    """Time SFT steps on the chosen answers: transformers with torch's AdamW against ours."""
    runtime.initialize(ParallelConfig(), SEED)
    config, folder = LlavaConfig.from_dict(settings["sizes"]), Path(settings["folder"])
    sizes = PairSizes(**settings["pairs"])
    pairs = draw_pairs(config, replace(sizes, pairs=2 * sizes.pairs), SEED)
    samples = samples_of(pairs, config, chosen_only=True)
    pixels_NCHW = torch.randn(len(pairs), 3, config.vision.image_size, config.vision.image_size)
    peer = peers.TransformersSft(folder / "policy", samples, pixels_NCHW, OPTIM)
    ours = EngineTraining(folder / "policy", IMITATION)
    batch = batch_of(samples, config, pixels_NCHW)
    losses: dict[str, float] = {}
    for _ in range(_COMPARED_STEPS):
        losses = {"transformers": peer.step(), "ours": ours.step([batch])}
        check_equal(losses)
    timings = alternate({"transformers": peer.step, "ours": lambda: ours.step([batch])}, settings["rounds"])
    return _result(timings, "transformers", positions(batch), {"rows": list(batch.input_ids_BS.shape)}, losses)


def _result(
    timings: dict[str, Timing], peer: str, tokens: int, facts: dict[str, Any], losses: dict[str, float]
) -> dict[str, Any]:
    lines = [
        {
            "name": name,
            "seconds": timing.median,
            "tokens_per_second": tokens / timing.median,
            "speedup": speedup(timings[peer], timing),
            "all_seconds": timing.seconds,
        }
        for name, timing in timings.items()
    ]
    facts |= {"threads": torch.get_num_threads(), "positions": tokens, "load_after": load_average()}
    return {**facts, "peer": peer, "losses": losses, "lines": lines}
