"""What a run says before its first call: how much there is to do, and what it does not take from the ledger and why."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from nemo_mm_align.core.nested import differing
from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeLedger

log = logging.getLogger(__name__)

LONGEST_VALUE = 40
"""Characters of a setting's value that are shown; of longer ones the name alone."""


def announce(inputs: LabelInputs, context: LabelContext, ledger: JudgeLedger) -> None:
    """Log the prompts of a run; warn where judgements in the ledger do not count, since they were asked otherwise."""
    known = sum(map(ledger.succeeded, inputs.keys))
    bare = [one.name for one in context.schema.attributes if not one.description and not one.levels]
    if bare and not getattr(context.judge, "reads_metadata", False):
        log.warning(
            "attribute_schema says neither in `description` nor in `levels` what %s is: a judge is told the name alone",
            ", ".join(bare),
        )
    log.info("%d prompts for %s, %d of them judged before (%s)", len(inputs), context.judge.name, known, ledger.path)
    others = {
        configuration: values
        for configuration, values in ledger.configurations.items()
        if configuration != context.fingerprint and ledger.spending(configuration).answers
    }
    if known or not others:
        return
    latest = list(others.values())[-1]
    log.warning(
        "%s holds %d judgements that do not count here: they were made with other settings (%s). All %d prompts are asked "
        "about; go back to the earlier settings to use what is there",
        ledger.path,
        sum(ledger.spending(configuration).answers for configuration in others),
        ", ".join(differences(latest, context.configuration)),
        len(inputs),
    )


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings that differ, by name, with both values where they are short; `before` is a line of the ledger."""
    settings = {name: value for name, value in before.items() if name not in ("configuration", "time")}
    for name, old, new in differing(settings, json.loads(json.dumps(after))):  # as a ledger holds it: lists for tuples
        shown = f"{name} {old} -> {new}"
        plain = not isinstance(old, Mapping | list) and not isinstance(new, Mapping | list)
        yield shown if plain and len(shown) <= LONGEST_VALUE + len(name) else name
