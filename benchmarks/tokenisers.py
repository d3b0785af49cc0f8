"""Tokens per word, bytes per token and unknown tokens by kind and vocabulary size, on texts that the tokenisers have not seen.

    PYTHONPATH=. python benchmarks/tokenisers.py ../shared/data

Learns from WikiText-2's validation part and every other sentence of 24 languages (lingua's), and measures on WikiText-2's test part and the
other sentences, with the project's own code. Prints the tables of docs/tokenise.md; about half a minute on one core.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from infra.ids import text_digest
from models import tokeniser
from models.tokeniser import TokeniserConfig
from tasks.learn import fertility, tokens
from tasks.learn.tokens import TokenShard

SIZES = (2048, 8192, 32768)
LANGUAGES = ("en", "de", "fi", "ru", "ar", "hi", "zh")
Row = tuple[str, str, str]  # text, source, language


def main() -> None:
    """Print the tables."""
    data = Path(sys.argv[1])
    train = [*paragraphs(data / "text" / "wikitext2_valid.txt"), *sentences(data / "language", 0)]
    unseen = table([*paragraphs(data / "text" / "wikitext2_test.txt"), *sentences(data / "language", 1)])
    texts = [text for text, _, _ in train]
    print(f"learnt from {sum(len(text.encode()) for text in texts):,} bytes; measured on {unseen.num_rows:,} documents\n")
    configs = [TokeniserConfig(kind=kind, vocab_size=size) for kind in ("bpe", "wordpiece") for size in SIZES]  # type: ignore[arg-type]
    configs.append(TokeniserConfig(kind="wordpiece", vocab_size=32768, alphabet_size=6000))
    for config in configs:
        show(config, texts, unseen)


def show(config: TokeniserConfig, texts: list[str], unseen: pa.Table) -> None:
    """One row of each table, with its name in front."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        tokeniser.save(tokeniser.train(texts, config), folder)
        seconds, roles = time.perf_counter() - started, tokeniser.roles(folder)
        shard = TokenShard(*tokens.encode_shard(unseen, folder))
        found = {
            (one.kind, one.name): one
            for one in fertility.summed([fertility.measure(unseen, shard, roles, "test")], roles.vocab_size)
        }
        lost = tokeniser.lost(tokeniser.load(folder))
    name = f"{config.kind}, {config.vocab_size:,}" + (f", alphabet {config.alphabet_size:,}" if config.alphabet_size else "")
    wiki = found["source", "wikitext"]
    interval = f"{wiki.fertility:.2f} ({wiki.fertility_low:.2f}–{wiki.fertility_high:.2f})"
    unknown, used = 100 * (wiki.unknown_rate or 0), 100 * wiki.vocab_used
    print(
        f"A | {name} | {roles.vocab_size:,} | {seconds:.1f} s | {interval} | {wiki.bytes_per_token:.2f} | {unknown:.2f} % | {used:.0f} % |"
    )
    rows = [found["language", code] for code in LANGUAGES]
    print(f"B | {name} | " + " | ".join(f"{one.fertility:.2f} / {one.bytes_per_token:.2f}" for one in rows) + " |")
    print(f"C | {name} | " + " | ".join(f"{100 * (one.unknown_rate or 0):.1f} %" for one in rows) + f" | {', '.join(lost)} |")


def paragraphs(path: Path) -> list[Row]:
    """WikiText's paragraphs, as documents."""
    return [(line.strip(), "wikitext", "en-wiki") for line in path.read_text().splitlines() if line.strip()]


def sentences(folder: Path, remainder: int) -> list[Row]:
    """Every other sentence of each language."""
    return [
        (line, "sentences", path.stem)
        for path in sorted(folder.glob("*.txt"))
        for number, line in enumerate(path.read_text().splitlines())
        if number % 2 == remainder and line.strip()
    ]


def table(rows: list[Row]) -> pa.Table:
    """Documents as the step has them."""
    names = [text_digest(f"{number} {text}") for number, (text, _, _) in enumerate(rows)]
    columns = {"doc_id": names, "text": [r[0] for r in rows], "source": [r[1] for r in rows], "language": [r[2] for r in rows]}
    return pa.table(columns, schema=pa.schema([(name, pa.string()) for name in columns]))


if __name__ == "__main__":
    main()
