"""Captions for the alignment of vision and language (LLaVA's first stage): every fact of the image, plainly said."""

from __future__ import annotations

import random

from nemo_mm_align.miniature.claims import Claim
from nemo_mm_align.miniature.clauses import say
from nemo_mm_align.miniature.truth import Scene

WORDINGS = ("describe the image.", "what does the picture show?", "tell me what you can see.")


def caption(rng: random.Random, scene: Scene) -> tuple[str, str]:
    """Draw a request and the caption that answers it."""
    if scene.bars:
        # In random order: naming a bar's value after its colour is what a question about that bar asks for.
        claims = [Claim("value", bar.colour, value=str(bar.value)) for bar in rng.sample(scene.bars, len(scene.bars))]
    else:
        claims = [Claim("exist", scene.colour, scene.shape)]
    return rng.choice(WORDINGS), " ".join(say(claim, 0, short=False, chart=bool(scene.bars)) + "." for claim in claims)
