"""Prompt templates: variables checked, values never read as templates, versions in MLflow's registry."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import prompting
from infra import tracking
from infra.errors import GristmillError, InputError
from tasks.serving.prompts import Prompt, Reference, from_file, reference, render, variables

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,5}", fullmatch=True)


@given(st.lists(st.tuples(st.text(st.characters(exclude_characters="{}"), max_size=5), names), max_size=5), st.data())
def test_a_template_with_its_values_is_what_joining_them_gives(parts: list[tuple[str, str]], data: st.DataObject) -> None:
    values = {name: data.draw(st.text(max_size=8)) for _, name in parts}  # "{{" and "\\1" in a value are text
    template = "".join(f"{before}{{{{ {name} }}}}" for before, name in parts)
    assert render(template, values) == "".join(before + values[name] for before, name in parts)
    assert variables(template) == tuple(values)


def test_a_value_is_text_even_where_it_looks_like_a_variable() -> None:
    assert render("{{a}} and {{b}}", {"a": "{{b}}", "b": r"\1"}) == r"{{b}} and \1"
    assert render('{"key": {"inner": "{{a}}"}}', {"a": "1"}) == '{"key": {"inner": "1"}}'


@pytest.mark.parametrize(
    ("template", "values", "problem"),
    [
        ("Hello {{name}} {{town}}", {"name": "x"}, r"no value for \{\{town\}\}"),
        ("Hello {{name}}", {"name": "x", "nmae": "y"}, "nmae: no variable of this template; it has name"),
        ("Hello", {"name": "x"}, "it has none"),
        ("a\nHello {{first name}}", {}, "line 2: '{{first name}}' is no variable"),
        ("Hello {{", {}, "line 1"),
        ("{{1a}}", {}, "is no variable"),
    ],
)
def test_what_is_wrong_with_a_template_or_its_values_is_told(template: str, values: dict[str, str], problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        render(template, values)


def test_a_configuration_names_a_registered_prompt_a_file_or_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GRISTMILL_MLFLOW_URL", raising=False)
    assert reference("library@live") == Reference("library", "live") and reference(" library:12 ") == Reference("library", "12")
    assert [reference(one) for one in ("You are kind.", "library", "a@", "library:0", "Be: 1", "jo@example.org")] == [None] * 6
    path = tmp_path / "library.md"
    path.write_text("You answer in {{language}}.\n")
    assert prompting.resolve(str(path)) == Prompt("You answer in {{language}}.", "library") == from_file(path)
    assert prompting.resolve("Be brief.").as_json() == {
        "prompt": "text",
        "prompt_version": "",
        "prompt_digest": Prompt("Be brief.", "x", "3").digest,
    }
    path.write_text("{{oh no}}")
    with pytest.raises(InputError, match=r"library\.md: line 1"):
        prompting.resolve(str(path))
    with pytest.raises(InputError, match=r"nowhere\.txt: cannot be read"):
        prompting.resolve("nowhere.txt")
    with pytest.raises(GristmillError, match="no MLflow server is named"):
        prompting.resolve("library@live")


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRISTMILL_HOME", str(tmp_path))
    monkeypatch.setenv("GRISTMILL_MLFLOW_URL", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.chdir(tmp_path)
    yield tmp_path


@pytest.mark.soak
def test_versions_of_a_prompt_are_kept_and_an_alias_moves(registry: Path) -> None:
    path = registry / "library.txt"
    path.write_text("You answer in {{language}}.\n")
    assert prompting.add("library", path, "first", "live").version == "1"
    assert prompting.add("library", path, "once more", "").version == "1"  # the same template is no new version
    path.write_text("You answer briefly in {{language}}.\n")
    assert prompting.add("library", path, "shorter answers", "").version == "2"
    assert prompting.resolve("library@live").version == "1" and prompting.resolve("library:2").version == "2"
    assert prompting.resolve("library@latest").template == "You answer briefly in {{language}}."
    tracking.set_prompt_alias("library", "live", "2")
    live = prompting.resolve("library@live")
    assert (live.name, live.version, live.digest) == ("library", "2", from_file(path).digest)
    assert [(one.version, one.aliases, one.message) for one in tracking.prompt_versions()] == [
        ("1", (), "first"),
        ("2", ("live",), "shorter answers"),
    ]
    for wrong in ("library@lvie", "library:3", "libary@live"):
        with pytest.raises(
            GristmillError, match=r"no such version or alias; (it has versions 1 to 2 and the aliases live|there is none)"
        ):
            prompting.resolve(wrong)
    with pytest.raises(GristmillError, match="no such version"):
        tracking.set_prompt_alias("library", "live", "7")
    with pytest.raises(GristmillError, match="MLflow does not take it"):
        prompting.add("a/b", path, "", "")
    assert tracking.registered_models() == []  # MLflow keeps prompts and models apart
