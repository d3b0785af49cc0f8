"""Decoding as browsers do, links as HTML5 has them, main text, and a rule for everything that is no readable page."""

import gzip
import time

import pytest
from resiliparse.parse.html import HTMLTree

from tasks.web.html import Extracted, HtmlConfig, Rejected, decode, extract, links, page, sitemap_urls

BASE = "http://h/dir/page"
KOREAN = "한국어 문서입니다. 똠방각하 이것은 본문이며 충분히 긴 문장으로 이루어져 있습니다."
JAPANESE = "これは日本語の文書です。①十分に長い本文があります。"
FRENCH = "Où est l’été ? Le cœur a ses raisons — « naïveté » à 5 €."


def _html(text: str, meta: str = "") -> str:
    head = f'<meta charset="{meta}">' if meta else ""
    return f"<html><head>{head}<title>Titel</title></head><body><main><p>{text}</p></main></body></html>"


@pytest.mark.parametrize(
    ("text", "codec", "header", "meta"),
    [
        (KOREAN, "cp949", "euc-kr", ""), (KOREAN, "cp949", "", "euc-kr"), (KOREAN, "cp949", "", "ks_c_5601-1987"),
        (JAPANESE, "cp932", "Shift_JIS", ""), (JAPANESE, "cp932", "", "x-sjis"), (JAPANESE * 5, "cp932", "", ""),
        (FRENCH, "cp1252", "iso-8859-1", ""), (FRENCH, "cp1252", "", "windows-1252"), ("déjà vu, façade", "latin-1", "latin1", ""),
        (FRENCH, "utf-8-sig", "iso-8859-1", ""), (FRENCH, "utf-16", "", ""), (FRENCH, "utf-8", "", ""),
        # a declaration that is plainly wrong is not believed
        (FRENCH, "utf-8", "us-nonsense", ""), (KOREAN * 5, "utf-8", "euc-kr", ""),
        ("Привет, мир! Это текст страницы. " * 20, "cp1251", "utf-8", ""),
    ],
)  # fmt: skip
def test_pages_in_old_encodings_come_out_right(text: str, codec: str, header: str, meta: str) -> None:
    content_type = f"text/html; charset={header}" if header else "text/html"
    got = extract(_html(text, meta).encode(codec), content_type)
    assert isinstance(got, Extracted), got
    assert got.text == text.strip()
    assert got.title == "Titel"


@pytest.mark.parametrize(
    ("body", "content_type", "rule"),
    [
        (b"\x89PNG\r\n\x1a\n", "text/html", "binary"), (b"<p>a\0b", "text/html", "binary"), (b"%PDF-1.7", None, "binary"),
        (b"{}", "application/json", "not_html"), (b"<urlset></urlset>", "application/xml", "not_html"), (b"", "text/html", "empty"),
        (b"<html><body><script>x()</script></body>", "text/html", "empty"), (b"x" * 2000, "text/html", "too_large"),
        (b"<b>" * 400, "text/html", "too_many_tags"), (b"<meta name=ROBOTS content='NoIndex, follow'><p>secret", "text/html", "noindex"),
    ],
)  # fmt: skip
def test_what_is_no_readable_page_is_rejected_with_a_rule(body: bytes, content_type: str | None, rule: str) -> None:
    got = extract(body, content_type, HtmlConfig(max_bytes=1500, max_tags=300))
    assert isinstance(got, Rejected)
    assert got.rule == rule
    assert got.detail


def test_deep_nesting_is_rejected_in_bounded_time_and_wide_pages_are_not() -> None:
    begin = time.perf_counter()
    deep = extract(b"<div>" * 50_000 + b"deep" + b"</div>" * 50_000, "text/html")
    assert time.perf_counter() - begin < 5
    assert isinstance(deep, Rejected)
    assert deep.rule == "too_nested"
    wide = extract(b"<p>A line of text.<br>And more of it." * 3000, "text/html")
    assert isinstance(wide, Extracted)


def test_navigation_and_footer_are_left_out_and_a_page_without_main_content_is_kept_whole() -> None:
    framed = (
        "<body><nav><a href=/>Home</a></nav><main><h1>Head</h1><p>Body text.  \n</p><pre>a\n  b</pre></main><footer>Foot</footer>"
    )
    got = extract(framed.encode(), "text/html")
    assert isinstance(got, Extracted)
    assert got.text == "Head\n\nBody text.\n\na\n  b"
    only_nav = extract(b"<body><nav>Only a menu here</nav></body>", "text/html")
    assert isinstance(only_nav, Extracted)
    assert only_nav.text == "Only a menu here"


def test_plain_text_is_kept_as_it_is() -> None:
    got = extract(b"# Title   \n\n  a < b\n", "text/plain; charset=utf-8")
    assert isinstance(got, Extracted)
    assert got.text == "# Title\n\n  a < b\n"


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


def test_the_tag_grammar_finds_what_a_full_html5_parser_finds() -> None:
    tree = HTMLTree.parse(LINKED)
    assert tree.document is not None
    hrefs = {node.getattr("href") for node in tree.document if node.tag in ("a", "area")} - {None}  # type: ignore[attr-defined]
    ours = links(LINKED.replace("nofollow ", "").encode(), "text/html", BASE)
    assert len(ours) == len([href for href in hrefs if not href.startswith(("mailto:", "http://[bad"))])


def test_meta_robots_is_honoured() -> None:
    assert links(b"<meta name=robots content='none'><a href=x>", "text/html", BASE) == ()
    got = page(b"<meta name=robots content=noindex><a href=x>text</a>", "text/html", BASE)
    assert (got.text, got.noindex, got.links) == (None, True, ("http://h/dir/x",))
    ignored = page(b"<meta name=robots content=noindex><a href=x>text</a>", "text/html", BASE, HtmlConfig(honour_noindex=False))
    assert ignored.text == "text"


@pytest.mark.parametrize(
    "hostile", ["<a '", '<a href="', "<a href=", "<!--", "<script>", "<a " + "x=" * 9, "<base ", "<meta a='>'"]
)
def test_hostile_markup_costs_linear_time(hostile: str) -> None:
    body = (hostile * 40_000).encode()[:400_000]
    begin = time.perf_counter()
    links(body, "text/html", BASE)
    assert time.perf_counter() - begin < 3


def test_text_and_links_of_one_page_agree_with_the_single_functions() -> None:
    body = _html(f'{FRENCH}<a href="x">x</a>').encode()
    got, alone = page(body, "text/html", BASE), extract(body, "text/html")
    assert isinstance(alone, Extracted)
    assert (got.text, got.title, got.encoding) == (alone.text, alone.title, alone.encoding)
    assert got.links == links(body, "text/html", BASE) == ("http://h/dir/x",)


def test_sitemaps_and_their_indexes_are_read_plain_and_zipped() -> None:
    body = b"""<?xml version="1.0"?><urlset><url><loc> http://h/a?x=1&amp;y=2 </loc></url><url><loc><![CDATA[http://h/b]]></loc></url>
    <url><loc>/relative</loc></url><url><loc>http://h/b</loc></url></urlset>"""
    assert sitemap_urls(body) == sitemap_urls(gzip.compress(body)) == ("http://h/a?x=1&y=2", "http://h/b")
    assert sitemap_urls(b'<x:sitemapindex xmlns:x="s"><x:sitemap><x:loc>http://h/s.xml</x:loc></x:sitemap></x:sitemapindex>') == (
        "http://h/s.xml",
    )
    assert sitemap_urls(b"<html><loc>http://h/a</loc></html>") == ()
    assert sitemap_urls(gzip.compress(b"0" * 10_000_000), max_bytes=1000) == ()


def test_bytes_that_no_encoding_explains_are_rejected() -> None:
    noise = bytes((i * 37 + 11) % 256 or 1 for i in range(4000))
    got = decode(noise, "text/html; charset=utf-8")
    assert isinstance(got, Rejected) or "\ufffd" not in got[0]
