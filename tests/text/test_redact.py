"""Masking of a shard: also in what a page says of itself, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from infra.dataset import Outcome, shard_refs, write_shard
from infra.ids import text_digest
from tasks.redact import redact_shard
from tasks.text.pii import RedactConfig


def test_addresses_are_masked_in_text_title_and_author_and_counted(tmp_path: Path) -> None:
    rows = {
        "doc_id": ["a", "b"],
        "url": ["http://h/someone@example.com", "http://h/b"],
        "text": ["write to someone@example.com", "nothing here"],
        "text_digest": ["", ""],
        "title": ["Mail someone@example.com", None],
        "author": [None, "other@example.com"],
    }
    receipt = write_shard(str(tmp_path), 0, Outcome(pa.table(rows)))
    [shard] = shard_refs(str(tmp_path), [receipt])
    found = redact_shard(shard, RedactConfig())
    masked = found.kept.to_pydict()
    config = RedactConfig()
    assert masked["text"] == [f"write to {config.email_replacement}", "nothing here"]
    assert masked["title"] == [f"Mail {config.email_replacement}", None] and masked["author"] == [None, config.email_replacement]
    assert masked["url"] == rows["url"] and masked["doc_id"] == rows["doc_id"]
    assert masked["text_digest"] == [text_digest(one) for one in masked["text"]]
    assert (found.facts["masked.email"], found.facts["documents_touched"]) == (3, 2)
