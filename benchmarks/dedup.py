"""Deduplication end to end beside five peers, in one run over one corpus of planted pairs: speed per core, recall, precision, memory.

    python -m benchmarks.dedup [--documents N] [--datatrove-documents N] [--peers NAME …]     the comparison
    python -m benchmarks.dedup --agreement [--pairs FILE]                    who finds which planted pair; ends with 1 where a tool differs
    python -m benchmarks.dedup --scaling [--sizes N N N]                     time, memory and disk of ours at 1, 10 and 100 times the size

Everybody gets the Parquet files of `benchmarks.edited_corpus`, word 5-grams, 14 bands of 8 hashes, and one core in a process of its own.
The time is processor time of that process and its children, from start to the kept documents on disk (for datasketch and rensa, which are
libraries, with shingles made in Python as their users do). datatrove gets fewer documents, made in the same way, because it needs so long;
its rate is per MB, as all rates are; the limit is held at a million of ours (`--documents 1000000 --peers datatrove`), of 100,000 our
start and the estimate beforehand take a fifth. Recall is of pairs with an exact Jaccard similarity of at least 0.85, precision of what was
removed at 0.75: the share that has a kept document so near, exact copies counted once; truth is by brute force
(`benchmarks.dedup_truth`) on whole families of up to 20,000 documents. Limits (exit code 1 where missed): 100 times datatrove, 10 times
text-dedup, faster than rensa; recall 0.97, precision 0.99. Agreement is asked of pairs that are at least 0.95 or at most 0.3 alike, by our
shingles and by the peer's own: of what our bands propose, before anything is verified, and of what the peer removes. Hashes propose a pair
of 0.3 once in 1,100 times, so a tool disagrees only where it differs on more pairs than such chance explains.
Scaling: time no worse than n·log n, and the million documents within 30 minutes, 4 GiB and 3 times the input on disk.
On two cores: the comparison 12 minutes with the environments made, the agreement 3, the scaling with its corpora about 15.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import dedup_truth
from benchmarks.dedup_runs import OURS, PEERS, SCRIPTS, Corpus, Peer, corpus_of, is_kept, run_tool
from benchmarks.dedup_truth import Truth
from benchmarks.edited_corpus import Kind, Plan, Sentences, read_sentences, texts_of_plan
from benchmarks.peers import peer_environment
from tasks.text import clusters, minhash
from tasks.text.minhash import SketchConfig

Flags = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]

DATATROVE_DOCUMENTS = 1_000_000
"""Of ours from which on its limit is held."""
TIMES_DATATROVE, TIMES_TEXT_DEDUP, TIMES_RENSA = 100.0, 10.0, 1.0
MIN_RECALL, MIN_PRECISION = 0.97, 0.99
ALIKE, APART = 0.95, 0.3
"""Pairs at least so near, or at most, are those that all tools must agree on."""
MIN_CHANCE = 0.001
"""Of as many differences as there are, where only the draw of hashes makes them."""
EDGES = tuple(round(0.3 + 0.05 * step, 2) for step in range(14))
PROPOSED = "proposed"
"""Ours before verification."""
MAX_TRUTH_DOCUMENTS = 20_000
MAX_MINUTES, MAX_BYTES, MAX_TIMES_INPUT = 30.0, 4 << 30, 3.0
"""Of a million documents on two cores."""
SLACK = 1.15
"""By how much time per n·log n may grow, which is what a run differs from the next."""


# --- the comparison --------------------------------------------------------------------------------------------------


def sampled_rows(plan: Plan, max_documents: int = MAX_TRUTH_DOCUMENTS) -> Plan:
    """Whole families, in the order of their numbers' hash, of at most so many documents; the one huge family is left out."""
    families, counts = np.unique(plan["family"], return_counts=True)
    few = counts <= max(1, max_documents // 10)
    order = np.random.default_rng(0).permutation(np.flatnonzero(few))
    chosen = families[order[np.cumsum(counts[order]) <= max_documents]]
    return plan[np.isin(plan["family"], chosen)]


def compare(num_documents: int, datatrove_documents: int, peers: Sequence[str] = tuple(PEERS)) -> int:
    """Print how everybody does; 1 where a limit is missed."""
    whole = corpus_of(num_documents)
    part = corpus_of(datatrove_documents) if datatrove_documents < num_documents else whole
    minhash.compile_kernels()
    truths = {id(one): (rows := sampled_rows(one.plan), truth_of_rows(rows, one)) for one in (whole, part)}
    for name in peers:
        peer_environment(PEERS[name].packages)
    print(
        f"{num_documents:,} documents, {whole.num_mb:,.0f} MB of text, one core each; datatrove {part.num_mb:,.0f} MB", flush=True
    )
    print(
        f"{'':<12}{'MB/s core':>10}{'times':>8}{'kept':>10}{'recall':>8}{'precision':>10}{'copies':>8}{'bucket':>8}"
        f"{'wall':>9}{'memory':>9}{'disk':>9}"
    )
    rates, ours = {}, None
    for name in (OURS, *peers):
        corpus = part if name == "datatrove" else whole
        used, kept = run_tool(name, corpus)
        rates[name] = corpus.num_mb / used.cpu_s
        rows, truth = truths[id(corpus)]
        found = dedup_truth.score(truth, is_kept(rows, corpus, kept))
        ours = ours or found
        bucket = is_kept(corpus.plan[corpus.plan["kind"] == Kind.BUCKET], corpus, kept)
        print(
            f"{name:<12}{rates[name]:>10.2f}{rates[OURS] / rates[name]:>8.1f}{len(kept):>10,}{found.recall:>8.4f}"
            f"{found.precision:>10.4f}{found.copies:>8.4f}{int(bucket.sum()):>8,}{used.wall_s:>7.0f} s"
            f"{used.total_bytes / 1e6:>6,.0f} MB{used.disk_bytes / 1e6:>6,.0f} MB",
            flush=True,
        )
    assert ours is not None
    print(f"truth: {ours.num_pairs:,} pairs of at least 0.85 among {len(truths[id(whole)][0]):,} documents, by brute force")
    limits = [
        (f"{peer}, at least {times:g} x", rates[OURS] / rates[peer], times)
        for peer, times in (("datatrove", TIMES_DATATROVE), ("text-dedup", TIMES_TEXT_DEDUP), ("rensa", TIMES_RENSA))
        if peer in peers and (peer != "datatrove" or num_documents >= DATATROVE_DOCUMENTS)
    ]
    limits += [("recall at 0.85", ours.recall, MIN_RECALL), ("precision at 0.75", ours.precision, MIN_PRECISION)]
    return _judged(limits)


def truth_of_rows(rows: Plan, corpus: Corpus) -> Truth:
    """What is true of these documents of a corpus."""
    return dedup_truth.truth_of(texts_of_plan(rows, read_sentences(corpus.config.sentences)), SketchConfig())


def _judged(limits: Sequence[tuple[str, float, float]]) -> int:
    """Print each (what, value, at least); 1 where one is missed."""
    for what, value, least in limits:
        print(f"{what}: {value:.4g} of {least:g}: {'met' if value >= least else 'MISSED'}")
    return int(any(value < least for _, value, least in limits))


# --- the agreement ---------------------------------------------------------------------------------------------------


class Pairs(NamedTuple):
    """Planted pairs, one a row."""

    left: Plan
    right: Plan
    left_text: pa.Array
    right_text: pa.Array
    jaccard: Floats
    """Exact, of our shingles."""


def pairs_of(rows: Plan, sentences: Sentences, config: SketchConfig) -> Pairs:
    """The originals and the copies of a plan that has nothing but pairs, in the order of families."""
    rows = np.sort(rows, order=["family", "copy"])
    left, right = rows[0 : len(rows) // 2 * 2 : 2], rows[1::2]
    left_text, right_text = texts_of_plan(left, sentences), texts_of_plan(right, sentences)
    values, offsets = minhash.shingle_hashes(pa.concat_arrays([left_text, right_text]), config)
    first = np.arange(len(right))
    return Pairs(left, right, left_text, right_text, minhash.jaccard_pairs(values, offsets, first, first + len(right)))


def proposed(pairs: Pairs, config: SketchConfig) -> Flags:
    """Which pairs our bands propose, before any is verified."""
    texts = pa.concat_arrays([pairs.left_text, pairs.right_text])
    keys = minhash.band_keys(minhash.signatures(texts, config), config)
    bands = [clusters.propose(np.ascontiguousarray(column), np.arange(len(texts))).pairs for column in keys.T]
    found = clusters.unique_pairs(*bands)
    number = len(pairs.left)
    flags = np.zeros(number, np.bool_)
    flags[found[found[:, 1] - found[:, 0] == number, 0]] = True
    return flags


def likeness(peer: Peer, pairs: Pairs) -> Floats:
    """The exact Jaccard similarity of each pair, of the peer's own shingles."""
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as home:
        path = Path(home) / "pairs.jsonl"
        texts = zip(pairs.left_text.to_pylist(), pairs.right_text.to_pylist(), strict=True)
        path.write_text("\n".join(json.dumps({"left": left, "right": right}) for left, right in texts), encoding="utf-8")
        program = (str(peer_environment(peer.packages)), str(SCRIPTS / peer.script))
        command = ["env", "-u", "PYTHONPATH", *program, "likeness", str(path)]
        told = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return np.array(json.loads(told.splitlines()[-1]))


def sure_pairs(jaccard: Floats, own: Floats) -> tuple[Flags, Flags]:
    """Pairs that are alike, and that are apart, by both measures."""
    return (jaccard >= ALIKE) & (own >= ALIKE), (jaccard <= APART) & (own <= APART)


def agreement(num_documents: int, pairs_file: Path | None) -> int:
    """Print who finds which share of the planted pairs, by how alike they are; 1 where a tool and ours do not agree."""
    config = SketchConfig()
    corpus = corpus_of(num_documents, median_words=300, shares={"pair": 1.0})
    pairs = pairs_of(corpus.plan, read_sentences(corpus.config.sentences), config)
    found = {PROPOSED: proposed(pairs, config)}
    own = {PROPOSED: pairs.jaccard}
    for name in (OURS, *PEERS):
        _, kept = run_tool(name, corpus)
        found[name] = ~(is_kept(pairs.left, corpus, kept) & is_kept(pairs.right, corpus, kept))
        own[name] = pairs.jaccard if name == OURS else likeness(PEERS[name], pairs)
        print(f"{name}: {int(found[name].sum()):,} of {len(pairs.jaccard):,} planted pairs found", flush=True)
    if pairs_file:
        columns = {f"{kind} {name}": values for kind, of in (("jaccard", own), ("found", found)) for name, values in of.items()}
        rates = pa.array(pairs.right["edit_rate"][:, 0])
        pq.write_table(pa.table({"family": pairs.right["family"], "edit_rate": rates, **columns}), pairs_file)
    _print_bands(pairs, found, config)
    return _print_verdicts(pairs, found, own, config)


def _print_bands(pairs: Pairs, found: Mapping[str, Flags], config: SketchConfig) -> None:
    print("by exact Jaccard: the share that is found, and of what is found the share at least as alike as the lower edge")
    print(f"{'':<11}{'pairs':>6}{'curve':>7}" + "".join(f"{name:>14}" for name in found))
    for low, high in ((0.0, APART), *pairwise(EDGES), (ALIKE, 1.01)):
        inside = (pairs.jaccard >= low) & (pairs.jaccard < high)
        curve = _mean(minhash.candidate_probability(pairs.jaccard[inside], config))
        cells = "".join(f"{_mean(one[inside]):>7.3f}{_mean(pairs.jaccard[one] >= low):>7.3f}" for one in found.values())
        print(f"{low:.2f}-{min(high, 1):.2f}  {int(inside.sum()):>6}{curve:>7.3f}{cells}")


def _print_verdicts(pairs: Pairs, found: Mapping[str, Flags], own: Mapping[str, Floats], config: SketchConfig) -> int:
    """Where a tool differs from what ours proposes; 1 where one does by more than chance."""
    failed = 0
    print(f"{'':<12}{'similarity beside ours':>24}{'alike: pairs':>14}{'differ':>8}{'apart: pairs':>14}{'differ':>8}")
    for name in PEERS:
        beside = np.abs(own[name] - pairs.jaccard)
        how_far = f"mean {beside.mean():.3f} max {beside.max():.3f}"
        groups, differ = sure_pairs(pairs.jaccard, own[name]), found[name] != found[PROPOSED]
        cells = "".join(f"{int(one.sum()):>14,}{int((one & differ).sum()):>8,}" for one in groups)
        print(f"{name:<12}{how_far:>24}{cells}")
        for pair in np.flatnonzero((groups[0] | groups[1]) & differ):
            who = "it alone" if found[name][pair] else "ours alone"
            print(f"  {who} finds one of {pairs.jaccard[pair]:.3f} by our shingles, {own[name][pair]:.3f} by its own")
        for one in groups:
            chance = chance_of(int((one & differ).sum()), pairs.jaccard[one], own[name][one], config)
            failed |= int(chance < MIN_CHANCE)
    print(f"agreement: {'MISSED' if failed else 'met'}")
    return failed


def chance_of(num_differing: int, jaccard: Floats, own: Floats, config: SketchConfig) -> float:
    """How likely at least so many pairs differ where two tools draw their hashes for themselves: the tail of Poisson's distribution."""
    ours, theirs = minhash.candidate_probability(jaccard, config), minhash.candidate_probability(own, config)
    expected = float((ours * (1 - theirs) + theirs * (1 - ours)).sum())
    fewer = sum(math.exp(-expected) * expected**number / math.factorial(number) for number in range(num_differing))
    return 1 - fewer


def _mean(values: Any) -> float:
    return float(np.mean(values)) if len(values) else math.nan


# --- scaling ---------------------------------------------------------------------------------------------------------


def scaling(sizes: Sequence[int], workers: int) -> int:
    """Print what ours uses at each size; 1 where a limit is missed."""
    print(
        f"{workers} workers; memory of the largest process and of all; disk at the worst time, and as a multiple of the input's files"
    )
    columns = ("text", "MB/s", "wall", "CPU", "n·log n", "largest", "memory", "disk", "times", "kept", "recall", "precision")
    print(f"{'documents':>10}" + "".join(f"{column:>11}" for column in columns))
    costs, limits = {}, []
    for size in sizes:
        corpus = corpus_of(size)
        used, kept = run_tool(OURS, corpus, workers)
        rows = sampled_rows(corpus.plan)
        found = dedup_truth.score(truth_of_rows(rows, corpus), is_kept(rows, corpus, kept))
        costs[size] = used.wall_s / (size * math.log2(size)) * 1e6
        times_input = used.disk_bytes / corpus.file_bytes
        cells = (
            *(f"{corpus.num_mb:,.0f} MB", f"{corpus.num_mb / used.wall_s:.1f}", f"{used.wall_s:.1f} s", f"{used.cpu_s:.1f} s"),
            *(f"{costs[size]:.3f} µs", f"{used.largest_bytes / 1e6:,.0f} MB", f"{used.total_bytes / 1e6:,.0f} MB"),
            *(f"{used.disk_bytes / 1e6:,.0f} MB", f"{times_input:.2f}", f"{len(kept):,}"),
            *(f"{found.recall:.4f}", f"{found.precision:.4f}"),
        )
        print(f"{size:>10,}" + "".join(f"{cell:>11}" for cell in cells), flush=True)
        limits += [(f"recall at {size:,}", found.recall, MIN_RECALL), (f"precision at {size:,}", found.precision, MIN_PRECISION)]
        if size >= 1_000_000:
            limits += [
                ("30 minutes over those it took", MAX_MINUTES * 60 / used.wall_s, 1),
                ("4 GiB over the memory of all processes", MAX_BYTES / used.total_bytes, 1),
                ("3 times the input over its disk", MAX_TIMES_INPUT / times_input, 1),
            ]
    for small, large in pairwise(sizes):
        limits.append((f"n·log n over the growth from {small:,} to {large:,}", SLACK * costs[small] / costs[large], 1))
    return _judged(limits)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000, help="of the comparison")
    parser.add_argument("--datatrove-documents", type=int, default=5_000, help="for datatrove, as many or fewer")
    parser.add_argument("--peers", nargs="+", choices=tuple(PEERS), default=tuple(PEERS), help="to compare with")
    parser.add_argument("--agreement", action="store_true", help="planted pairs, one by one")
    parser.add_argument("--agreement-documents", type=int, default=4_000, help="two for each pair")
    parser.add_argument("--pairs", type=Path, help="Parquet file for every pair's similarities and who found it")
    parser.add_argument("--scaling", action="store_true", help="ours at several sizes")
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--workers", type=int, default=2, help="of --scaling")
    given = parser.parse_args()
    if given.scaling:
        sys.exit(scaling(given.sizes, given.workers))
    if given.agreement:
        sys.exit(agreement(given.agreement_documents, given.pairs))
    sys.exit(compare(given.documents, given.datatrove_documents, given.peers))


if __name__ == "__main__":
    main()
