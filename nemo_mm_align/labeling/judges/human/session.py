"""One sitting of a person at the page, with the surface of a run: it can be stopped and gone on with at any moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from nemo_mm_align.labeling.jobs import Job, LabelContext
from nemo_mm_align.labeling.judges.human.desk import Desk
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.judges.human.server import LabelServer
from nemo_mm_align.labeling.ledger import Ledger
from nemo_mm_align.labeling.running.progress import Tally
from nemo_mm_align.labeling.running.signals import stop_on_signal

log = logging.getLogger(__name__)

WAIT_S = 0.25


class HumanSession:
    """A run in which a person answers.

    Args:
        judge: who, and at which port.
        context: judge and schema.
        ledger: open ledger.
    """

    def __init__(self, judge: HumanJudge, context: LabelContext, ledger: Ledger) -> None:
        self.judge, self.context, self.ledger = judge, context, ledger
        self.stopped_by_signal: int | None = None
        self.error: BaseException | None = None

    def run(self, jobs: Iterable[Job], total: int) -> Tally:
        """Serve the page until all prompts are labelled, the person stops, or Ctrl-C or SIGTERM comes.

        `error` is set where an answer could not be saved: the sitting ends then.

        Raises:
            UserError: the port is taken.
        """
        self.ledger.add_configuration(self.context.fingerprint, self.context.configuration)
        desk = Desk(jobs, total, self.context, self.ledger)
        if desk.task is None:
            return desk.tally
        finished = threading.Event()
        server = LabelServer(desk, self.judge.port, finished)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        with stop_on_signal(finished) as caught:
            thread.start()
            port = server.server_address[1]
            log.info(
                "label at %s (from another machine: ssh -L %d:127.0.0.1:%d HOST, then the same address there); "
                "every prompt is saved at once, Ctrl-C stops",
                server.address,
                port,
                port,
            )
            while not finished.wait(WAIT_S):
                pass
        server.shutdown()
        server.server_close()
        self.stopped_by_signal, self.error = caught.number, server.error
        return desk.tally
