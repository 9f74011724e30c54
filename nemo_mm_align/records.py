"""Records of the files between stages, for code around the project; inside it they are `nemo_mm_align.schema.records`."""

from nemo_mm_align.schema.examples import PreferenceExample
from nemo_mm_align.schema.records import (
    Annotation,
    Candidate,
    CandidateSet,
    Prompt,
    RatedCandidate,
    Turn,
    read_records,
    write_records,
)

__all__ = [
    "Annotation",
    "Candidate",
    "CandidateSet",
    "PreferenceExample",
    "Prompt",
    "RatedCandidate",
    "Turn",
    "read_records",
    "write_records",
]
