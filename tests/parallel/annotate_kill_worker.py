"""scripts/annotate.py, killed in the middle of writing its fourth line."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from typing import Any

from nemo_mm_align.schema import records
from tests.golden.worker import SCRIPTS

LINES = 3
_append = records.RecordAppender.append


def append(self: records.RecordAppender, record: Any) -> None:
    if isinstance(record, records.Annotation) and self.path.read_bytes().count(b"\n") == LINES:
        self._file.write(record.model_dump_json().encode()[:40])
        self._file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    _append(self, record)


if __name__ == "__main__":
    records.RecordAppender.append = append  # type: ignore[method-assign]
    sys.argv = [str(SCRIPTS / "annotate.py"), *sys.argv[1:]]
    runpy.run_path(sys.argv[0], run_name="__main__")
