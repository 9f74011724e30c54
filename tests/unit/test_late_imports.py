"""Packages that wait for their first use are what they would be without waiting, as soon as somebody looks."""

import importlib
import importlib.util
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

from nemo_mm_align.core.late_imports import LATE, LateModule
from tests.waiting import PATIENCE_S

FILES = {
    "__init__.py": "import os\nassert os.path.exists(__file__ + '.works'), 'it does not work'\nruns = [1]\nfrom . import part\n",
    "part.py": "import late_one\ncounted = getattr(late_one, 'runs', None)\nlate_one.parts = getattr(late_one, 'parts', 0) + 1\n",
    "light.py": "name = 5\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``late_one``, imported late, with a name `light` that it is not run for; it works as soon as a file is there."""
    (tmp_path / "late_one").mkdir()
    for name, text in FILES.items():
        (tmp_path / "late_one" / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(LATE, "late_one", {"light": lambda _: importlib.import_module("late_one.light").name})
    (tmp_path / "late_one/__init__.py.works").touch()
    yield tmp_path / "late_one"
    for name in [name for name in sys.modules if name.split(".")[0] == "late_one"]:
        del sys.modules[name]


def late_one() -> ModuleType:
    return importlib.import_module("late_one")


def test_it_runs_once_and_when_a_name_is_asked_for(package: Path) -> None:
    module = late_one()
    assert type(module) is LateModule and module.__file__ == str(package / "__init__.py")
    assert not hasattr(module, "__warningregistry__") and module.light == 5
    assert type(module) is LateModule and "late_one.part" not in sys.modules
    assert module.runs == [1] and module.part.counted == [1] and type(module) is ModuleType
    assert late_one() is module and not hasattr(module, "missing")
    assert importlib.reload(module) is module


def test_it_runs_before_a_module_of_it_that_is_imported_by_name(package: Path) -> None:
    late_one()
    part = importlib.import_module("late_one.part")
    assert part.counted == [1] and type(late_one()) is ModuleType
    assert late_one().parts == 1, "the package has imported it"
    assert part is late_one().part is sys.modules["late_one.part"] and part.__spec__.origin == str(package / "part.py")
    assert importlib.import_module("late_one.light").name == 5


def test_a_name_that_is_elsewhere_in_another_release_is_taken_from_the_package(package: Path) -> None:
    (package / "light.py").unlink()
    with (package / "__init__.py").open("a") as file:
        file.write("light = 6\n")
    assert late_one().light == 6


def test_what_it_raises_is_raised_whenever_it_is_asked(package: Path) -> None:
    (package / "__init__.py.works").unlink()
    module = late_one()
    for _ in range(2):
        with pytest.raises(AssertionError, match="it does not work"):
            module.runs  # noqa: B018
    (package / "__init__.py.works").touch()
    assert module.runs == [1]


def test_another_thread_waits_until_it_has_run(package: Path) -> None:
    (package / "light.py").write_text("import threading\nbegun, goes_on = threading.Event(), threading.Event()\n")
    with (package / "__init__.py").open("a") as file:
        file.write("from late_one.light import begun, goes_on\nbegun.set()\ngoes_on.wait()\nlast = 7\n")
    module, found = late_one(), []
    threads = [threading.Thread(target=lambda: found.append(module.last)) for _ in range(2)]
    threads[0].start()
    while "late_one.light" not in sys.modules or not hasattr(sys.modules["late_one.light"], "goes_on"):
        pass
    light = sys.modules["late_one.light"]
    light.begun.wait()
    threads[1].start()
    light.goes_on.set()
    for thread in threads:
        thread.join()
    assert found == [7, 7]


def test_one_that_is_looked_for_stays_what_it_is(package: Path) -> None:
    late_one()
    found = importlib.util.find_spec("late_one.part")
    assert found is not None and found.loader is not None and found.origin == str(package / "part.py")
    assert found.loader.get_filename("late_one.part") == found.origin  # type: ignore[attr-defined]
    assert type(late_one()) is LateModule and "late_one.part" not in sys.modules
    part = importlib.import_module("late_one.part")
    assert part.__spec__ is not None and type(part.__spec__.loader) is type(part.__loader__) is SourceFileLoader
    assert importlib.util.find_spec("late_one.nowhere") is None


def test_one_that_has_run_is_reloaded_at_once(package: Path) -> None:
    module = late_one()
    assert module.runs == [1]
    (package / "__init__.py").write_text(
        "runs = [2, 3]  # of another length: a cached file of the same second is told by it\n"
    )
    assert importlib.reload(module).runs == [2, 3] and vars(module)["runs"] == [2, 3] and type(module) is ModuleType


THREADS = """
import sys, threading, time
from nemo_mm_align.core import late_imports
sys.path.insert(0, sys.argv[1])
late_imports.LATE["late_one"] = {}
late_imports.import_late()
import late_one, late_begun
def by_name():
    late_begun.begun.wait()
    import late_one.light
    found.append(late_one.light.name)
def by_attribute():
    found.append(late_one.last)
found = []
threads = [threading.Thread(target=target, daemon=True) for target in (by_name, by_attribute)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(sorted(found))
"""


def test_threads_that_import_and_use_it_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """While one runs the package, which imports more, the other is about to import a module of it by name."""
    (tmp_path / "late_one").mkdir()
    (tmp_path / "late_one/__init__.py").write_text(
        "import time, late_begun\nlate_begun.begun.set()\ntime.sleep(0.2)\nimport late_other\nlast = 7\n"
    )
    (tmp_path / "late_one/light.py").write_text(FILES["light.py"])
    (tmp_path / "late_begun.py").write_text("import threading\nbegun = threading.Event()\n")
    (tmp_path / "late_other.py").touch()
    command = [sys.executable, "-c", THREADS, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout == "[5, 7]\n", done.stderr


@pytest.mark.slow
def test_a_training_starts_without_them_and_they_work_afterwards() -> None:
    code = """
import sys, nemo_mm_align.training.trainer, transformers
print([name for name in ("pandas.core", "sklearn.base", "scipy.signal", "wandb.sdk") if name in sys.modules])
from transformers.generation import candidate_generator
import lightning.pytorch, pandas, torchmetrics.classification, wandb
print(candidate_generator.roc_curve([0, 1], [0.1, 0.9])[1].tolist(), pandas.DataFrame({"a": [1]}).shape)
print(torchmetrics.Metric is lightning.pytorch.core.module.Metric, hasattr(wandb, "init"), hasattr(torchmetrics, "Accuracy"))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.splitlines()[-3:] == ["[]", "[0.0, 1.0, 1.0] (1, 1)", "True True True"]
