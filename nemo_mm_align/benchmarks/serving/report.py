"""The part ``serving`` as Markdown."""

from __future__ import annotations

from typing import Any

from nemo_mm_align.benchmarks.tables import markdown_table

_KINDS = {
    "distinct": "a picture each",
    "repeated": "4 questions about each picture",
    "conversations": "conversations of 3 turns",
}


def serving(results: dict[str, Any]) -> str:
    """One table per measurement."""
    tables = {"against_transformers": _against_transformers, "load": _load, "memory": _memory}
    return "\n\n".join(table(results[name]) for name, table in tables.items() if name in results)


def _against_transformers(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{found['model']}, {_KINDS[case['kind']]}, {case['at_a_time']} at a time",
            *(f"{case['tokens_per_second'][side]:,.0f}" for side in ("transformers", "ours")),
            f"{case['speedup']:.2f}x",
            f"{case['cpu_speedup']:.2f}x",
            case["ties"],
            found["load_after"],
        )
        for found in results
        for case in found["cases"]
    ]
    head = (
        "",
        "transformers, tokens/s",
        "served, tokens/s",
        "served against transformers",
        "by processor time",
        "answers that rounding decides",
        "load",
    )
    return (
        "**Through the server against transformers' generate** (fp32, greedy, the same tokens, prompts included, 1 thread and "
        f"core each{_shared(results)})\n\n" + markdown_table(head, rows)
    )


def _load(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{found['model']}, {level['share']:.0%} of {found['capacity']:.2f} questions/s, {level['questions']} questions",
            *(_milliseconds(level[name], share) for name in ("first_token", "per_token") for share in _PERCENTILES),
            level["failed"],
            f"{1000 * level['sent_late']:.0f}",
            found["load_after"],
        )
        for found in results
        for level in found["levels"]
    ]
    latencies = [f"{name}, {share}" for name in ("first token", "each further") for share in _PERCENTILES]
    head = ("ms", *latencies, "failed", "sent late by at most", "load")
    return f"**Open-loop load** (Poisson arrivals, a picture each{_shared(results)})\n\n" + markdown_table(head, rows)


_PERCENTILES = ("p50", "p95", "p99")


def _milliseconds(values: dict[str, float] | None, share: str) -> str:
    return f"{1000 * values[share]:,.0f}" if values else "none"


def _memory(results: list[dict[str, Any]]) -> str:
    return "\n\n".join(map(_memory_of, results))


def _memory_of(found: dict[str, Any]) -> str:
    return (
        f"**Memory of the server**, {found['model']}, {found['clients']} clients for {found['seconds'] / 60:g} minutes: "
        f"{found['questions']:,} questions; {found['mib_per_minute']:+.2f} MiB a minute by least squares after the first "
        f"{found['left_out_s']:.0f} s, from {found['first_mib']:.1f} to {found['last_mib']:.1f} MiB (load {found['load_after']})."
    )


def _shared(results: list[dict[str, Any]]) -> str:
    return "; client and server share one core" if any(found["shared_core"] for found in results) else ""
