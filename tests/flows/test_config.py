"""Configurations: every error names the file, the key, the value and what would be right; the shipped ones load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.__main__ import app
from flows.config import RunConfig, load, require_sources
from flows.keys import ConfigError, overrides_of
from infra.settings import PROJECT
from tasks.text.rules import FilterConfig

from .driver import commands, environment

SHIPPED = sorted((PROJECT / "flows" / "configs").glob("*.yaml"))
WARC = "crawl: {sources: [{kind: warc, path: x}]}"


def _problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    path = tmp_path / "mine.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(str(path), overrides)
    return [line.replace(str(path), "FILE") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("fliter: {}", "FILE: fliter: no such key (got {}); did you mean filter?"),
        ("filter: {profil: gopher}", "FILE: filter.profil: no such key (got 'gopher'); did you mean filter.profile?"),
        ("validate: {suit: x}", "FILE: validate.suit: no such key (got 'x'); did you mean validate.suite?"),
        (
            "crawl: {limits: {max_page: 3}}",
            "FILE: crawl.limits.max_page: no such key (got 3); did you mean crawl.limits.max_pages?",
        ),
        (
            "ingest: {sources: [{kind: folder, path: x, fields: {tex: y}}]}",
            "FILE: ingest.sources.0.fields.tex: no such key (got 'y'); did you mean ingest.sources.0.fields.text?",
        ),
        (
            "ingest: {sources: [{kind: dataset, dataset: x, splitt: y}]}",
            "FILE: ingest.sources.0.splitt: no such key (got 'y'); did you mean ingest.sources.0.split?",
        ),
        (
            "crawl: {scope: {max_pages: 3}}",  # where it was once
            "FILE: crawl.scope.max_pages: no such key (got 3); did you mean crawl.limits.max_pages?",
        ),
        ("max_pages: 3", "FILE: max_pages: no such key (got 3); did you mean crawl.limits.max_pages?"),
        ("qqqqq: 1", "FILE: qqqqq: no such key (got 1)"),
    ],
)
def test_an_unknown_key_names_the_nearest_valid_one(tmp_path: Path, text: str, told: str) -> None:
    assert _problems(tmp_path, text) == [told]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("split: {test_share: much}", "FILE: split.test_share: input should be a valid number"),
        ("split: {test_share: 1.5}", "FILE: split.test_share: input should be less than 1 (got 1.5)"),
        (
            "dask: {kind: remote}",
            "FILE: dask.kind: input should be 'local', 'address', 'slurm', 'kubernetes' or 'none' (got 'remote')",
        ),
        ("filter: {languages: en}", "FILE: filter.languages: must be a list, as in [a, b] (got 'en')"),
        ("filter:", "FILE: filter: must be a mapping of keys; leave it out to keep what is usual (got None)"),
        (
            "{signals: {groups: [dolma, characters]}, filter: {profile: datatrove-0.10}}",
            "FILE: signals.groups: the profile datatrove-0.10 needs datatrove; set signals.groups=[dolma, characters, datatrove] "
            "(got dolma, characters)",
        ),
        (
            "{signals: {groups: []}, filter: {profile: dolma-1.2}}",
            "FILE: signals.groups: the profile dolma-1.2 needs dolma; set signals.groups=[dolma] (got none)",
        ),
        (
            "score: {among: {profile: datatrove-0.10}}",
            "FILE: signals.groups: the profile datatrove-0.10 needs datatrove; set signals.groups=[dolma, characters,",
        ),
        (
            "score: {among: {profile: dclm}}",
            "FILE: score.among: rule 'dclm_quality' asks for quality_percentile, which is what is computed here: take a profile "
            "without it, or set among.disabled to [dclm_quality]",
        ),
        ("validate: {stage_suites: {audit: /gone.json}}", "FILE: validate.stage_suites.audit: /gone.json: no such suite"),
        ("filter: {profile: finweb}", "FILE: filter.profile: unknown profile 'finweb'; nearest: fineweb-code"),
        ("name: a b", "FILE: name: string should match pattern"),
        (
            "crawl: {sources: [{kind: warcc}]}",
            "FILE: crawl.sources.0.kind: must be one of 'site', 'demo', 'warc' (got 'warcc'); did you mean warc?",
        ),
        (
            "pretrain: {data: {packing: best-fit}}",
            "FILE: pretrain.data.packing: input should be 'stream', 'documents' or 'best_fit' (got 'best-fit'); did you mean best_fit?",
        ),
        (
            "benchmark: {packs: {kinds: [clozes]}}",
            "FILE: benchmark.packs.kinds.0: input should be 'cloze', 'order' or 'title' (got 'clozes'); did you mean cloze?",
        ),
        ("crawl: {sources: [{path: x}]}", "FILE: crawl.sources.0: needs the key `kind` (got {'path': 'x'})"),
        ("crawl: {sources: [3]}", "FILE: crawl.sources.0: must be a mapping of keys (got 3)"),
        ("crawl: {sources: [{kind: warc, path: 5}]}", "FILE: crawl.sources.0.path: input should be a valid string (got 5)"),
        ("[1, 2]", "FILE: a configuration is a mapping of keys (got list)"),
        ("a: [b", "FILE: not YAML: "),
        ("filter:\n  languages: [en]\n  languages: [de]", "FILE: not YAML: the key 'languages' is there twice"),
        ("validate: {suite: publishd}", "FILE: validate.suite: publishd: no such suite, did you mean 'published'?"),
        ("\tname: x", "FILE: not YAML: "),
        ("name: !!python/object:os.system x", "FILE: not YAML: "),
        (
            "{filter: {languages: [en, fr]}, rebalance: {language: {de: 0.5, en: 0.5}}}",
            "FILE: rebalance: language: a weight for de, of which the filter leaves no document: take it out, or add it to "
            "filter.languages (these are: en, fr)",
        ),
    ],
)
def test_a_wrong_value_names_file_dotted_key_and_value(tmp_path: Path, text: str, told: str) -> None:
    assert any(line.startswith(told) for line in _problems(tmp_path, text)), _problems(tmp_path, text)


def test_every_problem_has_a_line_of_its_own(tmp_path: Path) -> None:
    told = _problems(tmp_path, "split: {test_share: 2}\ndedup: {num_bands: many}\nfilters: {}\n")
    assert len(told) == 3
    assert all(line.startswith("FILE: ") for line in told)


def test_bytes_that_are_no_text_are_told(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"mine\.yaml: not YAML: .*0xff"):
        load(str(path))


def test_a_profile_whose_signals_are_measured_is_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("{signals: {groups: [datatrove]}, filter: {profile: datatrove-0.10}}", encoding="utf-8")
    assert load(str(path)).filter.groups() == ("datatrove",)


def test_a_suite_that_only_the_gate_reads_need_not_lie_where_a_run_is_only_received() -> None:
    asked = {"suite": "/gone.json", "stage_suites": {"audit": "/gone.json"}}
    assert RunConfig.model_validate({"validate": asked}).validate_.of_stage("audit") == "/gone.json"


def test_weights_of_languages_that_the_filter_leaves_are_no_problem(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    for languages in ("{languages: [de, en]}", "{languages: []}", "{disabled: [language]}"):
        path.write_text(f"{{filter: {languages}, rebalance: {{language: {{de: 0.5}}}}}}", encoding="utf-8")
        rebalance = load(str(path)).rebalance
        assert rebalance and rebalance.language == {"de": 0.5}


def test_a_missing_file_names_the_ones_that_ship() -> None:
    with pytest.raises(ConfigError, match=r"nowhere: no such file.*demo"):
        load("nowhere")


def test_overrides_reach_into_missing_parts_and_into_lists(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(WARC)
    wanted = ["crawl.sources.0.name=cc", "filter.languages=[en, de]", "ingest.sources=[{kind: folder, path: y}]", "name=mine"]
    config = load(str(path), [*wanted, "crawl.fetch={agent: 'me/1 (+http://a.example/)'}", "crawl.fetch.delay_s=2"])
    assert (config.crawl.sources[0].name, config.filter.languages, config.name) == ("cc", ("en", "de"), "mine")
    assert (config.crawl.fetch.delay_s, config.ingest.sources[0].name) == (2.0, "folder")


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("crawl.sources.1.path=y", "--set crawl.sources.1.path: crawl.sources is a list of 1; '1' is no place in it"),
        ("crawl.sources.x.path=y", "--set crawl.sources.x.path: crawl.sources is a list of 1; 'x' is no place in it"),
        (
            "crawl.sources.0.path.deep=y",
            "--set crawl.sources.0.path.deep: crawl.sources.0.path is a value and has no keys (got 'x')",
        ),
        ("crawl.sources.0.pth=y", "FILE: crawl.sources.0.pth: no such key (got 'y'); did you mean crawl.sources.0.path?"),
        ("name=[b", "--set name: the value is not YAML (got '[b')"),
        ("name", "--set name: write dotted.key=value"),
        ("=3", "--set =3: write dotted.key=value"),
        ("dask.workers=many", "FILE: dask.workers: input should be a valid integer"),
        ("dask.wrkers=1", "FILE: dask.wrkers: no such key (got 1); did you mean dask.workers?"),
    ],
)
def test_a_wrong_override_is_told(tmp_path: Path, override: str, told: str) -> None:
    (line,) = _problems(tmp_path, WARC, override)
    assert line.startswith(told), line


def test_a_single_step_takes_overrides_of_its_own_part() -> None:
    assert overrides_of(FilterConfig, ["languages=[de]"]).languages == ("de",)
    with pytest.raises(ConfigError, match=r"--set: profil: no such key .*did you mean profile\?"):
        overrides_of(FilterConfig, ["profil=x"])


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from([*RunConfig.model_fields, "kind", "x", "sources"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.sampled_from([*RunConfig.model_fields, "validate", "register", "x"]), ANYTHING, max_size=4))
def test_whatever_a_file_holds_it_loads_or_every_problem_is_a_line_with_the_file(tmp_path: Path, raw: dict[str, object]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(raw, allow_unicode=False))
    try:
        load(str(path))
    except ConfigError as error:
        assert str(error).startswith(f"{path}: ")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    assert load(path.stem) == load(str(path))


def test_check_config_ends_with_2_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("filter: {profil: gopher}\nsplit: {test_share: 7}\n")
    ended = subprocess.run(
        [sys.executable, "-m", "flows", "check-config", str(path)],
        capture_output=True,
        text=True,
        env=environment(tmp_path / "home"),
        check=False,
    )
    assert ended.returncode == 2
    assert sorted(ended.stderr.splitlines()) == [
        f"{path}: filter.profil: no such key (got 'gopher'); did you mean filter.profile?",
        f"{path}: split.test_share: input should be less than 1 (got 7)",
    ]
    assert not ended.stdout


def test_every_command_explains_itself_and_wrong_words_end_with_2(tmp_path: Path) -> None:
    names = [command.name or command.callback.__name__.replace("_", "-") for command in app.registered_commands]  # type: ignore[union-attr]
    assert {"run", "step", "check-config", "report", "trace", "up", "down", "status", "doctor"} <= set(names)
    wrong = [
        ["nothing"],
        ["step"],
        ["step", "signals", "--oops"],
        ["check-config", "nowhere"],
        ["check-config", "demo", "--set", "a"],
        ["check-config", "demo", "--set", "probe.bias.winogender=/nowhere.tsv"],
    ]
    right = [["step", "pretrain", "--help"], ["check-config", "demo"]]
    ended = commands(tmp_path, ["--help"], *([name, "--help"] for name in names), *wrong, *right)
    for name, one in zip(["", *names], ended, strict=False):
        assert one.code == 0
        assert "--help" in one.output
        described = one.output.split("Usage:")[1].split("─ Options")[0]
        assert len(described.split()) > 10, f"{name}: says nothing about itself"
    for words, one in zip(wrong, ended[1 + len(names) :], strict=False):
        assert (one.code, "Traceback" in one.output) == (2, False), (words, one.output)
    keys = " ".join(ended[-2].output.split())
    assert "data.packing documents One of stream, documents, best_fit." in keys and "Optimiser steps" in keys
    assert ended[-1] == (0, f"{SHIPPED[0].parent / 'demo.yaml'}: good\n")


def test_a_list_of_takedowns_and_an_index_that_are_not_there_are_named_before_anything_runs(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("forget: {file: nowhere.txt}\nindex: {base: index/0123456789abcdef}\n")
    with pytest.raises(ConfigError) as told:
        require_sources(load(str(path)))
    forgotten, base = str(told.value).splitlines()
    assert forgotten == "forget.file: no such file or folder (got nowhere.txt)"
    assert base.startswith("index.base: no version index/0123456789abcdef in the store") and "earlier" in base
    require_sources(load(str(path), ["forget.file=''", "index.base=earlier"]))
    with pytest.raises(ConfigError, match=r"^pretrain.model.from_checkpoint: no such file or folder \(got /nowhere\)$"):
        require_sources(load(str(path), ["forget.file=''", "index.base=earlier", "pretrain.model={from_checkpoint: /nowhere}"]))


def test_what_a_model_is_to_be_asked_from_is_looked_for_too(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    path = tmp_path / "run.yaml"
    path.write_text(
        f"benchmark: {{tasks: [{{name: there, path: {rows}, kind: choice}}, {{name: copa, files: {{test: /gone.json}}}}]}}\n"
        "probe: {bias: {crows_pairs: /nowhere.csv}}\nevaluate: {suite: scoers}\n"
    )
    config = load(str(path))
    require_sources(config)
    with pytest.raises(ConfigError) as told:
        require_sources(config, evaluation=True)
    *files, suite = str(told.value).splitlines()
    assert files == [
        "benchmark.tasks.1.files.test: no such file or folder (got /gone.json)",
        "probe.bias.crows_pairs: no such file or folder (got /nowhere.csv)",
    ]
    assert suite.startswith("evaluate.suite: scoers: no such suite, did you mean 'scores'?")
