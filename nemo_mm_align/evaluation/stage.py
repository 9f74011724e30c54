"""The stage `evaluate`: answer files in; results.json, report.html, report.md and the judged answers out."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from nemo_mm_align.core.lock import owned_output
from nemo_mm_align.core.outputs import folder_to_write
from nemo_mm_align.evaluation.answers import ScoredAnswer
from nemo_mm_align.evaluation.judges import Judges
from nemo_mm_align.evaluation.metrics import SeedAnswers
from nemo_mm_align.evaluation.report import choose_samples
from nemo_mm_align.evaluation.results import Results
from nemo_mm_align.evaluation.settings import EvaluateSettings, check_start
from nemo_mm_align.evaluation.summary import summarise, write_evaluation
from nemo_mm_align.evaluation.tables import ReportSample
from nemo_mm_align.evaluation.task_run import TaskRun, open_run
from nemo_mm_align.evaluation.tasks.task import FieldFiles, Task, scored_by
from nemo_mm_align.llm.running.dry_run import print_estimate
from nemo_mm_align.schema.records import resolve_image, write_records

log = logging.getLogger(__name__)
