"""The measurements as Markdown tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nemo_mm_align.benchmarks.input_report import communication, data
from nemo_mm_align.benchmarks.lengths.report import lengths
from nemo_mm_align.benchmarks.serving.report import serving
from nemo_mm_align.benchmarks.tables import markdown_table
from nemo_mm_align.core.units import MIB


def markdown(results: dict[str, Any]) -> str:
    """Return machine and tables of all parts that were run."""
    sections = [_machine(results["machine"])]
    tables: dict[str, Callable[[Any], str]] = {
        "training": training,
        "lengths": lengths,
        "layouts": layouts,
        "communication": communication,
        "reference": reference,
        "data": data,
        "import": conversion,
        "decoding": decoding,
        "sampling": sampling,
        "serving": serving,
        "labeling": labeling,
        "gpu": str.rstrip,
    }
    sections += [table(results[part]) for part, table in tables.items() if part in results]
    return "\n\n".join(sections) + "\n"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.0f} ms"


def _mib(value: float) -> str:
    return f"{value / MIB:,.0f} MiB"


def _machine(facts: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in facts["versions"].items())
    return (
        f"{facts['date']}; {facts['cpu']}, {facts['cores']} cores, {facts['memory_gib']} GiB; Python {facts['python']}, "
        f"{versions}; load before the run {facts['load']}."
    )


def training(results: list[dict[str, Any]]) -> str:
    """One table per model, method and number of threads."""
    parts = []
    for found in results:
        rows = [
            (
                line["name"],
                _seconds(line["seconds"]),
                _seconds(min(line["all_seconds"])),
                f"{line['tokens_per_second']:,.0f}",
                f"{line['speedup']:.2f}x",
            )
            for line in found["lines"]
        ]
        batch, length = found["rows"]
        loss = ", ".join(f"{name} {value}" for name, value in found.get("loss", {}).items() if value)
        title = (
            f"**{found['method'].upper()} step{f' ({loss})' if loss else ''}, {found['model']}, threads: {found['threads']}** "
            f"({batch} rows of {length}, {found['positions']} positions without padding; load {found['load_after']})"
        )
        parts.append(
            title
            + "\n\n"
            + markdown_table(("", "step, median", "fastest", "tokens/s", f"against {found['peer']}"), rows)
        )
    return "\n\n".join(parts)


def layouts(results: list[dict[str, Any]]) -> str:
    """Step time and memory per layout."""
    rows = [
        (
            f"{found['model']}, {found['layout']}, threads per process: {found['threads']}",
            _seconds(found["seconds"]),
            f"{found['tokens_per_second']:,.0f}",
            _mib(found["peak_bytes"]),
            found["load_after"],
        )
        for found in results
    ]
    head = ("", "step", "tokens/s", "peak resident memory, all processes", "load")
    return "**DPO step by layout** (shared prefix, cached reference, 4 micro batches)\n\n" + markdown_table(head, rows)


def reference(results: list[dict[str, Any]]) -> str:
    """Cached against recomputed."""
    rows = [
        (
            found["model"],
            *(_seconds(found["seconds"][name]) for name in ("recomputed", "cached")),
            f"{found['speedup']:.2f}x",
            _seconds(found["seconds"]["filled"]),
            *(_mib(found["peak_bytes"][name]) for name in ("recomputed", "cached")),
            found["load_after"],
        )
        for found in results
    ]
    head = (
        "",
        "step, recomputed",
        "step, cached",
        "",
        "filling the cache, once",
        "peak, recomputed",
        "peak, cached",
        "load",
    )
    return "**Reference log-probs** (shared prefix, 4 micro batches, 1 thread)\n\n" + markdown_table(head, rows)


def conversion(results: list[dict[str, Any]]) -> str:
    """Growth of anonymous memory as a multiple of the weights."""
    rows = [
        (
            found["layout"],
            _mib(found["weights_bytes"]),
            *(
                f"{_mib(found[f'{way}_bytes'])} = {found[f'{way}_bytes'] / found['weights_bytes']:.3f}x, "
                f"{_seconds(found[f'{way}_seconds'])}"
                for way in ("import", "export", "checkpoint", "checkpoint_export")
            ),
        )
        for found in results
    ]
    head = ("", "weights", "import", "export", "import and save as checkpoint", "load a checkpoint and export it")
    return (
        "**Growth of anonymous memory, peak summed over ranks** (bf16 folder; processes started for saving included)\n\n"
        + markdown_table(head, rows)
    )


def decoding(results: list[dict[str, Any]]) -> str:
    """Tokens per second of both sides."""
    rows = [
        (
            f"{found['model']}, batch {rows_}, threads: {found['threads']}",
            *(f"{values['tokens_per_second'][side]:,.0f}" for side in ("transformers", "ours")),
            f"{values['speedup']:.2f}x",
            found["load_after"],
        )
        for found in results
        for rows_, values in found["batches"].items()
    ]
    head = ("", "transformers, tokens/s", "ours, tokens/s", "ours against transformers", "load")
    return "**Greedy decoding, prompt included** (same tokens)\n\n" + markdown_table(head, rows)


def sampling(results: list[dict[str, Any]]) -> str:
    """Fixed batches against refilled rows."""
    rows = [
        (
            f"{found['model']}, {found['answers']} answers, median {found['median_length']:g} tokens, longest "
            f"{found['longest']}",
            *(f"{found['tokens_per_second'][way]:,.0f}" for way in ("fixed batches", "refilled")),
            f"{found['speedup']:.2f}x",
            str(found["differing_prompts"]),
            found["load_after"],
        )
        for found in results
    ]
    head = (
        "",
        "fixed batches, tokens/s",
        "refilled, tokens/s",
        "refilled against fixed",
        "prompts that differ",
        "load",
    )
    return "**Sampling, prompts included** (1 thread)\n\n" + markdown_table(head, rows)


def labeling(results: dict[str, Any]) -> str:
    """One table per measurement of the label command."""
    tables: dict[str, Callable[[Any], str]] = {
        "rate": _label_rates,
        "limit": _label_limit,
        "kills": _label_kills,
        "scale": _label_scale,
    }
    rates = [line for name in ("text", "images") for line in results.get(name, ())]
    found = {**results, **({"rate": rates} if rates else {})}
    return "\n\n".join(table(found[name]) for name, table in tables.items() if name in found)


def _label_rates(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{found['prompts']:,} {'336 x 336 images' if found['images'] else 'texts'}, processes: {found['processes']}",
            f"{found['rate']:.1f}",
            f"{found['share']:.1%}",
            _cpu_per_call(found),
            _seconds(found["seconds_without_calls"]),
            found["load_after"],
        )
        for found in results
    ]
    head = ("", "calls/s", "of the ideal", "processor time per call", "start and end without calls", "load")
    return "**Labelling, rate** (four candidates of 60 words; ideal: concurrency / latency)\n\n" + markdown_table(
        head, rows
    )


def _cpu_per_call(found: dict[str, Any]) -> str:
    calls, base = found["prompts"] * found["cpu_seconds_per_call"], found["cpu_seconds_without_calls"]
    return f"{1000 * found['cpu_seconds_per_call']:.1f} ms" if calls > base else "too few calls to tell"


def _label_limit(found: dict[str, Any]) -> str:
    return (
        f"**Labelling, {found['limit']} requests/minute allowed:** {found['requests']:,} requests in "
        f"{found['seconds']:.0f} s, {found['share']:.2%} of the limit; most in any 60 s by the server's clock: "
        f"{found['most_in_a_minute']} (load {found['load_after']})."
    )


def _label_kills(found: dict[str, Any]) -> str:
    return (
        f"**Labelling, {found['prompts']:,} prompts, {found['kills']} kills:** {found['annotations']:,} annotations, "
        f"{found['missing']} missing, {found['requests']:,} requests; in flight at the kills {found['in_flight_at_kills']} "
        f"(at most {found['most_in_flight_at_a_kill']} at one), paid twice beyond those {found['paid_twice_beyond']}; "
        f"torn lines {found['torn_lines']}, lines that stand twice {found['lines_twice']}; first request of a resume after "
        f"{_seconds(found['start_seconds'])} (median); {found['seconds']:.0f} s in all (load {found['load_after']})."
    )


def _label_scale(results: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{found['prompts']:,}",
            _mib(found["ledger_bytes"]),
            _mib(found["peak_bytes"]),
            _seconds(found["resume_seconds"]),
            _seconds(found["resume_with_check_seconds"]),
            _mib(found["resume_peak_bytes"]),
            found["load_after"],
        )
        for found in results
    ]
    resume = ("start of a resume to its first request", "the same where the input changed", "its peak memory")
    head = ("prompts", "ledger", "peak memory", *resume, "load")
    return "**Labelling, scale** (text; libraries included)\n\n" + markdown_table(head, rows)
