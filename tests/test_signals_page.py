"""docs/signals.md: its tables are those of the code, and the profile it shows does what it says."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pyarrow as pa

from tasks.text.rules import FilterConfig, decide
from tasks.text.signals import SIGNAL_NAMES

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "signals.md"


def test_the_tables_are_those_of_the_code() -> None:
    spec = importlib.util.spec_from_file_location("signal_tables", ROOT / "docs" / "signal_tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    text = PAGE.read_text(encoding="utf-8")
    assert text == module.page(), "run: python docs/signal_tables.py"
    assert not [name for name in SIGNAL_NAMES if not name.startswith("stop_words_") and f"| `{name}` |" not in text]


def test_the_profile_for_mixed_pages_drops_them_and_asks_nothing_of_pages_too_short(tmp_path: Path) -> None:
    profile = re.search(r"<!-- profile: mixed -->\n```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert profile
    path = tmp_path / "mixed.yaml"
    path.write_text(profile[1], encoding="utf-8")
    config = FilterConfig(profile=str(path), languages=())
    others = tuple(rule.name for rule in config.rules() if rule.name != "mixed_languages")
    shares = pa.table({"main_language_fraction": pa.array([1, 0.8, 0.79, None], pa.float32())})
    assert decide(shares, config.model_copy(update={"disabled": others})).keep.tolist() == [True, True, False, True]
