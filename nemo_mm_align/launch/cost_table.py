"""Costs as text: a table with a line per stage and the sum, and in words what it assumes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nemo_mm_align.capacity.decoding import LONGEST_OF_BATCH
from nemo_mm_align.capacity.report import table
from nemo_mm_align.launch.cost_judge import JudgeUse
from nemo_mm_align.launch.costs import StageCost
from nemo_mm_align.launch.settings import CostSettings, LaunchSettings, SlurmCluster

_HEADER = ("stage", "GPU-hours", "at most", "judge calls", "at most", "tokens in + out", "at most", "money", "at most")
_UNKNOWN, _NO_LIMIT = "?", "no limit"

Money = dict[str, float]
"""Amounts by currency; two currencies are not added."""


def cost_text(stages: Sequence[StageCost], settings: LaunchSettings) -> str:
    """Return table, sum and assumptions as comments, the way the rest of a dry run is printed."""
    rows = [_HEADER, *(_row(stage, settings.costs) for stage in stages), _sum(stages, settings.costs)]
    lines = ["What this will cost, estimated: expected, and at most what limits allow", *table(rows).splitlines()]
    lines += [f"- {note}" for note in (*map(_what, stages), *_notes(stages, settings)) if note]
    return "\n".join(f"# {line}".rstrip() for line in lines) + "\n"


def _row(stage: StageCost, costs: CostSettings) -> list[str]:
    judge = stage.judge
    return [
        stage.stage,
        _hours(stage.gpu_hours),
        _NO_LIMIT if stage.most_hours is None else _hours(stage.most_hours),
        *_asked([judge], known=not stage.unknown),
        _money([stage_money(stage, costs)]),
        _money([most_money(stage, costs)]),
    ]


def _sum(stages: Sequence[StageCost], costs: CostSettings) -> list[str]:
    most = [stage.most_hours for stage in stages]
    return [
        "sum",
        _hours(sum(stage.gpu_hours or 0.0 for stage in stages), missing=None in [stage.gpu_hours for stage in stages]),
        _NO_LIMIT if None in most else _hours(sum(value or 0.0 for value in most)),
        *_asked([stage.judge for stage in stages]),
        _money([stage_money(stage, costs) for stage in stages]),
        _money([most_money(stage, costs) for stage in stages]),
    ]


def _asked(judges: Sequence[JudgeUse], known: bool = True) -> list[str]:
    if not known:
        return [_UNKNOWN] * 4
    read, written = (sum(getattr(judge.tokens, side) for judge in judges) for side in ("input", "output"))
    return [
        f"{sum(judge.calls for judge in judges):,}",
        f"{sum(judge.most_calls for judge in judges):,}",
        f"{_millions(read)} + {_millions(written)}" if read or written else "0",
        _millions(sum(judge.most_tokens.total for judge in judges)),
    ]


def _what(stage: StageCost) -> str:
    if stage.unknown:
        return f"{stage.stage}: not known: {stage.unknown}"
    return f"{stage.stage}: {stage.what}" + (f" ({stage.source})" if stage.source else "")


def stage_money(stage: StageCost, costs: CostSettings) -> Money | None:
    """Return what a stage is expected to cost at the user's prices; None where a price or a figure is missing."""
    return _priced(stage, costs, stage.gpu_hours, stage.judge.cost, bool(stage.judge.tokens.total))


def most_money(stage: StageCost, costs: CostSettings) -> Money | None:
    """The same of what it can cost at most."""
    return _priced(stage, costs, stage.most_hours, stage.judge.most_cost, bool(stage.judge.most_tokens.total))


def _priced(
    stage: StageCost, costs: CostSettings, hours: float | None, judged: float | None, asks: bool
) -> Money | None:
    if stage.unknown or hours is None or (hours and costs.price_per_gpu_hour is None) or (asks and judged is None):
        return None
    found: Money = {}
    if hours and costs.price_per_gpu_hour is not None:
        found[costs.currency] = hours * costs.price_per_gpu_hour
    if asks and judged is not None and stage.judge.price is not None:
        currency = stage.judge.price.currency
        found[currency] = found.get(currency, 0.0) + judged
    return found


def _hours(value: float | None, missing: bool = False) -> str:
    if value is None:
        return _UNKNOWN
    return (f"{value:.2f}" if value < 100 else f"{value:,.0f}") + (f" + {_UNKNOWN}" if missing else "")


def _millions(tokens: int) -> str:
    return f"{tokens / 1e6:,.2f} M" if tokens else "0"


def _money(amounts: Sequence[Money | None]) -> str:
    """The sum by currency; a question mark stands for what has no price."""
    total: Money = {}
    for amount in amounts:
        for currency, value in (amount or {}).items():
            total[currency] = total.get(currency, 0.0) + value
    parts = [f"{value:,.2f} {currency}" for currency, value in total.items()]
    return " + ".join([*parts, *([_UNKNOWN] if None in amounts else [])]) or "0"


def _notes(stages: Sequence[StageCost], settings: LaunchSettings) -> Iterator[str]:
    costs = settings.costs
    if any(stage.gpus for stage in stages) and costs.gpu:
        yield (
            f"GPU time of {costs.gpu} (costs.gpu), by formulas that were fitted to one H200: several GPUs, and cards of "
            "other types, are not measured (docs/CAPACITY.md)"
        )
        yield (
            f"each job with GPUs holds them {costs.start_minutes:g} min before it computes (costs.start_minutes); waiting in "
            "the queue, writing checkpoints and validation are not counted"
        )
        yield (
            f"answers are of {costs.answer_tokens} tokens (costs.answer_tokens), the longest of a batch {LONGEST_OF_BATCH:g} "
            "times as long; of tasks by their own usual lengths"
        )
    yield from _notes_on_judges(stages)
    yield from _notes_on_limits(stages, settings)
    if None in [stage_money(stage, costs) for stage in stages]:
        yield (
            "money: ? where a price or a figure is missing: costs.price_per_gpu_hour=..., "
            'STAGE.overrides=["judge.price.input_per_million=...","judge.price.output_per_million=..."]'
        )


def _notes_on_judges(stages: Sequence[StageCost]) -> Iterator[str]:
    if not any(stage.judge.calls for stage in stages):
        return
    yield (
        "judge: every call answered the first time, nothing in a ledger yet, tokens guessed from the length of texts and the "
        "number of images; at most: every call as often as runner.max_attempts allows, replies of judge.max_output_tokens, "
        "within the budget. scripts/label.py dry_run=true counts with the service and the ledger"
    )


def _notes_on_limits(stages: Sequence[StageCost], settings: LaunchSettings) -> Iterator[str]:
    if not any(stage.gpus for stage in stages):
        return
    if isinstance(settings.cluster, SlurmCluster):
        yield (
            f"GPU-hours at most: run.time_limit of each job, and {settings.cluster.max_requeues} requeues of it "
            "(cluster.max_requeues); STAGE.run.time_limit=... lowers it"
        )
    else:
        yield f"GPU-hours at most: cluster={settings.cluster.type} ends no job by time"
