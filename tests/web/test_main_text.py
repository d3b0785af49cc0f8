"""The text of pages: character sets, the cascade, other kinds of files, and a rule for everything that is no readable page."""

import time

import pytest

from tasks.web.html import Rejected
from tasks.web.main_text import ExtractConfig, Extracted, extract, repaired

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
        (FRENCH, "utf-8", "iso-8859-1", ""), (FRENCH, "utf-8", "", "windows-1252"),
        (FRENCH, "utf-8", "us-nonsense", ""), (KOREAN * 5, "utf-8", "euc-kr", ""),
        ("Привет, мир! Это текст страницы. " * 20, "cp1251", "utf-8", ""),
    ],
)  # fmt: skip
def test_pages_in_old_encodings_come_out_right(text: str, codec: str, header: str, meta: str) -> None:
    content_type = f"text/html; charset={header}" if header else "text/html"
    got = extract(_html(text, meta).encode(codec), content_type, BASE)
    assert isinstance(got, Extracted), got
    assert got.text == text.strip()
    assert got.metadata.title == "Titel"


@pytest.mark.parametrize(
    ("body", "content_type", "rule"),
    [
        (b"\x89PNG\r\n\x1a\n", "text/html", "binary"), (b"<p>a\0b", "text/html", "binary"), (b"%PDF-1.7", None, "bad_pdf"),
        (b"{}", "application/json", "not_html"), (b"<urlset></urlset>", "application/xml", "not_html"), (b"", "text/html", "empty"),
        (b"<html><body><script>x()</script></body>", "text/html", "empty"), (b"x" * 2000, "text/html", "too_large"),
        (b"<b>" * 400, "text/html", "too_many_tags"),
    ],
)  # fmt: skip
def test_what_is_no_readable_page_is_rejected_with_a_rule(body: bytes, content_type: str | None, rule: str) -> None:
    got = extract(body, content_type, BASE, ExtractConfig(max_bytes=1500, max_tags=300))
    assert isinstance(got, Rejected)
    assert got.rule == rule
    assert got.detail


def test_deep_nesting_is_rejected_in_bounded_time_and_wide_pages_are_not() -> None:
    begin = time.perf_counter()
    deep = extract(b"<div>" * 50_000 + b"deep" + b"</div>" * 50_000, "text/html", BASE)
    assert time.perf_counter() - begin < 5
    assert isinstance(deep, Rejected)
    assert deep.rule == "too_nested"
    wide = extract(b"<p>A line of text.<br>And more of it." * 3000, "text/html", BASE)
    assert isinstance(wide, Extracted)


def test_navigation_and_footer_are_left_out_and_a_page_without_main_content_is_kept_whole() -> None:
    framed = (
        "<body><nav><a href=/>Home</a></nav><main><h1>Head</h1><p>Body text.  \n</p><pre>a\n  b</pre></main><footer>Foot</footer>"
    )
    got = extract(framed.encode(), "text/html", BASE, ExtractConfig(mode="fast"))
    assert isinstance(got, Extracted)
    assert got.text == "Head\n\nBody text.\n\na\n  b"
    only_nav = extract(b"<body><nav>Only a menu here</nav></body>", "text/html", BASE)
    assert isinstance(only_nav, Extracted)
    assert only_nav.text == "Only a menu here"


def test_plain_text_is_kept_as_it_is() -> None:
    got = extract(b"# Title   \n\n  a < b\n", "text/plain; charset=utf-8", BASE)
    assert isinstance(got, Extracted)
    assert got.text == "# Title\n\n  a < b\n"


PARAGRAPH = (
    "<p>This paragraph is long enough to be the main text of a page; it has a second half, and it ends like a sentence.</p>"
)
ARTICLE = f"""<html lang=en><head><title>x</title></head><body><nav><a href=/>Home</a></nav><article><h1>Head</h1>{PARAGRAPH}
<pre><code>def f(x):\n    if x:\n        return 1\n</code></pre>{PARAGRAPH}
<table><tr><th>a</th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table>
{PARAGRAPH}</article></body></html>""".encode()


@pytest.mark.parametrize("mode", ["fast", "balanced", "exact"])
def test_code_and_tables_keep_their_lines(mode: str) -> None:
    got = extract(ARTICLE, "text/html", BASE, ExtractConfig.model_validate({"mode": mode}))
    assert isinstance(got, Extracted)
    assert "def f(x):\n    if x:\n        return 1\n" in got.text
    header, *_, row = [
        line.replace("|", " ").split() for line in got.text.split("\n") if line.replace("|", " ").split()[:1] in (["a"], ["1"])
    ]
    assert (header, row) == (["a", "b"], ["1", "2"])


def test_the_exact_extractor_is_asked_where_the_fast_text_is_in_doubt() -> None:
    sure = extract(b"<body><main>" + PARAGRAPH.encode() * 9 + b"</main>", "text/html", BASE)
    assert isinstance(sure, Extracted) and sure.extractor == "resiliparse" and sure.doubt == 0
    menu = b"".join(b"<p>Entry number %d of the menu</p>" % number for number in range(90))
    page = b"<body><article>" + menu + PARAGRAPH.encode() * 9 + b"</article>"
    found = {
        mode: extract(page, "text/html", BASE, ExtractConfig.model_validate({"mode": mode}))
        for mode in ("fast", "balanced", "exact")
    }
    used = {mode: one.extractor for mode, one in found.items() if isinstance(one, Extracted)}
    assert used == {"fast": "resiliparse", "balanced": "trafilatura", "exact": "trafilatura"}
    assert found["balanced"] == found["exact"]
    believing = extract(page, "text/html", BASE, ExtractConfig(doubt_share=1, doubt_line_chars=0))
    assert believing == found["fast"]


def test_mojibake_is_put_right_and_what_only_looks_like_it_is_left() -> None:
    assert repaired("déjà vu, façade, élève".encode().decode("latin-1")) == "déjà vu, façade, élève"
    portuguese = "NÃO É NÃO. A MAÇÃ E A MANHÃ, IRMÃ."
    assert repaired(portuguese) == portuguese
    assert repaired("Ã©") == "Ã©"  # too little to be sure


def _pdf(text: str) -> bytes:
    """One page with one line of text, written by hand."""
    stream = f"BT /F1 12 Tf 72 720 Td ({text}) Tj ET".encode()
    objects = (
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    )
    body, places = b"%PDF-1.4\n", []
    for number, one in enumerate(objects, 1):
        places.append(len(body))
        body += b"%d 0 obj%s endobj\n" % (number, one)
    table = b"xref\n0 6\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    return body + table + b"trailer<</Root 1 0 R/Size 6>>\nstartxref\n%d\n%%%%EOF" % len(body)


def test_a_pdf_gives_its_text() -> None:
    got = extract(_pdf("Words of a paper."), "application/pdf", BASE)
    assert isinstance(got, Extracted), got
    assert (got.text, got.encoding, got.extractor) == ("Words of a paper.", "pdf", "pypdf")
    scanned = extract(_pdf(""), "application/pdf", BASE)
    assert isinstance(scanned, Rejected) and (scanned.rule, "OCR" in scanned.detail) == ("empty", True)


def test_what_a_page_asks_of_robots_is_handed_on() -> None:
    got = extract(b"<meta name=ROBOTS content='NoIndex, noAI'><meta name=tdm-reservation content=1><p>text", "text/html", BASE)
    assert isinstance(got, Extracted)
    assert (got.robots_orders, got.tdm_reservation) == (("noai", "noindex"), "1")
