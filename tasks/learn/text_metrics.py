"""Scores of answers against references: exact match, token F1, ROUGE, chrF, BLEU, accuracy, macro F1.

Every score of texts has a value for each item, so that two models compare item by item. BLEU and macro F1 of many items are no mean of
single ones: they come with an interval of their own from resampled items. ROUGE is rouge-score's, chrF and BLEU sacrebleu's. Costs 0.3 ms
an item, most of it ROUGE.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics import BLEU, CHRF

from tasks.learn import figures
from tasks.learn.figures import NUM_RESAMPLES, Figure, Floats

Ints = npt.NDArray[np.int64]
ROUGE = {"rouge1": "rouge1", "rouge2": "rouge2", "rouge_l": "rougeL"}
"""Our name and rouge-score's."""
MAX_ORDER = 4
"""n-grams of BLEU (Papineni et al. 2002)."""
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalised(text: str) -> str:
    """SQuAD's normal form (its evaluation script, version 1.1): small letters, no ASCII punctuation, no articles, single spaces."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, reference: str) -> float:
    """1 if both have the same normal form, else 0."""
    return float(normalised(answer) == normalised(reference))


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the words of the normal forms; of two empty ones 1 (SQuAD 2.0)."""
    said, wanted = normalised(answer).split(), normalised(reference).split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))


def item_scores(answers: Sequence[str], references: Sequence[str]) -> dict[str, Floats]:
    """{metric: (N,)}, all from 0 to 1: `exact_match`, `f1`, `rouge1`, `rouge2`, `rouge_l` (F measures, Porter's stems) and `chrf`."""
    pairs = list(zip(answers, references, strict=True))
    rouge, chrf = RougeScorer(list(ROUGE.values()), use_stemmer=True), CHRF()
    overlaps = [rouge.score(reference, answer) for answer, reference in pairs]
    return {
        "exact_match": np.array([exact_match(*pair) for pair in pairs], float),
        "f1": np.array([token_f1(*pair) for pair in pairs], float),
        **{ours: np.array([one[theirs].fmeasure for one in overlaps], float) for ours, theirs in ROUGE.items()},
        "chrf": np.array([chrf.sentence_score(answer, [reference]).score / 100 for answer, reference in pairs], float),
    }


def bleu(name: str, answers: Sequence[str], references: Sequence[str], *, seed: int = 0) -> Figure:
    """BLEU of a corpus, from 0 to 1, as sacrebleu's defaults give it (13a tokens, exponential smoothing), and its interval."""
    # the counts of single sentences add up to the corpus's; smoothing only touches the score that is made of them
    one = BLEU(effective_order=True)
    found = [one.sentence_score(answer, [reference]) for answer, reference in zip(answers, references, strict=True)]
    counts = np.array([[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in found], np.int64)
    return interval(name, lambda drawn: _bleu(counts[drawn].sum(0)), len(found), seed=seed)


def _bleu(counts: Ints) -> float:
    sys_len, ref_len, *rest = (int(count) for count in counts)
    made = BLEU.compute_bleu(rest[:MAX_ORDER], rest[MAX_ORDER:], sys_len, ref_len, smooth_method="exp")
    return float(made.score) / 100


def macro_f1(truth: Ints, said: Ints) -> float:
    """Mean over the classes that are in either of the F1 of each (scikit-learn's average="macro")."""
    scores = []
    for one in np.union1d(truth, said):
        hits = int(((truth == one) & (said == one)).sum())
        scores.append(2 * hits / int((truth == one).sum() + (said == one).sum()))
    return float(np.mean(scores))


def interval(name: str, statistic: Callable[[Ints], float], n: int, *, seed: int = 0) -> Figure:
    """The figure of a statistic that is no ratio of sums, with its interval from resampled items (Efron 1979).

    `statistic` gives the value of the items at some places; here all N, and N drawn with replacement, `NUM_RESAMPLES` times.
    """
    if not n:
        return Figure(name, None, None, None, 0, "higher")
    chance = np.random.default_rng(seed)
    drawn = [statistic(chance.integers(0, n, n)) for _ in range(NUM_RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Figure(name, statistic(np.arange(n)), float(low), float(high), n, "higher")


def score_texts(
    prefix: str, names: Sequence[str], answers: Sequence[str], references: Sequence[str]
) -> tuple[list[Figure], list[pa.Table]]:
    """Figures `prefix.metric` of texts (N,) against their references, and the items of those that have some."""
    scores = item_scores(answers, references)
    made = [
        figures.figure(f"{prefix}.{metric}", values, form="rate" if metric == "exact_match" else "mean", better="higher")
        for metric, values in scores.items()
    ]
    kept = [figures.items(f"{prefix}.{metric}", names, values) for metric, values in scores.items()]
    return [*made, bleu(f"{prefix}.bleu", answers, references)], kept


def score_classes(prefix: str, names: Sequence[str], truth: Ints, said: Ints) -> tuple[list[Figure], list[pa.Table]]:
    """Accuracy of answers by number (N,), its items, and macro F1."""
    hits = (truth == said).astype(np.float64)
    made = [
        figures.figure(f"{prefix}.accuracy", hits, form="rate", better="higher"),
        interval(f"{prefix}.macro_f1", lambda drawn: macro_f1(truth[drawn], said[drawn]), len(hits)),
    ]
    return made, [figures.items(f"{prefix}.accuracy", names, hits)]
