"""What a page says of itself, from HTML, Open Graph, Dublin Core and JSON-LD; and nothing from what cannot be read."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web.head import Head, Metadata

URL = "http://h/dir/page"


def of(markup: str) -> Metadata:
    return Head.of(markup, URL).metadata


def test_a_page_that_says_everything() -> None:
    about = {
        "@context": "https://schema.org",
        "@graph": [
            {"@type": "WebSite", "name": "Not an article"},
            {
                "@type": ["NewsArticle"],
                "headline": "From the graph",
                "datePublished": "2021-03-04T23:59:00+02:00",
                "author": [{"@type": "Person", "name": "Ada L."}, {"name": "Grace H."}],
                "publisher": {"name": "The Paper"},
                "license": "http://creativecommons.org/licenses/by-sa/4.0/deed.de",
            },
        ],
    }
    found = of(f"""<!doctype html><html lang="de-AT"><head><title>Title &amp; site</title>
        <link rel=canonical href="../canonical?x=1#f">
        <meta property="og:title" content="The  &quot;title&quot;">
        <script type="application/ld+json">{json.dumps(about)}</script></head>""")
    assert found == Metadata(
        title='The "title"',
        author="Ada L.; Grace H.",
        date="2021-03-04",
        language_tag="de-AT",
        canonical_url="http://h/canonical?x=1",
        licence="https://creativecommons.org/licenses/by-sa/4.0/",
        site_name="The Paper",
    )


@pytest.mark.parametrize(
    ("markup", "field", "value"),
    [
        ("<title>\n A\n title </title>", "title", "A title"), ("<svg><title></title></svg><title>B</title>", "title", "B"),
        ("<meta name=twitter:title content=T><title>t</title>", "title", "T"), ("<title></title>", "title", None),
        ("<meta name=author content='A, B'><meta name=DC.creator content=C>", "author", "A, B; C"),
        ("<meta property=article:author content=https://facebook.example/a>", "author", None),
        ("<meta property=article:published_time content=2020-02-30>", "date", None), ("<time datetime=20200131>", "date", "2020-01-31"),
        ("<meta name=citation_publication_date content=2019/07/02>", "date", "2019-07-02"),
        ("<meta name=date content='Tue, 31 Mar 2020 10:00:00 GMT'>", "date", "2020-03-31"), ("<time datetime='last week'>", "date", None),
        ("<meta property=og:locale content=pt_BR>", "language_tag", "pt-BR"), ("<html lang='not a tag at all'>", "language_tag", None),
        ("<link rel=canonical href='mailto:x'>", "canonical_url", None), ("<link rel=canonical href='http://[bad'>", "canonical_url", None),
        ("<a rel='nofollow license' href=/licence>l</a>", "licence", "http://h/licence"),
        ("<meta name=dc.rights content='© X'>", "licence", "© X"),
        ("<a href=https://creativecommons.org/publicdomain/zero/1.0/>0</a>", "licence", "https://creativecommons.org/publicdomain/zero/1.0/"),
        ("<meta name=application-name content=App>", "site_name", "App"), ("<script type=application/ld+json>{oh</script>", "title", None),
        ('<script type=application/ld+json>{"@type": "Article", "headline": "half \\ud83d"}</script>', "title", "half ?"),
        ("<script type=application/ld+json>" + "[" * 9000 + "</script>", "title", None),
        ('<script type=application/ld+json>[{"@type": "Article", "author": {"name": ["N"]}, "headline": 7}]</script>', "author", "N"),
    ],
)  # fmt: skip
def test_one_thing_that_a_page_says(markup: str, field: str, value: str | None) -> None:
    assert getattr(of(markup), field) == value


@given(st.text(alphabet="<>/='\" ametlinkhrfcotscrp!-{}[]:", max_size=200))
def test_no_markup_raises(markup: str) -> None:
    head = Head.of(markup, URL)
    assert len(set(head.links)) == len(head.links)
