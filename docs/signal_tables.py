"""Writes the tables of docs/signals.md from the code; a test compares them.

python docs/signal_tables.py
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "signals.md"
BEGIN, END = "<!-- tables: python docs/signal_tables.py -->\n", "<!-- end of tables -->\n"
KINDS = {pa.int32(): "count", pa.float32(): "share", pa.bool_(): "flag", pa.string(): "word"}


def tables() -> str:
    """A table of the signals of every group."""
    from tasks.text.signals import GROUPS, SIGNALS

    in_groups = {signal for group in GROUPS.values() for signal in group.signals}
    always = [signal for signal in SIGNALS if signal not in in_groups]
    parts = ["### Always\n\nAt 70 to 94 MB/s.\n\n" + _table(always)]
    for name, group in GROUPS.items():
        told = f"At {group.rate} by itself." + ("" if group.by_default else " Not by default.")
        parts.append(f"### `{name}`\n\n{told}\n\n{_table(group.signals)}")
    return "\n".join(parts)


def _table(signals: Iterable) -> str:  # type: ignore[type-arg] - of Signal, which is imported late
    """One row a signal, but one for all languages of the stop words."""
    rows = ["| signal | kind | meaning |", "| --- | --- | --- |"]
    languages = []
    for name, kind, meaning in signals:
        if name.startswith("stop_words_"):
            languages.append(name.removeprefix("stop_words_"))
            continue
        rows.append(f"| `{name}` | {KINDS[kind]} | {meaning.replace('|', chr(92) + '|')} |")
    if languages:
        rows.insert(2, f"| `stop_words_<language>` | count | occurrences of the stop words of {', '.join(languages)} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The page with the tables as they should be."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    return before + BEGIN + "\n" + tables() + "\n" + END + rest.partition(END)[2]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    PAGE.write_text(page(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
