"""Packages that are imported and, as a rule, not used by a run here, or late: they run at their first use, not at every start.

Lightning takes two classes of torchmetrics, which imports scipy, scikit-learn and transformers for all its others; transformers
takes a function of scikit-learn's, NeMo pandas for a logger; megatron-core looks whether Weights & Biases is there. Together that
was a quarter of the time, and of the memory, that the imports of a training take. An evaluation asks scipy.stats when all answers
have been judged, and its help never does.
"""

from __future__ import annotations

import importlib
import logging
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any


def _of(*modules: str) -> Callable[[str], Any]:
    """A name of the last of these modules, which are imported in this order."""
    return lambda name: getattr([importlib.import_module(module) for module in modules][-1], name)


def _called_later(module: str) -> Callable[[str], Any]:
    """A function that imports its module when it is called."""
    return lambda name: lambda *args, **kwargs: getattr(importlib.import_module(module), name)(*args, **kwargs)


LATE: dict[str, dict[str, Callable[[str], Any]]] = {
    "pandas": {},
    "scipy.stats": {},
    "sklearn": {},
    "sklearn.metrics": {"roc_curve": _called_later("sklearn.metrics._ranking")},
    "torchmetrics": {
        "Metric": _of("torchmetrics.utilities", "torchmetrics.metric"),
        "MetricCollection": _of("torchmetrics.utilities", "torchmetrics.collections"),
        "__version__": _of("torchmetrics.__about__"),
        "_logger": lambda _: logging.getLogger("torchmetrics"),
    },
    "wandb": {},
}
"""Modules, and where those of their names come from that can be had without running them.

``try: import`` notices one that is not there, as ever, but not one that is broken: that is said at its first use.
"""
_ASKED_OF_ALL = {"__file__", "__path__", "__warningregistry__"}
"""What `inspect`, the import system and `warnings` look for in every module; those that have it got it before they ran."""

_lock = threading.RLock()  # others wait until a module has run
_running: set[str] = set()
_in_parts: set[int] = set()
"""Threads that fetch a name without its package."""


class LateModule(ModuleType):
    """A module that runs as soon as it is asked for a name that it does not have."""

    def __getattr__(self, name: str) -> Any:
        if name in _ASKED_OF_ALL:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        if name in LATE[self.__name__]:
            with suppress(ImportError), _part():  # another release may have other modules
                return LATE[self.__name__][name](name)
        run(self)
        return ModuleType.__getattribute__(self, name)


def run(module: LateModule) -> None:
    """Run a module, unless it is what runs; what it raises is raised again by whoever asks next."""
    with _lock:
        if type(module) is not LateModule or module.__name__ in _running:
            return
        _running.add(module.__name__)
        try:
            assert module.__spec__ is not None and module.__spec__.loader is not None
            module.__spec__.loader.exec_module(module)
            module.__class__ = ModuleType  # type: ignore[assignment]
        finally:
            _running.discard(module.__name__)


@contextmanager
def _part() -> Iterator[None]:
    thread, first = threading.get_ident(), threading.get_ident() not in _in_parts
    _in_parts.add(thread)
    try:
        yield
    finally:
        _in_parts.difference_update({thread} if first else ())


class _Later(Loader):
    """Makes the module and leaves the rest to its first use; in everything else it is the module's own loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._give_back(module)
        module.__class__ = LateModule

    def _give_back(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self._loader


class _AfterItsPackage(_Later):
    """Runs the package, which may import the module, and else does what the module's own loader does.

    When the module is made, not when it is looked for: that happens under a lock of all imports.
    """

    def __init__(self, loader: Loader, package: LateModule) -> None:
        super().__init__(loader)
        self._package = package
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        run(self._package)
        there = sys.modules.get(spec.name)
        if there is None:
            return self._loader.create_module(spec)
        self._spec = there.__spec__  # which Python replaces by the one that it found
        return there

    def exec_module(self, module: ModuleType) -> None:
        if self._spec is not None:
            module.__spec__ = self._spec
            return
        self._give_back(module)
        self._loader.exec_module(module)


class _LateFinder(MetaPathFinder):
    """Finds what `LATE` names, where Python would; a package runs before a module of it that somebody imports by name."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        package = sys.modules.get(name.rpartition(".")[0])
        if name in LATE:
            again = target is not None and not isinstance(
                target, LateModule
            )  # of one that has run, when it is reloaded
            spec = None if again else PathFinder.find_spec(name, path)
            if spec is not None and spec.loader is not None:
                spec.loader = _Later(spec.loader)
            return spec
        if not isinstance(package, LateModule) or threading.get_ident() in _in_parts:
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            spec.loader = _AfterItsPackage(spec.loader, package)
        return spec


def import_late() -> None:
    """From now on; what is imported already stays as it is."""
    if not any(isinstance(finder, _LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LateFinder())
