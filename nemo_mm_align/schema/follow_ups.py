"""Dialogues where a stage works on single answers: refused in words, so that nothing is passed over unread."""

from __future__ import annotations

from nemo_mm_align.schema.records import CandidateSet, Prompt


def follow_ups_fault(stage: str) -> str:
    """Return why a stage does not take a prompt with follow-ups, and what can be done."""
    return (
        f"has follow_ups, and {stage} is for single answers. Only scripts/generate.py asks them, for evaluation; take them out, "
        "or ask the last question after turns that are given."
    )


def dialogue_fault(prompt: Prompt, candidates: CandidateSet, stage: str) -> str | None:
    """Return why a stage that reads single answers does not take these, None where it does."""
    answered = any(candidate.follow_up_answers for candidate in candidates.candidates)
    return f"prompt {prompt.id!r} {follow_ups_fault(stage)}" if prompt.follow_ups or answered else None
