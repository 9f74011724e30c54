"""What the report says in words. Every sentence is computed from the results, and says when they separate nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nemo_mm_align.attributes import AttributeSchema
from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.results import BASE, VARIANTS, MethodResult, Results, variant_of
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.reporting.tables import bracket


def label_of(name: str) -> str:
    """Name of a method as a reader sees it."""
    if name == BASE:
        return "Base"
    method, variant = variant_of(name)
    recipe = all_recipes().get(method)
    label = method.replace("_", " ") if recipe is None else recipe.label
    return f"{label}, {VARIANTS[variant]}" if variant else label


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def headline(results: Results, schema: AttributeSchema) -> list[str]:
    """One sentence about the methods, one about steering, as far as they were run."""
    return [sentence for sentence in (_best_method(results, schema), _steering(results)) if sentence]


def _best_method(results: Results, schema: AttributeSchema) -> str:
    scored = {name: result.score for name, result in results.methods.items() if result.score is not None}
    trained = {name: score for name, score in scored.items() if name != "base"}
    if not trained:
        return ""
    best = max(trained, key=lambda name: trained[name])
    text = f"{label_of(best)} scores highest: {trained[best]:.2f} of {schema.perfect_total:g}"
    if "base" not in scored:
        return text + "."
    interval = results.methods[best].minus_base_intervals.get("score")
    difference = results.methods[best].minus_base["score"]
    comparison = f"{difference:+.2f} {bracket(bounds_of(interval), '+.2f')}".strip()
    if difference <= 0:
        nearest = f"the nearest is {label_of(best)}, {comparison}"
        return f"No method scores higher than the base ({scored['base']:.2f}); {nearest}."
    separated = "" if interval and interval.excludes_zero else ", which does not separate them"
    return f"{text}, against {scored['base']:.2f} of the base ({comparison}{separated})."


def _steering(results: Results) -> str:
    known = {name: curve.spearman for name, curve in results.steering.items() if curve.spearman is not None}
    if not known:
        return ""
    follows = [f"{name} ({value:.2f})" for name, value in known.items() if value >= 0.3]
    deaf = [f"{name} ({value:.2f})" for name, value in known.items() if value < 0.3]
    parts = []
    if follows:
        parts.append(f"asked-for {listing(follows)} {'shows' if len(follows) == 1 else 'show'} in the answers")
    if deaf:
        parts.append(f"{listing(deaf)} hardly or not at all")
    text = "; ".join(parts)
    return f"Steering, rank correlation of asked and judged: {text}."


def basis(results: Results) -> str:
    """What the numbers rest on: prompts, seeds, date."""
    counts = next(iter(results.methods.values())).counts
    parts = [f"{counts['score']} image prompts"] if "score" in counts else []
    parts += [f"{counts['text_score']} text instructions"] if "text_score" in counts else []
    seeds = f"{len(results.seeds)} seeds" if len(results.seeds) > 1 else "one seed"
    return (
        f"Held out from training: {listing(parts)}; {seeds} ({', '.join(map(str, results.seeds))}); {_date(results)}."
    )


def _date(results: Results) -> str:
    return results.created[:16].replace("T", " ")


def interval_basis(results: Results) -> str:
    """What the intervals of the table vary."""
    if len(results.seeds) > 1:
        return f"over {len(results.seeds)} seeds, each a run of the whole loop"
    return "over the held-out prompts of one run; another seed can differ by more"


def cautions(methods: Mapping[str, MethodResult]) -> list[str]:
    """What a reader could take for success and is not."""
    return [
        f"{label_of(name)} hallucinates less than the base, but is no better at yes/no questions as a whole: "
        "part of that is a shift towards no."
        for name, result in methods.items()
        if result.minus_base.get("hallucination", 0) < -0.02 and result.minus_base.get("yes_no_accuracy", 1) <= 0
    ]
