"""The steps: one file = one verb."""

from __future__ import annotations

from pathlib import Path

STEP_NAMES = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if not path.stem.startswith("_"))
