"""Where settings and entry points lie: at the top of a checkout, or inside the package that a wheel has installed."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]
ROOT = PACKAGE.parent
"""The checkout, where there is one."""

HOME = PACKAGE if (PACKAGE / "scripts" / "train.py").is_file() else ROOT
CONF, SCRIPTS = HOME / "conf", HOME / "scripts"
