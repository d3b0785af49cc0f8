"""What sitemaps, feeds and lists name, what is none of them, and bytes that mean harm."""

import gzip
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web import sitemap, urls
from tasks.web.sitemap import Listing, listed

BASE = "http://h/dir/list.xml"
URLSET = """<?xml version="1.0" encoding="UTF-8"?><?xml-stylesheet href="s.xsl"?><!-- <url> -->
<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9" xmlns:image="http://www.google.com/schemas/sitemap-image/1.1">
<url><image:image><image:loc>http://h/first.png</image:loc></image:image><loc> http://h/a?x=1&amp;y=2&#38;copy=3&copy=4
</loc><xhtml:link rel="alternate" hreflang="de" href="http://h/de"/><image:image><loc>http://h/unprefixed.png</loc></image:image></url>
<url><loc><![CDATA[http://h/b?x=1&amp;y]]></loc></url> <!-- <url><loc>http://h/old</loc></url> -->
<url><loc>/rooted</loc></url> <url><loc>h.example/no-scheme</loc></url> <url><loc>http://[bad</loc></url> <url><loc/></url>
<url><loc>http://h/<!-- in the midst -->c</loc></url> <url><loc>http://h/b?x=1&amp;amp;y</loc></url> <url><loc>http://H:80/c#d</loc></url>
</urlset><url><loc>http://h/after</loc></url>"""
PAGES = ("http://h/a?x=1&y=2&copy=3&copy=4", "http://h/b?x=1&amp;y", "http://h/rooted", "http://h/c", "http://h/after")
INDEX = """<x:sitemapindex xmlns:x="s"><x:sitemap><x:loc>http://h/s.xml.gz</x:loc><x:lastmod>2024</x:lastmod></x:sitemap>
<x:sitemap><loc>http://h/other-name</loc></x:sitemap><x:sitemap><x:loc>https://cdn/t.xml</x:loc></x:sitemap></x:sitemapindex>"""
RSS = """<?xml version="1.0"?><!DOCTYPE rss PUBLIC "-//x" "http://h/rss.dtd" [<!ENTITY l "<item><link>http://h/evil</link></item>">]>
<rss version="2.0" xmlns:atom="http://www.w3.org/2005/Atom"><channel><title>t</title><link>http://h/home</link>
<atom:link rel="self" href="http://h/feed"/><image><url>http://h/i.png</url><link>http://h/home</link></image>
<item><title>&l;</title><link>http://h/1?a&amp;b</link><guid isPermaLink="true">http://h/?p=1</guid><comments>http://h/1#c</comments>
<description>see <link>http://h/quoted</link></description><enclosure url="http://h/1.mp3"/></item>
<item><guid>http://h/2</guid></item> <item><guid isPermaLink="false">http://h/3</guid></item> <item><guid>tag:4</guid></item>
<item><source url="http://o/feed">o</source><atom:link href="http://h/atom"/><link><![CDATA[ /5 ]]></link></item></channel></rss>"""
RDF = """<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns="http://purl.org/rss/1.0/"><channel rdf:about="http://h/">
<link>http://h/</link><items><rdf:Seq><rdf:li resource="http://h/li"/></rdf:Seq></items></channel>
<item rdf:about="http://h/about"><link>http://h/1</link></item><item><link>http://h/2</link></item></rdf:RDF>"""
ATOM = """<feed xmlns="http://www.w3.org/2005/Atom" xml:base="/blog/"><link href="http://h/home"/><link rel="next" href="?page=2"/>
<entry><link href='1?a=1&amp;b=">"' /><link rel="enclosure" href="a.mp3"/><link rel="alternate" type="application/json" href="1.json"/>
<content type="xhtml"><div><summary/><link href="quoted"/></div></content><link rel="alternate" type="text/html" href="1/print"/></entry>
<entry xml:base="http://o/x/"><source><link href="theirs"/></source><link rel="alternate" href="2"/><summary>s</summary></entry>
<entry><link xml:base="y/" href="3"/></entry><entry><id>http://h/blog/4</id></entry></feed>"""

ENTRIES = ("http://h/blog/1?a=1&b=%22%3E%22", "http://h/blog/1/print", "http://o/x/2", "http://h/blog/y/3")


def test_a_sitemap_lists_the_locations_of_its_pages_and_nothing_else() -> None:
    body = URLSET.encode()
    assert listed(body, "text/xml", BASE, named=False) == listed(gzip.compress(body), None, BASE, named=True) == Listing(PAGES)


def test_a_sitemap_index_lists_sitemaps() -> None:
    assert listed(INDEX.encode(), "application/xml", BASE, named=False) == Listing((), ("http://h/s.xml.gz", "https://cdn/t.xml"))
    assert listed(b"<urlset></urlset>", "text/xml", BASE, named=False) == Listing()


@pytest.mark.parametrize(
    ("feed", "pages"),
    [
        (RSS, ("http://h/1?a&b", "http://h/2", "http://h/5")),
        (RDF, ("http://h/1", "http://h/2")),
        (ATOM, ENTRIES),
        (re.sub("(</?)", r"\1a:", ATOM), ENTRIES),
        ("<rss><channel/></rss>", ()),
    ],
)  # fmt: skip
def test_a_feed_lists_the_pages_of_its_entries(feed: str, pages: tuple[str, ...]) -> None:
    assert listed(feed.encode(), "text/xml", BASE, named=False) == Listing(pages)


def test_a_text_is_a_list_only_where_it_is_named_one() -> None:
    body = b"\xef\xbb\xbfhttp://h/1\r\n\r\n  HTTPS://h/2 \r# http://h/3\nftp://h/4\nhttp://h/1\n/5\n"
    assert listed(body, "text/plain", BASE, named=True) == Listing(("http://h/1", "https://h/2"))
    assert listed(gzip.compress(body), "application/gzip", BASE, named=True) == Listing(("http://h/1", "https://h/2"))
    assert listed(body, "text/plain", BASE, named=False) is None


@pytest.mark.parametrize(
    "body",
    [
        "", "nothing\nto see", '{"loc": "http://h/a"}', "<!doctype html><html><loc>http://h/a</loc></html>",
        "<html><body>\nhttp://h/a\n</body>", "<svg><url><loc>http://h/a</loc></url></svg>", "<!-- -->\n<p>\nhttp://h/a",
        '<rdf:RDF xmlns:foaf="f"><foaf:Person/></rdf:RDF>', "<opml><outline url='http://h/a'/></opml>", "<urlsets/>",
    ],
)  # fmt: skip
@pytest.mark.parametrize("named", [False, True])
def test_pages_and_other_xml_list_nothing(body: str, named: bool) -> None:
    assert listed(body.encode(), "text/xml", BASE, named=named) is None


@pytest.mark.parametrize(
    ("codec", "mark", "declared", "content_type"),
    [
        ("utf-8", b"", "", None),
        ("utf-8", b"\xef\xbb\xbf", "utf-8", None),
        ("utf-8", b"", "utf-16", "text/xml"),
        ("utf-8", b"", "", "text/xml; charset=UTF-16"),
        ("utf-16-le", b"\xff\xfe", "utf-16", None),
        ("utf-16-be", b"\xfe\xff", "", "text/xml"),
        ("utf-16-le", b"", "utf-16", None),
        ("utf-16-be", b"", "", "text/xml; charset=utf-8"),
        ("cp1252", b"", "iso-8859-1", "text/xml"),
        ("cp1252", b"", "", "text/xml; charset=windows-1252"),
        ("shift_jis", b"", "Shift_JIS", None),
    ],
)
@pytest.mark.parametrize("word", ["plain", "über", "日本"])
def test_a_sitemap_may_be_in_any_encoding(codec: str, mark: bytes, declared: str, content_type: str | None, word: str) -> None:
    if (codec == "cp1252" and word == "日本") or (codec == "shift_jis" and word == "über"):
        return
    head = f'<?xml version="1.0" encoding="{declared}"?>' if declared else ""
    body = mark + f"{head}<urlset><url><loc>http://h/{word}</loc></url></urlset>".encode(codec)
    assert listed(body, content_type, BASE, named=False) == Listing((urls.canonical(f"http://h/{word}"),))


def test_what_is_broken_costs_its_entry_alone() -> None:
    body = b"<urlset><url><loc>http://h/1</lok></url><url><loc>http://h/2<url><loc>http://h/3</loc><p a=<url><loc>http://h/4</loc><url"
    assert listed(body, None, BASE, named=False) == Listing(("http://h/1", "http://h/2", "http://h/3", "http://h/4"))


def test_the_limits_of_the_protocol_end_a_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sitemap, "MAX_LOCATIONS", 3)
    body = "<urlset>" + "".join(f"<url><loc>http://h/{n}</loc></url>" for n in range(5))
    assert listed(body.encode(), None, BASE, named=False) == Listing(("http://h/0", "http://h/1", "http://h/2"))
    assert listed(b"http://h/0\n" * 3 + b"http://h/1", None, BASE, named=True) == Listing(("http://h/0",))
    monkeypatch.setattr(sitemap, "MAX_BYTES", 80)
    assert listed(body.encode(), None, BASE, named=False) == Listing(("http://h/0", "http://h/1"))
    assert listed(gzip.compress(body.encode()), None, BASE, named=True) is None
    assert listed(gzip.compress(body.encode())[:-9], None, BASE, named=True) is None


def test_fifty_thousand_locations_take_about_half_a_second() -> None:
    body = "".join(
        f"<url><loc>https://www.example.org/a/{n}.html?x={n}</loc><lastmod>2024</lastmod></url>\n" for n in range(50_000)
    )
    begin = time.perf_counter()
    found = listed(f"<urlset>{body}</urlset>".encode(), "text/xml", BASE, named=False)
    assert found is not None and len(found.pages) == 50_000
    assert time.perf_counter() - begin < 3


BOMB = '<!DOCTYPE urlset [<!ENTITY a "http://h/"><!ENTITY b "&a;&a;"><!ENTITY % c SYSTEM "file:///etc/passwd"> %c; ]>'


def test_no_entity_is_defined() -> None:
    body = f"{BOMB}<urlset><url><loc>&a;x</loc></url><url><loc>http://h/&b;</loc></url></urlset>"
    assert listed(body.encode(), "text/xml", BASE, named=True) == Listing(("http://h/&b;",))


@pytest.mark.parametrize(
    "hostile",
    [
        "<url ", "<loc>", "<loc><![CDATA[", "<url><loc><!--", '<url a="', "<url a=\"'", "<url><loc>&amp;", "<x:", "<url><loc>\n",
        "<item><link><source>", "<item><link a='1' b=\"2", "<entry><link href='/a' ", "<item><guid>http://h/</guid>", "<!DOCTYPE [",
    ],
)  # fmt: skip
@pytest.mark.parametrize("root", ["<urlset>", "<rss>", ""])
def test_hostile_markup_costs_linear_time(hostile: str, root: str) -> None:
    begin = time.perf_counter()
    listed((root + hostile * 40_000).encode()[:400_000], "text/xml", BASE, named=True)
    assert time.perf_counter() - begin < 2


def _is_sound(found: Listing | None) -> bool:
    every = [*found.pages, *found.sitemaps] if found else []
    return every == [urls.canonical(url) for url in every] and len(set(every)) == len(every)


@given(
    st.binary(max_size=400),
    st.sampled_from([b"", b"<urlset>", b"<rss>", b"\x1f\x8b", b"\xff\xfe<\0", b"<feed><entry><link "]),
    st.booleans(),
)
def test_no_bytes_are_too_strange(body: bytes, begin: bytes, named: bool) -> None:
    assert _is_sound(listed(begin + body, None, BASE, named=named))


PARTS = st.sampled_from(
    ["<", ">", "</", "/>", '"', "'", "&", ";", "]]>", "<![CDATA[", "<!--", "-->", "<url>", "<loc>", "<item>", "<link", "é"]
)


@given(
    st.sampled_from([URLSET, INDEX, RSS, RDF, ATOM]),
    st.lists(st.tuples(st.integers(0, 1500), st.integers(0, 40), PARTS), max_size=6),
    st.sampled_from(["utf-8", "utf-16", "cp1252"]),
)
def test_no_mutation_of_a_listing_is_too_strange(text: str, edits: list[tuple[int, int, str]], codec: str) -> None:
    for at, num_chars, part in edits:
        text = text[:at] + part + text[at + num_chars :]
    assert _is_sound(listed(text.encode(codec, "replace"), "text/xml", BASE, named=True))
