"""What the report says in words. Every sentence is computed from the results, and says when they separate nothing."""

from __future__ import annotations

from collections.abc import Sequence

from nemo_mm_align.evaluation.intervals import bounds_of
from nemo_mm_align.evaluation.results import BASE, VARIANTS, Results, variant_of
from nemo_mm_align.recipes.registry import all_recipes
from nemo_mm_align.reporting.tables import bracket


def label_of(name: str) -> str:
    """Name of a method as a reader sees it."""
    if name == BASE:
        return "Base"
    method, variant = variant_of(name)
    recipe = all_recipes().get(method)
    label = method.replace("_", " ") if recipe is None else recipe.label
    return f"{label} ({VARIANTS[variant]})" if variant else label


def listing(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def headline(results: Results) -> list[str]:
    """One sentence about the methods, one about steering, as far as they were run."""
    return [sentence for sentence in (_best_method(results), _steering(results)) if sentence]


def _best_method(results: Results) -> str:
    first = results.primary
    found = {
        name: one.measurements[first.name] for name, one in results.methods.items() if first.name in one.measurements
    }
    trained = {name: one for name, one in found.items() if name != BASE}
    if not trained or first.better is None:
        return ""
    sign, digits = 1 if first.better == "higher" else -1, first.digits
    best = max(trained, key=lambda name: sign * trained[name].value)
    what = _inside(first.label)
    text = f"{label_of(best)} comes first: {what} {trained[best].value:.{digits}f}"
    if BASE not in found:
        return text + "."
    difference, interval = trained[best].minus_base or 0.0, trained[best].minus_base_interval
    if trained[best].minus_base is None and any(one.unreliable for one in (trained[best], found[BASE])):
        return f"{text}; too many answers failed to compare it with the base."
    comparison = f"{difference:+.{digits}f} {bracket(bounds_of(interval), f'+.{digits}f')}".strip()
    if sign * difference <= 0:
        nearest = f"the nearest is {label_of(best)}, {comparison}"
        return f"No method is better than the base ({what} {found[BASE].value:.{digits}f}); {nearest}."
    separated = "" if interval and interval.excludes_zero else ", which does not separate them"
    return f"{text}, against {found[BASE].value:.{digits}f} of the base ({comparison}{separated})."


def _inside(label: str) -> str:
    """A label in the middle of a sentence; abbreviations stay as they are."""
    return label[0].lower() + label[1:] if label[1:2].islower() else label


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
    parts = [f"{count} {kind}" for kind, count in results.prompts.items()]
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
    over = "over the held-out prompts of one run"
    if found := results.resampling:
        drawn = f"{found.prompts:,} prompts"
        if found.groups != found.prompts:
            drawn = f"{found.groups:,} groups of prompts ({drawn})"
        over += f", {found.resamples:,} resamples of {drawn}"
    return f"{over}; another seed can differ by more"
