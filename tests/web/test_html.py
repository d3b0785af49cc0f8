"""Links as HTML5 has them, and bytes that no encoding explains."""

import time

import pytest
from resiliparse.parse.html import HTMLTree

from tasks.web.html import Rejected, decode, links

BASE = "http://h/dir/page"

LINKED = """<html><head><base href="/b/"><title><a href="intitle"></a></title></head><body>
<a href=plain>1</a> <A HREF='one&amp;two'>2</A> <a class="x>y" data-a='"' href="three#frag">3</a> <a href="plain">again</a>
<a rel="nofollow noopener" href="nofollow">n</a> <!-- <a href="comment"> --> <script>"<a href='script'>"</script>
<textarea><a href="area"></textarea> <a name=anchor>none</a> <area href="map"> <a href="mailto:x@y.z">m</a> <a href="http://[bad">b</a>
<a href=it's>quote</a> <a href="//other.example/x">o</a> <abbr href="abbr">t</abbr> <a/href=slash>s</a> <a href="  sp ace  ">w</a>
<a href="unclosed>never</a>"""
EXPECTED = ("plain", "one&two", "three", "map", "it's", "//other", "slash", "sp%20ace")


def test_links_are_those_that_a_browser_would_follow() -> None:
    got = links(LINKED.encode(), "text/html", BASE)
    assert got == tuple("http://other.example/x" if name == "//other" else f"http://h/b/{name}" for name in EXPECTED)


def test_what_scripts_and_titles_hold_is_no_markup() -> None:
    raw = "<script>'</title><a href=1>' + \"</scripty><a href=2>\"</script><title></script><a href=3></title><a href=4>"
    assert links(raw.encode(), "text/html", BASE) == ("http://h/dir/4",)


def test_the_tag_grammar_finds_what_a_full_html5_parser_finds() -> None:
    tree = HTMLTree.parse(LINKED)
    assert tree.document is not None
    hrefs = {node.getattr("href") for node in tree.document if node.tag in ("a", "area")} - {None}  # type: ignore[attr-defined]
    ours = links(LINKED.replace("nofollow ", "").encode(), "text/html", BASE)
    assert len(ours) == len([href for href in hrefs if not href.startswith(("mailto:", "http://[bad"))])


def test_meta_robots_is_honoured() -> None:
    assert links(b"<meta name=robots content='none'><a href=x>", "text/html", BASE) == ()
    assert links(b"<meta name=robots content=noindex><a href=x>text</a>", "text/html", BASE) == ("http://h/dir/x",)


@pytest.mark.parametrize(
    "hostile",
    [
        "<a '",
        '<a href="',
        "<a href=",
        "<!--",
        "<!-- -",
        "<script>",
        "<script></",
        "<title><",
        "<script a=",
        "<a " + "x=" * 9,
        "<base ",
        "<meta a='>'",
    ],
)
def test_hostile_markup_costs_linear_time(hostile: str) -> None:
    body = (hostile * 40_000).encode()[:400_000]
    begin = time.perf_counter()
    links(body, "text/html", BASE)
    assert time.perf_counter() - begin < 3


def test_bytes_that_no_encoding_explains_are_rejected() -> None:
    noise = bytes((i * 37 + 11) % 256 or 1 for i in range(4000))
    got = decode(noise, "text/html; charset=utf-8")
    assert isinstance(got, Rejected) or "\ufffd" not in got[0]
