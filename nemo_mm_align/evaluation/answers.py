"""What the figures rest on: one `ScoredAnswer` per answered prompt, whoever scored it."""

from __future__ import annotations

from pydantic import Field, model_validator

from nemo_mm_align.schema.records import Record


class ScoredAnswer(Record):
    """One answer to one held-out prompt, with what its task measured of it.

    Args:
        prompt_id: `Prompt.id`.
        kind: of prompt, as the report counts them, for example ``image prompts`` or ``text instructions``.
        answer: the text as it was generated.
        source: where the prompt comes from, for example ``easy_vqa`` or ``charts``.
        values: of the measures that apply to it, by name; shares are 0 or 1.
        ratings: the judge's value of every attribute of the schema, by name; empty where nobody rated it.
        num_words: length in words, of all answers of a dialogue.
        num_tokens: length in tokens, of all answers of a dialogue, if the generator told it.
        notes: what a reader of the report should know of the prompt.
        asked: the attribute values the answer was asked for, if it was steered.
        failed: why nobody could score it; it then has no values.
        missing: measures that could not be told of it, while others could; they are counted as failed there.
        group: what is drawn together where prompts are resampled (questions about one picture); "" for itself alone.
        columns: plain numbers that the task's statistics are computed of, see `Statistic`.
        follow_up_answers: to the prompt's follow-ups.
        judgements: what the judge said, in its words, for the report.
    """

    prompt_id: str
    kind: str = "prompts"
    answer: str = ""
    source: str = ""
    values: dict[str, float] = {}
    ratings: dict[str, float] = {}
    num_words: int = Field(default=0, ge=0)
    num_tokens: int | None = None
    notes: tuple[str, ...] = ()
    asked: dict[str, float] | None = None
    failed: str = ""
    missing: tuple[str, ...] = ()
    group: str = ""
    columns: dict[str, float] = {}
    follow_up_answers: tuple[str, ...] = ()
    judgements: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _scored_or_failed(self) -> ScoredAnswer:
        if self.failed and (self.values or self.ratings):
            raise ValueError("an answer that could not be scored has neither values nor ratings")
        return self
