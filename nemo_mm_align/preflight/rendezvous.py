"""How the ranks of a run find each other: a roll call that names who did not come, gathering, telling.

Everything goes through torch's key-value store, which works before any process group does and never hangs for ever.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from nemo_mm_align.core.errors import UserError
from nemo_mm_align.preflight.finding import Finding, green, rank_list, red
from nemo_mm_align.preflight.ranks import Ranks

if TYPE_CHECKING:
    from torch.distributed import Store

_POLL_S = 0.02


class Rendezvous:
    """The ranks of one run around one store.

    Args:
        ranks: this process's place.
        timeout_s: how long the others are waited for at each step.

    Raises:
        UserError: rank 0 cannot open its port, or does not answer there.
    """

    def __init__(self, ranks: Ranks, timeout_s: float) -> None:
        self.ranks, self.timeout_s = ranks, timeout_s
        self.present = list(range(ranks.world_size))
        self.store: Store | None = self._open() if ranks.world_size > 1 else None

    def _open(self) -> Store:
        from torch.distributed import DistError, PrefixStore, TCPStore

        host, port = self.ranks.address
        leads = self.ranks.rank == 0 and not self.ranks.agent_store
        try:
            store = TCPStore(
                host, port, is_master=leads, timeout=timedelta(seconds=self.timeout_s), wait_for_workers=False
            )
        except (DistError, RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            if leads:
                raise UserError(
                    f"rank 0 cannot listen on {host}:{port} ({reason}). Choose another MASTER_PORT."
                ) from None
            raise UserError(
                f"rank {self.ranks.rank}: rank 0 did not answer at {host}:{port} within {self.timeout_s:g} s ({reason}). "
                "Check that MASTER_ADDR is an address that all nodes reach, that no firewall closes the port, and "
                "that rank 0 was started."
            ) from None
        return PrefixStore(f"doctor/{self.ranks.restart}", store)

    @property
    def complete(self) -> bool:
        """Whether every rank is here."""
        return len(self.present) == self.ranks.world_size

    def roll_call(self, node: str) -> Finding | None:
        """Let every rank say that it is here; ranks that do not come in time are not waited for again.

        Args:
            node: name of this node.

        Returns:
            What rank 0 found; ``None`` on the others and for a single process.
        """
        if self.store is None:
            return None
        start = time.monotonic()
        came = self.gather("here", node)
        self.present = self.tell("present", sorted(came))
        if self.ranks.rank != 0:
            return None
        nodes = sorted(set(came.values()))
        if self.complete:
            found = f"{len(came)} ranks on {len(nodes)} nodes came within {time.monotonic() - start:.1f} s"
            return green("roll call", found)
        missing = sorted(set(range(self.ranks.world_size)) - set(came))
        lost = f"ranks {rank_list(missing)} of {self.ranks.world_size}{self._home(missing)}"
        return red(
            "roll call",
            f"after {self.timeout_s:g} s these had not come: {lost}; there are: {', '.join(nodes)}",
            "look for their nodes' errors in the job's log (container, mounts, address); timeout_s=... waits longer",
        )

    def _home(self, missing: list[int]) -> str:
        """Which nodes of the allocation they belong to, counted from 0, if ranks fill nodes in order."""
        per_node = self.ranks.local_world_size
        if self.ranks.world_size <= per_node:
            return ""
        return f" (node {rank_list(rank // per_node for rank in missing)} of {self.ranks.world_size // per_node})"

    def gather(self, name: str, value: Any) -> dict[int, Any]:
        """Collect a value of every rank that is present.

        Args:
            name: of this exchange; every exchange has its own.
            value: anything JSON can carry.

        Returns:
            On rank 0: rank -> value, without ranks that did not answer in time. Elsewhere: an empty dictionary.
        """
        if self.store is None:
            return {0: value}
        self.store.set(f"{name}/{self.ranks.rank}", json.dumps(value))
        if self.ranks.rank != 0:
            return {}
        deadline = time.monotonic() + self.timeout_s
        waiting = set(self.present)
        while waiting:
            waiting -= {rank for rank in waiting if self.store.check([f"{name}/{rank}"])}
            if time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
        return {rank: json.loads(self.store.get(f"{name}/{rank}")) for rank in self.present if rank not in waiting}

    def tell(self, name: str, value: Any) -> Any:
        """Give every rank rank 0's value.

        Raises:
            SystemExit: rank 0 does not say it: it has ended. That is no mistake of the settings, which would end a job
                for good: rank 0 has left the note of its own, or was ended by a signal that this rank is about to get.
        """
        if self.store is None:
            return value
        if self.ranks.rank == 0:
            self.store.set(name, json.dumps(value))
            return value
        try:
            # rank 0 may wait its whole time for others before it speaks
            self.store.wait([name], timedelta(seconds=2 * self.timeout_s + 30))
            return json.loads(self.store.get(name))
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            sys.exit(f"error: rank {self.ranks.rank}: rank 0 went silent ({reason}); look for its error above.")

    def part(self) -> None:
        """Leave together: rank 0, whose process holds the store, waits until the others have read the last word."""
        if self.store is not None:
            self.gather("bye", None)
