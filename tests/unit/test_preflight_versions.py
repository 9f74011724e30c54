"""Python, packages, kernels and checkouts: what is green, and every way to amber and red."""

from __future__ import annotations

import pytest

from nemo_mm_align.parallel.kernels import PACKAGES, Installed
from nemo_mm_align.preflight import versions
from nemo_mm_align.preflight.finding import Level


def test_python_version():
    assert versions.check_python((3, 12, 1)).level == Level.GREEN
    assert versions.check_python((3, 10, 9)).level == Level.RED


def test_pins():
    pins = versions.read_pins("a==1.0  # why\nnemo_toolkit[lightning]==2.7.3\n# b==2\n")
    assert pins == {"a": "1.0", "nemo-toolkit": "2.7.3"}
    assert versions.check_pins("file", pins, {"a": "1.0+cpu", "nemo-toolkit": "2.7.3"}).level == Level.GREEN
    other = versions.check_pins("file", pins, {"a": "1.1", "nemo-toolkit": "2.7.3"})
    assert other.level == Level.AMBER and "a 1.1 (pinned 1.0)" in other.detail
    missing = versions.check_pins("file", pins, {"a": "1.0", "nemo-toolkit": None})
    assert missing.level == Level.RED and missing.detail == "missing: nemo-toolkit"
    assert versions.check_pins("file", {}, {}).level == Level.AMBER


def test_engine_versions():
    ngc = {
        "torch": "2.10.0a0+b4e4ee81d3.nv25.12",
        "megatron-core": "0.16.0",
        "nemo-toolkit": "2.7.0",
        "hydra-core": "1.3.2",
    }
    assert versions.check_engine(ngc).level == Level.GREEN
    later = versions.check_engine({**ngc, "megatron-core": "0.17.0"})
    assert later.level == Level.RED and "megatron-core 0.17.0" in later.detail


@pytest.mark.parametrize(
    ("version", "error", "gpu", "precision", "expected"),
    [
        ("2.12", None, True, "fp8_delayed", "GREEN"),
        (None, None, False, "bf16", "GREEN"),
        (None, None, True, "bf16", "AMBER"),
        (None, None, True, "fp8_delayed", "RED"),
        ("2.12", None, False, "fp8_delayed", "RED"),
        ("2.12", "undefined symbol", True, "bf16", "RED"),
    ],
)
def test_transformer_engine(version, error, gpu, precision, expected):
    (finding,) = versions.check_kernels([Installed(PACKAGES[0], version, error)], gpu, precision)
    assert finding.level.name == expected


def test_kernels_that_nobody_needs_are_green_and_say_what_is_lost():
    apex, flash = versions.check_kernels([Installed(PACKAGES[1], None), Installed(PACKAGES[2], None)], True, "bf16")
    assert apex.level == flash.level == Level.GREEN
    assert "slower" in apex.detail and "nothing is lost" in flash.detail


def test_ranks_with_other_versions_are_named():
    base = {"torch": "2.10", "source": "aa", "commit": "c"}
    assert versions.check_same_everywhere({0: base, 1: base}).level == Level.GREEN
    finding = versions.check_same_everywhere({0: base, 1: base, 2: {**base, "source": "bb"}})
    assert finding.level == Level.RED and "source: aa on ranks 0-1, bb on ranks 2" in finding.detail


def test_scripts_and_package_of_different_checkouts(tmp_path):
    for name, text in (("job", "a"), ("image", "b"), ("copy", "a")):
        (tmp_path / name / "nemo_mm_align").mkdir(parents=True)
        (tmp_path / name / "nemo_mm_align" / "module.py").write_text(text)
    script = tmp_path / "job" / "scripts" / "doctor.py"
    assert versions.check_checkout(script, tmp_path / "job") is None
    assert versions.check_checkout(script, tmp_path / "copy").level == Level.GREEN
    assert versions.check_checkout(script, tmp_path / "image").level == Level.RED


def test_the_fingerprint_holds_versions_and_source():
    found = versions.fingerprint()
    assert found["python"].startswith("3.") and found["megatron-core"] != "missing" and len(found["source"]) == 12
