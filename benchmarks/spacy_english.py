"""What `tasks/text/spacy_words.py` knows of spaCy, and what its test compares it with, both out of spaCy itself.

    python spacy_english.py tables > tasks/text/datatrove_data/english.json
    python spacy_english.py texts 1500 > TEXTS.jsonl
    python spacy_english.py tokens TEXTS.jsonl > tests/text/spacy_tokens.jsonl

Runs in datatrove's environment (`benchmarks.peers`), which has spaCy too. `tables`: the characters, special cases and patterns of the
English tokeniser, those of the sentencizer, and datatrove's two sets of punctuation marks, as JSON. `texts`: short texts of what is
hard in English, strung together at random. `tokens`: for each line {"text": …} the tokens, white space aside, and the number of sentences.
"""

from __future__ import annotations

import json
import random
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import spacy
from datatrove.utils.text import PUNCTUATION_SET, TERMINAL_PUNCTUATION
from spacy.lang import char_classes
from spacy.pipeline.sentencizer import Sentencizer
from spacy.tokenizer import Tokenizer

NUM_POINTS = 0x110000
HOSTS = (
    *(
        "example.com",
        "a.b.co.uk",
        "foo_bar.org",
        "x-.com",
        "-x.com",
        "192.168.1.1",
        "8.8.8.8",
        "1.2.3.4",
        "172.16.0.1",
        "172.15.0.1",
    ),
    *(
        "256.1.1.1",
        "10.0.0.1",
        "223.255.255.254",
        "223.255.255.255",
        "01.2.3.4",
        "1.02.03.4",
        "localhost",
        "foo.Bar",
        "foo.bar.c",
    ),
    *(
        "é.fr",
        "日本.jp",
        "a..b",
        "x.museum/path?q=1#f",
        "x.com:80",
        "x.com:80/",
        "x.com:8",
        "x.com:123456",
        "user:pw@x.com",
        "a@b",
    ),
    *("ftp://x.y.zz/", "s3://bucket/key", "x://y.com", "git+ssh://g.io/a", "file.txt", "README.md", "e.g", "node.js", "x.com."),
    *(
        "(x.com)",
        "v1.2.3",
        "3.14",
        "foo.bar()",
        "a" * 64 + ".com",
        "a" * 65 + ".com",
        "b." + "c" * 63,
        "b." + "c" * 64,
        "http://",
    ),
)
MARKS = (
    *"…,:;!?¿¡()[]{}<>_#*&。？！，、；：～·'\"”“`‘´’‚„»«「」（）§%=—–+-.^~/|\\@$£€¥°²©\t\n\u00a0\u2028\u3000",
    *("..", "...", "……", "--", "---", "——", "US$", "C$", "A$", "'s", "’s", "'S", "://", "mailto:", "  "),
)
WORDS = (
    *(
        "foo",
        "Bar",
        "don",
        "a",
        "b",
        "X",
        "Z",
        "com",
        "10",
        "127",
        "5",
        "42",
        "2026",
        "0",
        "ÄÖ",
        "é",
        "ß",
        "привет",
        "Мир",
        "日本",
        "語",
    ),
    *(
        "كم",
        "I",
        "he",
        "It",
        "can",
        "not",
        "NASA",
        "x1",
        "1st",
        "ﬁ",
        "Ⅷ",
        "🙂",
        "👍",
        "₂",
        "½",
        "ǅ",
        "𝒜",
        "𠀀",
        "\u0301",
        "\u200b",
    ),
    *("\u00ad", "IS", "K", "F", "C", "Ph", "D", "U", "S", "end", "The"),
)


def ranges(holds: Callable[[str], Any]) -> list[list[int]]:
    """The code points for which `holds`, as [first, last] of each run."""
    found: list[list[int]] = []
    for point in range(NUM_POINTS):
        if not holds(chr(point)):
            continue
        if found and found[-1][1] == point - 1:
            found[-1][1] = point
        else:
            found.append([point, point])
    return found


def one_of(chars: Iterable[str]) -> list[list[int]]:
    """`ranges` of these characters."""
    return ranges(frozenset(chars).__contains__)


def one_in(character_class: str) -> list[list[int]]:
    """`ranges` of what stands between the brackets of a regular expression."""
    return ranges(re.compile(f"[{character_class}]").fullmatch)


def tables() -> dict[str, Any]:
    """Everything, by name."""
    tokenizer = spacy.blank("en").tokenizer
    affixes = {
        name: getattr(tokenizer, name)
        for name in ("prefix_search", "suffix_search", "infix_finditer", "token_match", "url_match")
    }
    without_rules = Tokenizer(tokenizer.vocab, rules={}, **affixes)
    rules = {orth: [spec[65] if 65 in spec else spec["ORTH"] for spec in specs] for orth, specs in _orths(tokenizer)}
    matched = [orth for orth in rules if _has_affix(tokenizer, orth)]
    marks = [mark.replace("\\", "") for mark in char_classes.LIST_CURRENCY]
    return {
        "spacy": spacy.__version__,
        "classes": {
            "prefix": ranges(tokenizer.prefix_search),
            "suffix": ranges(tokenizer.suffix_search),
            "infix": ranges(lambda char: list(tokenizer.infix_finditer(char))),
            "alpha": one_in(char_classes.ALPHA),
            "lower": one_in(char_classes.ALPHA_LOWER),
            "upper": one_in(char_classes.ALPHA_UPPER),
            "quote": one_in(char_classes.CONCAT_QUOTES),
            "before_dot": ranges(lambda char: _suffix(tokenizer, f"{char}.") == "."),
            "currency": one_of(mark for mark in marks if len(mark) == 1),
            "sentence_end": one_of(Sentencizer.default_punct_chars),
            "punctuation": one_of(PUNCTUATION_SET),
            "terminal": one_of(TERMINAL_PUNCTUATION),
        },
        "currencies": [mark for mark in marks if len(mark) > 1],
        "units": sorted(set(char_classes.UNITS.split("|"))),
        "special_cases": rules,
        "patterns": {orth: [token.text for token in without_rules(orth)] for orth in matched},
    }


def _orths(tokenizer: Any) -> Iterator[tuple[str, list[dict[Any, str]]]]:
    yield from sorted(tokenizer.rules.items())


def _has_affix(tokenizer: Any, orth: str) -> bool:
    """Whether the special case is looked for among the finished tokens too (`Tokenizer.add_special_case`)."""
    return bool(tokenizer.find_prefix(orth) or tokenizer.find_infix(orth) or tokenizer.find_suffix(orth) or " " in orth)


def _suffix(tokenizer: Any, text: str) -> str:
    found = tokenizer.suffix_search(text)
    return found.group() if found else ""


def texts(number: int) -> Iterator[dict[str, str]]:
    """The same ones every time."""
    told, draw = tables(), random.Random(11)
    cases, parts = list(told["special_cases"]), [token for pattern in told["patterns"].values() for token in pattern]
    pools = (cases, told["units"], parts, HOSTS, MARKS, MARKS, WORDS, WORDS)
    for _ in range(number):
        pieces = [draw.choice(draw.choice(pools)) + " " * (draw.random() < 0.25) for _ in range(draw.randint(1, 12))]
        yield {"text": "".join(pieces)}


def tokens(path: Path) -> Iterator[dict[str, Any]]:
    """What spaCy makes of each text, as datatrove asks it (`SpaCyTokenizer`)."""
    nlp = spacy.blank("en")
    nlp.add_pipe("sentencizer")
    for line in path.read_text(encoding="utf-8").splitlines():
        text = json.loads(line)["text"]
        document = nlp(text)
        yield {
            "text": text,
            "tokens": [token.text for token in document if not token.text.isspace()],
            "num_sentences": sum(1 for _ in document.sents),
        }


def main() -> None:
    """Print what is asked for."""
    if sys.argv[1] == "tables":
        print(json.dumps(tables(), ensure_ascii=False, sort_keys=True, indent=None, separators=(",", ":")))
    else:
        for row in texts(int(sys.argv[2])) if sys.argv[1] == "texts" else tokens(Path(sys.argv[2])):
            print(json.dumps(row))


if __name__ == "__main__":
    main()
