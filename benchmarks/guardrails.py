"""The guardrails measured on labelled texts, with every table that docs/guardrails.md prints.

    python -m benchmarks.guardrails ../shared/data [--attacks FILE]

Injection: our labelled halves, and any JSONL of attacks (`text`) named by --attacks. Harmless texts: 999 instructions, paragraphs of
WikiText-2, CrowS-Pairs, Winogender, and sentences of 24 languages. Toxicity: Davidson's messages, those that a classifier trained on the
others has not seen. Personal data: 1,500 texts with marked spans. Costs about three minutes; nothing is kept.
"""

from __future__ import annotations

import argparse
import csv
import json
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tasks.guard import GuardConfig, guard
from tasks.serving.guardrails import Guard
from tasks.serving.policy import load_policy
from tasks.toxicity import ToxicityConfig, toxicity

LABELLED = Path(__file__).parent.parent / "tasks" / "serving" / "labelled"
PRESETS = ("default", "strict")
Figures = dict[str, dict[str, Any]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder with toxicity/, bias/, tuning/, text/, language/ and pii/")
    parser.add_argument("--attacks", type=Path, action="append", default=[], help="a JSONL file of attacks, field `text`")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gristmill-bench-") as folder:
        of_injection(Path(folder), given.attacks)
        of_harmless(given.data, Path(folder))
        of_toxicity(given.data, Path(folder))
        of_pii(given.data, Path(folder))
    of_speed(given.data)


def measured(folder: Path, name: str, policy: str, sources: Iterable[Mapping[str, Any]], **more: Any) -> Figures:
    """The figures of the step, by name."""
    config = GuardConfig.model_validate({"policy": policy, "sources": list(sources), "templates": False, "suite": None, **more})
    made = guard.run([], config, str(folder / name)).shards
    return {one["name"]: one for one in json.loads(made.read_file("scores.json"))["figures"]}


def told(figures: Figures, name: str) -> str:
    """A figure with its interval."""
    one = figures.get(name)
    if one is None or one["value"] is None:
        return "–"
    return f"{one['value']:.3f} ({one['low']:.3f}–{one['high']:.3f})"


def of_injection(folder: Path, attacks: Iterable[Path]) -> None:
    """Our halves, and attacks of others."""
    print("## Injection\n\n| texts | policy | attacks | recall | harmless | precision | over-blocking |")
    print("| --- | --- | ---: | --- | ---: | --- | --- |")
    sets = {f"ours, {part}": (LABELLED / f"injection_{part}.jsonl", None) for part in ("held_out", "written")}
    sets |= {path.stem: (path, "injection") for path in attacks}
    for number, (name, (path, label)) in enumerate(sets.items()):
        for policy in PRESETS:
            found = measured(folder, f"injection-{number}-{policy}", policy, [{"path": str(path), "label": label}])
            harmless = found.get("guard.injection.over_blocking", {"n": 0})["n"]
            cells = (told(found, f"guard.injection.{what}") for what in ("recall", "precision", "over_blocking"))
            recall, precision, blocked = cells
            precision = precision if harmless else "–"
            print(
                f"| {name} | {policy} | {found['guard.injection.recall']['n']} | {recall} | {harmless} | {precision} | {blocked} |"
            )
    print()


def of_harmless(data: Path, folder: Path) -> None:
    """Who is over-blocked: texts that nobody should refuse."""
    sources = []
    for name, rows in _harmless(data).items():
        sources.append({"path": str(_jsonl(folder / f"{name}.jsonl", rows)), "name": name, "label": "harmless"})
    found = {policy: measured(folder, f"harmless-{policy}", policy, sources, templates=True) for policy in PRESETS}
    for heading, part in (("harmless texts", ".source."), ("texts that name", ".group.")):
        print(
            f"## Over-blocking by {part.strip('.')}\n\n| {heading} | number | " + " | ".join(f"{one}: any" for one in PRESETS),
            end="",
        )
        print(" | strict: injection | strict: personal data | strict: bad words |\n| --- | ---: | --- | --- | --- | --- | --- |")
        prefix = f"guard.any.over_blocking{part}"
        for name in [one.removeprefix(prefix) for one in found["strict"] if one.startswith(prefix)]:
            cells = [told(found[policy], prefix + name) for policy in PRESETS]
            cells += [
                told(found["strict"], f"guard.{rule}.over_blocking{part}{name}") for rule in ("injection", "pii", "toxicity")
            ]
            print(f"| {name} | {found['strict'][prefix + name]['n']:,} | " + " | ".join(cells) + " |")
        print()


def _harmless(data: Path) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    with (data / "tuning" / "alpaca_en_demo.json").open(encoding="utf-8") as file:
        rows["instructions"] = [{"text": f"{one['instruction']}\n{one['input']}".strip()} for one in json.load(file)]
    wiki = (data / "text" / "wikitext2_test.txt").read_text(encoding="utf-8").split("\n")
    rows["wikitext"] = [{"text": line} for line in wiki if len(line) > 200]
    with (data / "bias" / "crows_pairs.csv").open(encoding="utf-8", newline="") as file:
        pairs = list(csv.DictReader(file))
    rows["crows_pairs"] = [
        {"text": pair[key], "group": f"about {pair['bias_type']}"} for pair in pairs for key in ("sent_more", "sent_less")
    ]
    with (data / "bias" / "winogender_all.tsv").open(encoding="utf-8", newline="") as file:
        rows["winogender"] = [{"text": row["sentence"]} for row in csv.DictReader(file, delimiter="\t")]
    for path in sorted((data / "language").glob("*.txt")):
        rows[f"language_{path.stem}"] = [{"text": line} for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    return rows


def of_toxicity(data: Path, folder: Path) -> None:
    """Lists, a classifier, and both, on messages that the classifier has not seen."""
    with (data / "toxicity" / "davidson_labeled.csv").open(encoding="utf-8", newline="") as file:
        rows = [{"text": row["tweet"], "label": row["class"]} for row in csv.DictReader(file)]
    source = {
        "kind": "folder",
        "path": str(_jsonl(folder / "messages.jsonl", rows)),
        "names": {"0": "hate", "1": "offensive", "2": "neither"},
    }
    config = ToxicityConfig.model_validate(
        {"sources": [source], "classes": ["hate", "offensive", "neither"], "toxic": ["hate", "offensive"]}
    )
    made = toxicity.run([], config, str(folder / "toxicity")).shards
    unseen = [
        row for shard in made.shards() for row in shard.read(["text", "label", "part"]).to_pylist() if row["part"] == "test"
    ]
    labels = {"hate": "toxicity", "offensive": "toxicity", "neither": "harmless"}
    texts = _jsonl(folder / "unseen.jsonl", [{"text": row["text"], "label": labels[row["label"]]} for row in unseen])
    rules = {
        "list": {"lists": ["en"]},
        "classifier, 0.5": {"classifier": made.folder, "threshold": 0.5},
        "classifier, 0.9": {"classifier": made.folder, "threshold": 0.9},
        "classifier 0.5 and list": {"classifier": made.folder, "threshold": 0.5, "lists": ["en"], "both": True},
    }
    found = {}
    for number, (name, rule) in enumerate(rules.items()):
        policy = folder / f"toxicity-{number}.yaml"
        policy.write_text(yaml.safe_dump({"rules": [{"kind": "toxicity", **rule}]}))
        found[name] = measured(folder, f"toxicity-{number}", str(policy), [{"path": str(texts)}])
    print("## Toxicity\n\n| rule | precision | recall | harmless that it hits |\n| --- | --- | --- | --- |")
    for name, figures in found.items():
        print(
            f"| {name} | "
            + " | ".join(told(figures, f"guard.toxicity.{what}") for what in ("precision", "recall", "over_blocking"))
            + " |"
        )
    prefix = "guard.toxicity.over_blocking.group."
    print("\n| harmless messages that name | number | " + " | ".join(rules) + " |\n| --- | ---: |" + " --- |" * len(rules))
    for name, figure in found["list"].items():
        if name.startswith(prefix) and figure["n"] >= 20:
            print(
                f"| {name.removeprefix(prefix)} | {figure['n']} | " + " | ".join(told(one, name) for one in found.values()) + " |"
            )
    print()


def of_pii(data: Path, folder: Path) -> None:
    """Marked spans, by type."""
    source = {"path": str(data / "pii" / "synth_dataset_v2.json"), "fields": {"text": "full_text"}}
    found = {policy: measured(folder, f"pii-{policy}", policy, [source]) for policy in PRESETS}
    for what in ("recall", "precision"):
        prefix = f"guard.pii.spans.{what}.type."
        print(f"## Personal data: {what}\n\n| {what} of | number | default | strict |\n| --- | ---: | --- | --- |")
        names = dict.fromkeys(one for figures in found.values() for one in figures if one.startswith(prefix))
        for name in names:
            number = max(figures[name]["n"] for figures in found.values() if name in figures)
            print(f"| {name.removeprefix(prefix)} | {number} | {told(found['default'], name)} | {told(found['strict'], name)} |")
        total = f"guard.pii.spans.{what}"
        print(f"| all that are looked for | | {told(found['default'], total)} | {told(found['strict'], total)} |\n")


def of_speed(data: Path) -> None:
    """Processor time a kilobyte, and of a token of a stream; median of three rounds, on questions that nothing is found in."""
    with next((data / "tasks").glob("gsm8k*")).open(encoding="utf-8") as file:
        text = " ".join(json.loads(line)["question"] for line in file)[:100_000]
    chinese = (data / "language" / "zh.txt").read_text(encoding="utf-8")[:20_000]
    print("## Speed, processor time\n\n| policy | a message of 1 KB | 40 KB, by KB | an answer of 100 KB, by KB", end="")
    print(" | Chinese, by KB | 4 letters of a stream |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for policy in PRESETS:
        one = Guard(load_policy(policy))
        cells = [
            _seconds(partial(_asked, one, [text[at : at + 1000] for at in range(0, 50_000, 1000)])) / 50,
            _seconds(partial(_asked, one, [text[:40_000]])) / 40,
            _seconds(partial(one.after, text)) / 100,
            _seconds(partial(_asked, one, [chinese])) / (len(chinese.encode()) / 1000),
        ]
        feed = 1e6 * _seconds(partial(_streamed, one, text[:20_000])) / 5000
        print(f"| {policy} | " + " | ".join(f"{1000 * cell:.2f} ms" for cell in cells) + f" | {feed:.0f} µs |")


def _asked(one: Guard, messages: list[str]) -> None:
    for text in messages:
        one.before([{"role": "user", "content": text}])


def _streamed(one: Guard, text: str) -> None:
    stream = one.stream("You are a helpful assistant of the town library, and you answer in short sentences.")
    for at in range(0, len(text), 4):
        stream.feed(text[at : at + 4])
    stream.finish()


def _seconds(work: Callable[[], Any], rounds: int = 3) -> float:
    times = []
    for _ in range(rounds):
        started = time.process_time()
        work()
        times.append(time.process_time() - started)
    return float(np.median(times))


def _jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


if __name__ == "__main__":
    main()
