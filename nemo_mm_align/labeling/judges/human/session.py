"""One sitting of a person at the page, with the surface of a run: it can be stopped and gone on with at any moment."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable

from nemo_mm_align.labeling.inputs import LabelInputs
from nemo_mm_align.labeling.items import Item, LabelContext
from nemo_mm_align.labeling.judge_ledger import JudgeLedger
from nemo_mm_align.labeling.judges.human.desk import Desk
from nemo_mm_align.labeling.judges.human.judge import HumanJudge
from nemo_mm_align.labeling.judges.human.server import LabelServer
from nemo_mm_align.llm.running.progress import Tally
from nemo_mm_align.llm.running.signals import stop_on_signal

log = logging.getLogger(__name__)

WAIT_S = 0.25


class HumanSession:
    """A run in which a person answers.

    Args:
        judge: who, and at which port.
        context: judge and schema.
        ledger: open ledger.
        inputs: all prompts, to look up answered ones.
    """

    def __init__(self, judge: HumanJudge, context: LabelContext, ledger: JudgeLedger, inputs: LabelInputs) -> None:
        self.judge, self.context, self.ledger, self.inputs = judge, context, ledger, inputs
        self.stopped_by_signal: int | None = None
        self.error: BaseException | None = None

    def run(self, items: Iterable[Item], total: int) -> Tally:
        """Serve the page until the person ends it, or Ctrl-C or SIGTERM comes; not at all where nothing is to label.

        `error` is set where an answer could not be saved: the sitting ends then.

        Raises:
            UserError: the port is taken.
        """
        self.ledger.add_configuration(self.context.fingerprint, self.context.configuration)
        desk = Desk(items, self.inputs, self.context, self.ledger)
        if desk.current is None and not self.judge.revise:
            log.info("all %d prompts are labelled as %s; judge.revise=true corrects answers", total, self.judge.name)
            return desk.tally
        finished = threading.Event()
        server = LabelServer(desk, self.judge.port, finished)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
        with stop_on_signal(finished, "stopping, all answers are saved") as caught:
            thread.start()
            self._announce(server)
            told = desk.current is None
            while not finished.wait(WAIT_S):
                if desk.current is None and not told:
                    told = True
                    log.info("all is labelled: Finish on the page or Ctrl-C ends the command")
        server.shutdown()
        server.server_close()
        if desk.corrections:
            log.info("corrections: %d; the ledger keeps the earlier answers too", desk.corrections)
        self.error = server.error
        self.stopped_by_signal = caught.number if desk.current is not None else None
        return desk.tally

    def _announce(self, server: LabelServer) -> None:
        port = server.server_address[1]
        log.info(
            "label at %s (from another machine: ssh -L %d:127.0.0.1:%d HOST, then the same address there); "
            "every answer is saved at once, Ctrl-C stops",
            server.address,
            port,
            port,
        )
