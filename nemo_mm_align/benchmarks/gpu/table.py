"""The results of a run as Markdown for BENCHMARKS.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nemo_mm_align.benchmarks.gpu.facts import NO_CARD
from nemo_mm_align.benchmarks.recipes import PREFERENCE
from nemo_mm_align.benchmarks.tables import markdown_table

Line = Mapping[str, Any]
NONE = "–"
_COUNT = (
    "Operations by the project's own count (capacity/operations.py), which every training shows: with LoRA 4 N per token (frozen "
    "weights have no gradient of their own), full fine-tuning 6 N, and attention, vision tower and output layer beside; what is "
    "computed again and what a mask hides does not count. "
    "MFU is against the data sheet's dense bf16 rate, also for FP8; in brackets against "
    "the bf16 product measured in the same run. Memory: peak of the allocator / the project's estimate."
)


def markdown(lines: Sequence[Line]) -> str:
    """Return machine, tables, and what was skipped or failed."""
    if not lines:
        return "Nothing was measured.\n"
    sections = [head(lines), *(section for make in _SECTIONS if (section := make(lines)))]
    return "\n\n".join(sections) + "\n"


def head(lines: Sequence[Line]) -> str:
    """Card, driver, versions, date and command."""
    first = lines[0]
    card = next((line["card"] for line in lines if line["card"] != NO_CARD), NO_CARD)
    more = [
        f"{name.replace('_', ' ')} {first[name]}"
        for name in ("card_memory", "power_limit", "max_clock")
        if name in first
    ]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    return "\n".join(
        [
            f"Card: {', '.join([card, *more])}; driver {first['driver']}.  ",
            f"Versions: Python {first['python']}, {versions}.  ",
            f"Begun: {first['run']}.  ",
            f"Command: `{first['command']}`",
        ]
    )


def _measured(lines: Sequence[Line], *keys: str) -> list[Line]:
    return [line for line in lines if all(key in line for key in keys)]


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[object]], note: str = "") -> str:
    if not rows:
        return ""
    return "\n\n".join(filter(None, [f"**{title}**", note, markdown_table(header, rows)]))


def _ceilings(lines: Sequence[Line]) -> str:
    units = {"tflops": "TFLOP/s", "tb_per_s": "TB/s", "us_per_launch": "µs"}
    rows = [
        (line["name"], f"{line[key]:g} {unit}", _of(line.get("data_sheet_tflops"), "g"))
        for line in lines
        if line["step"] == "ceilings"
        for key, unit in units.items()
        if key in line
    ]
    return _section("What the card reaches", ("", "measured", "data sheet, TFLOP/s"), rows)


def product_tflops(lines: Sequence[Line]) -> float | None:
    """The measured bf16 product of the run, TFLOP/s."""
    return next((line["tflops"] for line in lines if line["step"] == "ceilings" and "tflops" in line), None)


def _training(lines: Sequence[Line]) -> str:
    product = product_tflops(lines)
    rows = [
        (
            line["name"],
            "x".join(map(str, line["rows"])),
            f"{line['step_s']:.3f}",
            f"{line['samples_per_s']:.2f}",
            _of(line.get("samples_per_s_recomputed"), ".2f"),
            f"{line['tokens_per_s']:,}",
            f"{_of(line['mfu'], '.1%')} ({_of(product and line['tflops'] / product, '.1%')})",
            f"{_of(line['peak_gib'], '.1f')} / {line['estimated_gib']:.1f}",
            _of(line.get("gpu_busy"), ".0%"),
        )
        for line in _measured(lines, "step_s", "estimated_gib")
    ]
    header = ("", "rows", "step, s", "samples/s", "reference in every step", "tokens/s", "MFU", "GiB", "GPU busy")
    return _section("Training, optimizer steps of two micro batches", header, rows, _COUNT)


def _new_lengths(lines: Sequence[Line]) -> str:
    rows = [
        (line["name"], f"{line['new_length_s'] * 1e3:.0f}", f"{line['seen_length_s'] * 1e3:.0f}")
        for line in _measured(lines, "new_length_s")
    ]
    return _section("A step of one micro batch, ms", ("", "new row length", "the same length again"), rows)


def _twins(lines: Sequence[Line]) -> str:
    rows = [
        (
            line["name"],
            f"{line['loss_distance']:.2%}",
            f"{line['dpo_loss_difference']:.3f}",
            f"{line['gradient_cosine_first']:.4f}",
            f"{line['gradient_cosine']:.4f}",
            line["verdict"],
        )
        for line in _measured(lines, "verdict")
    ]
    header = ("", "loss, largest distance", "DPO loss, nats", "gradient, cosine, first pass", "a later pass", "verdict")
    return _section("FP8 beside bf16: same random weights, same batches", header, rows)


def _decoding(lines: Sequence[Line]) -> str:
    rows = [
        (
            line["name"],
            f"{line['prefill_s']:.3f}",
            f"{line['step_ms']:.1f}",
            f"{line['tokens_per_s']:,.0f}",
            f"{line['once_s']:.2f}",
            f"{line['tokens_per_s_of_all']:,.0f} ({line['new_tokens']})",
            _of(line["peak_gib"], ".1f"),
        )
        for line in _measured(lines, "prefill_s")
    ]
    return _section(
        "Greedy decoding",
        ("", "prompts, s", "per step, ms", "tokens/s", "once, s", "tokens/s with all that (new tokens)", "GiB"),
        rows,
    )


def _attention(lines: Sequence[Line]) -> str:
    rows = [
        (line["name"], f"{line['ms']:.2f}", f"{line['first_ms']:.1f}", _of(line.get("max_difference"), "g"))
        for line in _measured(lines, "first_ms")
    ]
    lengths = [
        (line["name"], f"{line['new_train_length_ms']:.2f}", f"{line['decode_step_ms']:.2f}")
        for line in _measured(lines, "new_train_length_ms")
    ]
    header = ("", "ms", "first call, ms", "largest difference")
    parts = [
        _section("Attention of one layer, forward and backward", header, rows),
        _section("Attention at a length never seen, ms", ("", "training", "decoding, per token"), lengths),
    ]
    return "\n\n".join(filter(None, parts))


def _peer(lines: Sequence[Line]) -> str:
    rows = []
    for line in _measured(lines, "cached"):
        ours = _ours(lines, line["pairs"], line["cached"])
        rows.append(
            (
                line["name"],
                f"{line['step_s']:.3f}",
                f"{line['samples_per_s']:.2f}",
                f"{line['tokens_per_s']:,}",
                _of(line["peak_gib"], ".1f"),
                _of(ours, ".2f"),
                f"{ours / line['samples_per_s']:.2f}x" if ours else NONE,
            )
        )
    header = ("", "step, s", "samples/s", "tokens/s", "GiB", "ours, samples/s", "ours against the peer")
    return _section("The peer: a plain loop with the same loss on the same rows", header, rows)


def _ours(lines: Sequence[Line], pairs: int, cached: bool) -> float | None:
    """Our own pairs per second at a micro batch: rows of a shared prefix, no lever."""
    name = f"bf16 {PREFERENCE} LoRA, {pairs} pair{'s' if pairs > 1 else ''}, shared prefix"
    ours = [line for line in lines if line["step"] == "train" and line["name"].endswith(name)]
    return ours[0].get("samples_per_s" if cached else "samples_per_s_recomputed") if ours else None


def _profiles(lines: Sequence[Line]) -> str:
    found = _measured(lines, "gpu_busy")
    kinds = [
        (
            line["name"],
            f"{line['gpu_busy']:.0%}",
            f"{line['launches']:,}",
            *(f"{seconds * 1e3:.0f}" for seconds in line["gpu_seconds"].values()),
        )
        for line in found
    ]
    if not found:
        return ""
    header = ("", "GPU busy", "launches", *(f"{kind}, ms" for kind in found[0]["gpu_seconds"]))
    top = [(f"`{name}`", f"{ms:.1f}", count) for name, ms, count in found[0]["top_kernels"]]
    parts = [
        _section("One step under the profiler", header, kinds),
        _section(f"Longest kernels of {found[0]['name']}", ("", "ms", "launches"), top),
    ]
    return "\n\n".join(parts)


def _tests(lines: Sequence[Line]) -> str:
    found = _measured(lines, "tests", "failures")
    keys = ("tests", "failures", "errors", "skipped", "seconds")
    rows = [(line["name"], *(line[key] for key in keys)) for line in found]
    failed = "\n".join(f"- {text}" for line in found for text in line["failed"])
    return "\n\n".join(filter(None, [_section("tests/gpu", ("", *keys), rows), failed]))


def _not_measured(lines: Sequence[Line]) -> str:
    rows = [
        (
            line["step"],
            line["name"],
            "skipped" if "skipped" in line else "failed",
            line.get("skipped") or line.get("error"),
        )
        for line in lines
        if isinstance(line.get("skipped"), str) or "error" in line
    ]
    return _section("Not measured", ("step", "case", "", "why"), rows)


def _steps(lines: Sequence[Line]) -> str:
    rows = [
        (line["step"], line["name"], line.get("exit_code", NONE), f"{line['seconds']:.0f} of {line['limit_s']:.0f}")
        for line in lines
        if line.get("kind") == "step" and "seconds" in line
    ]
    return _section("Steps", ("", "what", "exit code", "seconds"), rows)


def _of(value: float | None, form: str) -> str:
    return NONE if value is None else format(value, form)


_SECTIONS: tuple[Callable[[Sequence[Line]], str], ...] = (
    _tests,
    _ceilings,
    _training,
    _new_lengths,
    _twins,
    _decoding,
    _peer,
    _attention,
    _profiles,
    _not_measured,
    _steps,
)
