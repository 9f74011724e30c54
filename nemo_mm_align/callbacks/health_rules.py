"""Rules of a verdict: each looks at one thing that goes wrong in alignment, and says so or brings its evidence.

A rule returns None where a run has nothing to say to it. Thresholds stand with their reasons; they mark what deserves a look,
and none of them proves a fault.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

from nemo_mm_align.callbacks.health_series import Series
from nemo_mm_align.callbacks.watch_rules import answers, overfitting, validation_accuracy
from nemo_mm_align.core.run_health import Finding, ImageEffect

FEWEST_STEPS = 20
"""With fewer, a fifth of the steps is less than four of them, and their mean is mostly chance."""

NOISE = 2.0
"""Standard errors: what a difference of two windows exceeds by chance in one run of twenty."""

DISPLACED_NATS, DISPLACED_NATS_PER_TOKEN = 10.0, 0.1
"""A chosen answer that has become 20,000 times less likely, each of its tokens by a tenth: both, as long answers add up small
changes. Likelihood displacement (Razin et al., arXiv 2410.08847): the margin grows while probability goes to third answers."""

LEARNED_ACCURACY, LEARNED_SHARE = 0.95, 0.9
"""Nearly all training pairs are ranked rightly, and nine of ten teach nothing any more: further steps fit the rest by heart."""

FAR_NATS_PER_TOKEN = 0.5
"""A token has become 1.6 times more or less likely on average: by then little is left of what the reference would say."""

LONGER, FOLLOWS_LENGTH = 1.2, 0.2
"""Chosen answers a fifth longer than rejected ones, and ranked rightly more often by 20 points where they are the longer ones."""

COLLAPSED = 0.2
"""Share of its start that entropy falls below: answers hardly vary any more, sampled or not."""

SPIKE, SPIKES, WARM_UP = 10.0, 0.01, 0.1
"""A gradient of 10 times the median in more than 1 % of the steps; the first tenth, when rates warm up, does not count."""

CLIPPED = 0.9
"""Share of steps whose gradient was shortened: their size was set by clip_grad, and says nothing of the slope."""

FEWEST_SAMPLES, SMALLEST_EFFECT = 8, 1e-4
"""Fewer samples give no standard error to go by; below so many nats a difference is rounding."""


def few_steps(run: Series) -> Finding | None:
    """Is there enough to look at?"""
    steps = len(run.lines)
    if steps >= FEWEST_STEPS:
        return None
    return _worry("steps", f"only {steps} steps: too few to tell a trend from chance")


def learning_rate(run: Series) -> Finding | None:
    """Was anything to be learned?"""
    rates = run.values("learning_rate")
    if not rates or max(rates) > 0:
        return None
    return _worry("learning rate", "the learning rate was 0 in every step: set model.optim.lr")


def loss(run: Series) -> Finding | None:
    """Did it fall by more than its noise?"""
    ends = run.ends("loss")
    if ends is None:
        return None
    moved = f"loss {ends.first.mean:.4f} -> {ends.last.mean:.4f}"
    if ends.change < -NOISE * ends.noise:
        return _fine("loss", moved)
    how = "it rises" if ends.change > NOISE * ends.noise else "it does not fall"
    noise = f" by more than its noise ({NOISE * ends.noise:.4f})" if ends.noise else ""
    return _worry(
        "loss", f"{moved}: {how}{noise}; raise model.optim.lr or recipe.epochs, or lower the rate if it rises"
    )


def accuracy(run: Series) -> Finding | None:
    """Does the model rank training pairs better than chance?"""
    right, margin = run.ends("rewards/accuracies"), run.ends("rewards/margins")
    if right is None or margin is None:
        return None
    text = f"reward accuracy {right.last.mean:.2f}, margin {margin.last.mean:.3f} at the end"
    if right.last.mean > 0.5:
        return _fine("accuracy", text)
    return _worry("accuracy", f"{text}: no better than chance; check the pairs, raise model.optim.lr or recipe.epochs")


def displacement(run: Series) -> Finding | None:
    """Do chosen answers become less likely while the margin grows?"""
    ratio, margin, length = run.ends("log_ratio/chosen"), run.ends("rewards/margins"), run.ends("length_chosen")
    if ratio is None or margin is None or length is None:
        return None
    nats = ratio.last.mean
    per_token = nats / max(length.last.mean, 1.0)
    moved = f"{nats:+.1f} nats against the reference, {per_token:+.2f} a token"
    if not (nats < -DISPLACED_NATS and per_token < -DISPLACED_NATS_PER_TOKEN and margin.change > 0):
        return _fine("displacement", f"log-prob of chosen answers {moved}")
    remedy = "if answers get worse, lower model.optim.lr, raise recipe.beta, or set recipe.sft_loss_weight"
    return _worry("displacement", f"chosen answers became less likely while the margin grew: {moved}; {remedy}")


def saturation(run: Series) -> Finding | None:
    """Is there anything left to learn from the pairs?"""
    share, right = run.ends("saturated"), run.ends("rewards/accuracies")
    if share is None or right is None:
        return None
    text = f"{_percent(share.last.mean)} of the pairs are saturated at the end"
    if share.last.mean <= LEARNED_SHARE or right.last.mean <= LEARNED_ACCURACY:
        return _fine("saturation", text)
    return _worry("saturation", f"{text}: most pairs teach nothing any more; fewer epochs or a smaller learning rate")


def distance(run: Series) -> Finding | None:
    """How far has the policy moved from its reference?"""
    ends = run.ends("kl/token")
    if ends is None:
        return None
    text = f"log-ratio to the reference {ends.last.mean:+.3f} nats a token"
    if abs(ends.last.mean) <= FAR_NATS_PER_TOKEN:
        return _fine("distance", text)
    return _worry("distance", f"{text}: far from it; raise recipe.beta, lower model.optim.lr or recipe.epochs")


def length(run: Series) -> Finding | None:
    """Is length what is rewarded?"""
    chosen, rejected = run.ends("length_chosen"), run.ends("length_rejected")
    if chosen is None or rejected is None or not rejected.last.mean:
        return None
    ratio = chosen.last.mean / rejected.last.mean
    text = f"chosen answers {chosen.last.mean:.1f} tokens, rejected {rejected.last.mean:.1f}"
    longer, shorter = run.ends("rewards/accuracies_longer"), run.ends("rewards/accuracies_shorter")
    if ratio <= LONGER or longer is None or shorter is None:
        return _fine("length", text)
    text += f"; ranked rightly {_percent(longer.last.mean)} where longer, {_percent(shorter.last.mean)} where shorter"
    if longer.last.mean - shorter.last.mean <= FOLLOWS_LENGTH:
        return _fine("length", text)
    return _worry("length", f"{text}: length is rewarded; balance the lengths of the pairs")


def entropy(run: Series) -> Finding | None:
    """Does the policy still leave a choice?"""
    ends = run.ends("entropy")
    if ends is None:
        return None
    text = f"entropy {ends.first.mean:.3f} -> {ends.last.mean:.3f} nats"
    if ends.last.mean >= COLLAPSED * ends.first.mean:
        return _fine("entropy", text)
    return _worry("entropy", f"{text}: it collapsed, answers will hardly vary; lower model.optim.lr or recipe.epochs")


def gradient(run: Series) -> Finding | None:
    """Are updates steady, and of their own size?"""
    norms = run.values("gradient_norm")
    if not norms:
        return None
    middle = statistics.median(norms)
    settled = norms[int(len(norms) * WARM_UP) :]
    spikes = sum(norm > SPIKE * middle for norm in settled)
    clipped = sum(norm > run.clip_grad for norm in norms) / len(norms) if run.clip_grad else 0.0
    text = f"gradient norm {middle:.3g} (median), {max(norms):.3g} at most"
    if spikes > SPIKES * len(settled):
        return _worry(
            "gradient", f"{text}: {spikes} spikes; lower model.optim.lr or look at the samples of these steps"
        )
    if clipped >= CLIPPED:
        return _worry(
            "gradient",
            f"{text}: clipped in {_percent(clipped)} of the steps, whose size model.optim.clip_grad set; raise it, or "
            "lower model.optim.lr",
        )
    return _fine("gradient", text)


def images(run: Series) -> Finding | None:
    """Do answers depend on their images?"""
    known = run.images
    measured = known and (known.end or known.start)
    if known is None or not measured or not measured.effects:
        return None
    when = "at the end" if known.end else "at the start"
    parts = [f"{name} {effect.effect:+.3f}{_error(effect)}" for name, effect in measured.effects.items()]
    before = known.start and known.end and known.start.effects.get("loss")
    start = f" (loss at the start {before.effect:+.3f})" if before else ""
    text = f"another sample's images make it worse {when} by, in nats: {', '.join(parts)}{start}"
    if known.samples < FEWEST_SAMPLES or any(map(_beyond_noise, measured.effects.values())):
        return _fine("images", text)
    return _worry(
        "images", f"{text}: no more than noise, images are not used; check data.image_root and <image> in the questions"
    )


def _beyond_noise(effect: ImageEffect) -> bool:
    return effect.effect > max(SMALLEST_EFFECT, NOISE * (effect.standard_error or 0.0))


def _error(effect: ImageEffect) -> str:
    return "" if effect.standard_error is None else f" ± {effect.standard_error:.3f}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _fine(rule: str, text: str) -> Finding:
    return Finding(rule=rule, worry=False, text=text)


def _worry(rule: str, text: str) -> Finding:
    return Finding(rule=rule, worry=True, text=text)


RULES: tuple[Callable[[Series], Finding | None], ...] = (
    few_steps,
    learning_rate,
    loss,
    accuracy,
    displacement,
    saturation,
    distance,
    length,
    entropy,
    gradient,
    images,
    overfitting,
    validation_accuracy,
    answers,
)
"""In the order in which a run is told of."""
