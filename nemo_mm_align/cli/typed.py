"""Which settings a user typed: one that nothing will read is a mistake, while a default that nothing reads is none."""

from __future__ import annotations

from hydra.core.hydra_config import HydraConfig


def typed_keys() -> tuple[str, ...]:
    """Return the dotted keys on the command line of the command that runs, in order; none where no command runs."""
    if not HydraConfig.initialized():
        return ()
    words = HydraConfig.get().overrides.task
    return tuple(word.partition("=")[0].lstrip("+") for word in words if not word.startswith("~"))
