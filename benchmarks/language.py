"""Language identification beside the model it wraps, per language, on labelled sentences and on paragraphs made of them.

    python -m benchmarks.language FOLDER [--sentences-per-paragraph N]

FOLDER has one text file per language, named by its code, with a sentence a line (as ../shared/data/language). Ours is `identify` as
`signals` calls it by default: pre-normalised, in one batch, `unknown` below the floor, which counts as wrong and is shown apart. The
model's own accuracy is lid.176.ftz asked for each raw line by itself. Intervals are Wilson's of 95 %.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist

import fasttext
import numpy as np
import pyarrow as pa

from infra.settings import settings
from tasks.signals import SignalsConfig
from tasks.text.disparity import wilson
from tasks.text.language import UNKNOWN, identify

SENTENCES_PER_PARAGRAPH = 5
NUM_CONFUSIONS = 10
Z_95 = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Score:
    """What was said of the texts of one language."""

    language: str
    num_texts: int
    num_right: int
    num_unknown: int
    num_right_model: int
    mistaken_for: Mapping[str, int]
    """Languages that ours named instead."""

    @property
    def accuracy(self) -> float:
        """Of all texts; `unknown` is wrong."""
        return self.num_right / self.num_texts

    @property
    def accuracy_of_model(self) -> float:
        """The wrapped model's, without a floor."""
        return self.num_right_model / self.num_texts

    @property
    def accuracy_of_answers(self) -> float:
        """Of the texts of which ours names a language."""
        return self.num_right / max(self.num_texts - self.num_unknown, 1)


def sentences(folder: Path) -> dict[str, list[str]]:
    """Language → sentences, of every text file of a folder."""
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise SystemExit(f"{folder}: holds no .txt files named by language; see ../shared/data/README.md")
    return {path.stem: [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()] for path in files}


def paragraphs(texts: Sequence[str], num_sentences: int) -> list[str]:
    """Every `num_sentences` texts as one, without what is left over."""
    return [" ".join(texts[at : at + num_sentences]) for at in range(0, len(texts) - num_sentences + 1, num_sentences)]


def score(language: str, texts: Sequence[str], model_path: Path, floor: float) -> Score:
    """Ours and the model on texts of one language."""
    named = Counter(identify(pa.array(texts), model_path, min_score=floor)[0].to_pylist())
    model = fasttext.load_model(str(model_path))
    own = sum(model.predict(text)[0][0] == f"__label__{language}" for text in texts)
    mistaken_for = {name: count for name, count in named.items() if name not in (language, UNKNOWN)}
    return Score(language, len(texts), named[language], named[UNKNOWN], own, mistaken_for)


def table(scores: Sequence[Score]) -> list[str]:
    """A Markdown table, the macro averages and the worst confusions."""
    lines = [
        "| language | texts | ours, % | unknown | of its answers, % | model alone, % |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in scores:
        ours, model = (_with_interval(right, one.num_texts) for right in (one.num_right, one.num_right_model))
        answers = f"{100 * one.accuracy_of_answers:.1f}"
        lines.append(f"| {one.language} | {one.num_texts} | {ours} | {one.num_unknown} | {answers} | {model} |")
    macro = [
        100 * sum(values) / len(scores)
        for values in zip(*((one.accuracy, one.accuracy_of_answers, one.accuracy_of_model) for one in scores), strict=True)
    ]
    total, unknown = sum(one.num_texts for one in scores), sum(one.num_unknown for one in scores)
    lines.append(
        f"| macro average | {total} | {macro[0]:.2f} | {unknown} ({100 * unknown / total:.2f} %) | {macro[1]:.2f} | {macro[2]:.2f} |"
    )
    pairs = Counter({(one.language, other): count for one in scores for other, count in one.mistaken_for.items()})
    worst = sorted(pairs.items(), key=lambda pair: (-pair[1], pair[0]))[:NUM_CONFUSIONS]
    told = ", ".join(f"{language} as {other} {count}" for (language, other), count in worst)
    return [*lines, "", f"Confused most: {told or 'none'}."]


def _with_interval(right: int, total: int) -> str:
    [low], [high] = wilson(np.array([right], float), np.array([total], float), Z_95)
    return f"{100 * right / total:.1f} ({100 * low:.1f} to {100 * high:.1f})"


def main() -> None:
    """Print both tables, and how many documents a second are identified."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sentences-per-paragraph", type=int, default=SENTENCES_PER_PARAGRAPH)
    arguments = parser.parse_args()
    model_path, floor = settings().language_model, SignalsConfig().language_floor
    given = sentences(arguments.folder)
    longer = {language: paragraphs(texts, arguments.sentences_per_paragraph) for language, texts in given.items()}
    for name, texts in (("Sentences", given), (f"Paragraphs of {arguments.sentences_per_paragraph} sentences", longer)):
        lengths = [len(text) for some in texts.values() for text in some]
        mean = sum(lengths) / len(lengths)
        print(f"\n{name}, {mean:.0f} characters on average\n")
        print("\n".join(table([score(language, some, model_path, floor) for language, some in texts.items() if some])))
    everything = pa.array([" ".join(texts) for texts in longer.values()] * 50)
    started = time.process_time()
    identify(everything, model_path, min_score=floor)
    rate = len(everything) / (time.process_time() - started)
    print(f"\n{rate:,.0f} documents a second of one core, of which 1,000 characters are read")


if __name__ == "__main__":
    main()
