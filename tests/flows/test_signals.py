"""The signals step with word lists: its own in the recipe, and a page dropped for a bad word with rule, value and threshold."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path

import pyarrow as pa
import pytest

from infra import dataset, ledger
from infra.dataset import EXCERPT_CHARS, ShardSet
from infra.rejects import draw
from tasks.filter import filter, passages
from tasks.ingest import ingest
from tasks.signals import SignalsConfig, files_read, measure_shard, signals
from tasks.text.readers import IngestConfig
from tasks.text.rules import FilterConfig

from . import english

BAD = "Nobody wanted that shit in the first place. "


@pytest.fixture
def documents(home: Path) -> ShardSet:
    folder = home / "rows"
    folder.mkdir(parents=True)
    texts = [
        english.text(1),
        english.text(2) + "\n" + BAD * 2,
        english.text(3) + "\nshit menu",
        english.text(4) + "\nThey have a grain of it.",
    ]
    rows = [{"url": f"http://a.example/{n}", "text": text} for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return ingest(config=IngestConfig.model_validate({"sources": [{"kind": "folder", "path": str(folder)}]}))


def rejects(version: ShardSet) -> dict[str, tuple[str, float, float]]:
    found = dataset.dataset(version.folder, rejects=True)
    rows = found.to_table().to_pylist() if found is not None else []
    return {row["url"]: (row["rule"], row["value"], row["threshold"]) for row in rows}


def test_a_page_with_a_bad_word_is_dropped_by_the_profiles_that_ask_for_none(documents: ShardSet) -> None:
    with ledger.run("first"):
        measured = signals([documents], config=SignalsConfig())
        others = ("c4_min_sentences", "c4_curly_bracket", "c4_lorem_ipsum")
        paper, code = (filter(measured, config=FilterConfig(profile=name, disabled=others)) for name in ("c4-paper", "c4-code"))
    assert rejects(code) == {"http://a.example/1": ("c4_bad_words", 2, 1)}
    assert rejects(paper) == {"http://a.example/1": ("c4_bad_words", 2, 1), "http://a.example/2": ("c4_bad_words", 1, 1)}


def test_an_own_list_decides_and_its_words_are_part_of_the_recipe(documents: ShardSet, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("grain\n")
    config = SignalsConfig(bad_word_lists={"en": str(path)})
    assert SignalsConfig.model_validate_json(config.model_dump_json()) == config
    first = signals([documents], config=config)
    tables = pa.concat_tables([shard.read(["url", "num_bad_words"]) for shard in first.shards()]).to_pylist()
    assert {row["url"][-1] for row in tables if row["num_bad_words"]} == {"3"}
    assert signals([documents], config=config).version == first.version
    path.write_text("grain\nof it\n")
    assert signals([documents], config=config).version == first.version  # what was read when the configuration was made
    again = signals([documents], config=SignalsConfig(bad_word_lists={"en": str(path)}))
    assert again.version != first.version
    [row] = [row for shard in again.shards() for row in shard.read(["url", "num_bad_words"]).to_pylist() if row["url"][-1] == "3"]
    assert row["num_bad_words"] == 2


def test_an_own_list_travels_inside_the_configuration_to_workers_that_have_no_such_file(
    documents: ShardSet, tmp_path: Path
) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("grain\n", encoding="utf-8-sig")
    config = SignalsConfig(bad_word_lists={"en": str(path)})
    path.unlink()
    elsewhere = pickle.loads(pickle.dumps(config))
    [shard] = documents.shards()
    rows = measure_shard(shard, elsewhere).kept.select(["url", "num_bad_words"]).to_pylist()
    assert {row["url"][-1]: row["num_bad_words"] for row in rows} == {"0": 0, "1": 0, "2": 0, "3": 1}


@pytest.mark.parametrize("keep_text", [False, True])
def test_what_a_bad_word_dropped_is_read_around_it_whether_or_not_the_texts_are_carried(
    documents: ShardSet, keep_text: bool
) -> None:
    assert min(map(len, (english.text(2), english.text(3)))) > EXCERPT_CHARS
    measured = signals([documents], config=SignalsConfig(keep_text=keep_text))
    for profile, urls in (("c4-code", "1"), ("c4-paper", "12")):
        others = ("c4_min_sentences", "c4_curly_bracket", "c4_lorem_ipsum")
        dropped = filter(measured, config=FilterConfig(profile=profile, disabled=others))
        [bad] = draw(dropped, 9, rule="c4_bad_words", read=passages)
        assert {one.url[-1] for one in bad.samples} == set(urls)
        assert all("shit" in one.text for one in bad.samples), bad


def test_the_version_of_zlib_is_in_the_recipe_of_what_it_compresses() -> None:
    read = files_read(SignalsConfig(groups=("compression",)))
    assert read["zlib"] == zlib.ZLIB_RUNTIME_VERSION and set(read) == {"lid.176.ftz", "zlib"}


def test_lists_of_groups_that_are_not_measured_are_not_in_the_recipe() -> None:
    assert set(files_read(SignalsConfig(groups=("dolma",)))) == {"lid.176.ftz"}
    read = set(files_read(SignalsConfig()))
    assert {"lid.176.ftz", "terms_data/en.yaml", "bad_words_data/en.txt", "words_data/word_break.txt"} <= read


def test_a_list_that_cannot_be_read_or_is_empty_is_told_by_language_and_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bad_word_lists\n.*de: .*none\.txt: cannot be read as UTF-8 text: .*No such file"):
        SignalsConfig(bad_word_lists={"de": str(tmp_path / "none.txt")})
    (tmp_path / "latin.txt").write_bytes(b"M\xfchle\n")
    with pytest.raises(ValueError, match=r"de: .*latin\.txt: cannot be read as UTF-8 text"):
        SignalsConfig(bad_word_lists={"de": str(tmp_path / "latin.txt")})
    (tmp_path / "empty.txt").write_text("\n \n")
    with pytest.raises(ValueError, match=r"de: .*empty\.txt: holds no words"):
        SignalsConfig(bad_word_lists={"de": str(tmp_path / "empty.txt")})
