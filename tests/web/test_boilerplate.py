"""Which lines of a page are taken for its text: each rule by hand, on both sides of its numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resiliparse.extract.html2text import extract_plain_text

from tasks.web.boilerplate import Line, lines_of, rendered, share_of_text, without_boilerplate

SENTENCE = "This is a sentence of more than forty characters."
MARKUP = """<h1>Title &amp; all</h1>

<p>One <a href="x">link</a> in a line.<br>
Second line.</p>

bare words

<ul>
  <li><a href="y">all link</a></li>
  <li>plain
  <ul>
    <li>inner</li>
  </ul></li>
</ul>
a\t\tb
1\t\t2
<pre>x &lt; 1

  y</pre>"""


def texts(lines: list[Line]) -> list[str]:
    return [line.text for line in lines]


def test_lines_are_read_with_their_kind_their_links_and_their_level() -> None:
    found = lines_of(MARKUP)
    assert [(line.kind, line.text) for line in found] == [
        ("heading", "Title & all"), ("paragraph", "One link in a line."), ("paragraph", "Second line."), ("bare", "bare words"),
        ("item", "all link"), ("item", "plain"), ("item", "inner"), ("row", "a\t\tb"), ("row", "1\t\t2"), ("code", "x < 1\n\n  y"),
    ]  # fmt: skip
    assert (found[0].level, found[1].link_share, found[4].link_share) == (1, 4 / 19, 1)
    assert [line.begins for line in found[:3]] == [True, True, False]
    assert rendered(found) == (
        "Title & all\n\nOne link in a line.\nSecond line.\n\nbare words\n\n- all link\n- plain\n- inner\n\na\t\tb\n1\t\t2\n\nx < 1\n\n  y"
    )


def test_what_resiliparse_writes_is_read() -> None:
    table = "<table><tr><td>1</td><td>2</td></tr></table>"
    page = f"<main><h2>H</h2><p>a<br>b</p><ol><li>one</li></ol><pre>c\n d</pre>{table}<div>e</div></main>"
    markup = extract_plain_text(page, preserve_formatting="minimal_html", links=True)
    assert [line.kind for line in lines_of(markup)] == ["heading", "paragraph", "paragraph", "item", "code", "row", "bare"]


@pytest.mark.parametrize(
    ("line", "is_text"),
    [
        (Line("paragraph", "x" * 39 + "."), True), (Line("paragraph", "x" * 38 + "."), False), (Line("bare", "x" * 40), False),
        (Line("bare", "x" * 120), True), (Line("bare", "x" * 119), False), (Line("paragraph", SENTENCE, 0.5), False),
        (Line("paragraph", SENTENCE, 0.49), True), (Line("code", "x"), True), (Line("paragraph", "x" * 39 + "。"), True),
    ],
)  # fmt: skip
def test_a_line_looks_like_text_by_its_end_its_length_and_its_links(line: Line, is_text: bool) -> None:
    assert line.is_text == is_text


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (Line("item", "x" * 99, 0.5), False), (Line("item", "x" * 100, 0.5), True), (Line("item", "x" * 99, 0.49), True),
        (Line("bare", "A label"), False), (Line("bare", "A label."), True), (Line("bare", "x" * 40), True), (Line("row", "a\tb"), True),
        (Line("paragraph", "Words"), True), (Line("heading", "Words", level=2), True),
    ],
)  # fmt: skip
def test_menus_and_labels_are_left_out(line: Line, kept: bool) -> None:
    around = Line("paragraph", SENTENCE)
    assert (line in without_boilerplate([around, line, Line("paragraph", "no sentence"), around])) == kept


def test_a_term_stays_with_its_definition() -> None:
    lines = [
        Line("bare", "MaxResults"),
        Line("bare", "At most so many."),
        Line("bare", "Share"),
        Line("bare", "Print"),
        Line("code", "x"),
    ]
    assert texts(without_boilerplate(lines)) == ["MaxResults", "At most so many.", "x"]


def test_what_trails_behind_the_last_text_goes_except_the_list_that_ends_it() -> None:
    text, item, teaser = Line("paragraph", SENTENCE), Line("item", "and this"), Line("paragraph", "Read more")
    assert without_boilerplate([text, item, item, teaser, item]) == [text, item, item]
    assert without_boilerplate([text, Line("item", "linked", 0.3)]) == [text]
    assert without_boilerplate([teaser, item]) == [teaser, item]  # no text at all: nothing trails behind it


def test_headings_of_nothing_go() -> None:
    def heading(level: int, text: str) -> Line:
        return Line("heading", text, level=level)

    text = Line("paragraph", SENTENCE)
    lines = [
        heading(2, "first"),
        heading(1, "title"),
        heading(2, "idle"),
        heading(2, "full"),
        heading(3, "sub"),
        text,
        heading(2, "last"),
    ]
    assert texts(without_boilerplate(lines)) == ["first", "title", "full", "sub", SENTENCE]


LINES = st.builds(
    Line,
    st.sampled_from(["heading", "paragraph", "item", "row", "code", "bare"]),
    st.sampled_from(["x", SENTENCE, "x" * 130, "a.", "menu entry"]),
    st.sampled_from([0.0, 0.4, 0.6, 1.0]),
    st.integers(1, 6),
)


@given(st.lists(LINES, max_size=12))
def test_lines_are_only_ever_left_out_and_never_all_of_them(lines: list[Line]) -> None:
    kept = without_boilerplate(lines)
    rest = iter(lines)
    assert all(any(one is line for one in rest) for line in kept)  # in their order
    assert bool(kept) == bool(lines)
    assert 0 <= share_of_text(lines) <= 1
    # said plainly: a heading stays if something else follows before the next heading of its level or above, or if it is the first line
    for at, line in enumerate(kept):
        if line.kind == "heading" and at and kept is not lines and len(kept) < len(lines):
            behind = next((one for one in kept[at + 1 :] if one.kind != "heading" or one.level <= line.level), None)
            assert behind is not None and behind.kind != "heading"
