"""Steering: what a judge says of answers that were asked for attribute values, one attribute moved at a time."""

from __future__ import annotations

from nemo_mm_align.evaluation.tasks.attributes import AttributesTask


class SteeringTask(AttributesTask):
    """Has each prompt answered once per value of each attribute (`generate`'s ``sweep=all``), and the answers rated.

    Models that cannot be asked for attributes have no part in it. The figures are those of `steering`: asked against judged; a
    model's row among the methods is what it answers at the defaults.
    """

    name = "steering"
    swept = True
