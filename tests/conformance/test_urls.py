"""Our URLs against cases made by others: the WHATWG URL standard's own, and those of iipc/urlcanon."""

import json
from pathlib import Path
from typing import Any

import pytest

from tasks.web import urls

CASES = Path(__file__).parents[3] / "shared" / "data" / "urls"
# what urlcanon's `semantic precise` does and a crawler that must fetch what it names does not: decode again and again, unescape reserved
# characters, sort the query, merge slashes, drop dots behind a host, take dots for 0.0.0.0 and escapes for parts of a host
OTHERWISE = {
    *("http:///%2e/a/b", "http:%/", "http://09/", "http://\x01\x80.com/", "http://www.google.com.../", "httpa://foo:80/"),
    *("http://example.com/%3A%3a%3C%3c", "http://example.com/%7Ffp3%3Eju%3Dduvgw%3Dd", "http://example.com/(%28:%3A%29)"),
    *("http://example.com/@asdf%40", "http://facebook.com/?foo=%7B%22abc%22", "http://example.com/?c=d&a=b"),
    *("http://example.com/?%26=%26&%26", "http://example.com/?%3d=%3d&%3d", "http://example.com////../.."),
    *("http://example.com\\\\foo\\\\bar", "http://host.com//twoslashes?more//slashes", "http://example.com/foo\t\x91%91"),
    *("http://host%23.com/%257Ea%2521b%2540c%2523d%2524e%25f%255E00%252611%252A22%252833%252944_55%252B", "http://host/%%36%31"),
    *("http://host/%25%2536%2531", "http://host/%25%25361", "http://host/%25%32%35", "http://host/%25%32%35%25%32%35"),
    *("http://host/%2525252525252525", "http://host/%2561", "http://host/?%%36%31", "http://host/?%25%2536%2531"),
    *("http://host/?%25%25361", "http://host/?%2561", "http://host/asdf%25%32%35asd", "http://host/%%%25%32%35asd%%"),
    *("http:%2e%2e%2e/a/b", "http:%2e%2e/a/b", "http:%2e/a/b", "http:/%/", "http:/%2e%2e%2e/a/b", "http:/%2e%2e/a/b"),
    *("http:/%2e/a/b", "http:// leadingspace.com/", "http://%/", "http://%20leadingspace.com/", "http://%2e%2e%2e/a/b"),
    *("http://%2e%2e/a/b", "http://%2e/a/b", "http:///%2e%2e%2e/a/b", "http:///%2e%2e/a/b", "http://host/%%300"),
    *("http://host/?%%300",),
}


def cases(name: str) -> Any:
    if not CASES.is_dir():
        pytest.skip(f"no cases at {CASES}")
    return json.loads((CASES / name).read_text(encoding="utf-8"))


def as_meant(url: str) -> str:
    """urlcanon's file has UTF-8 written as if it were Latin-1."""
    try:
        return url.encode("latin-1").decode()
    except UnicodeError:
        return url


def canonical(url: str, base: str | None = None) -> str | None:
    try:
        return urls.canonical(url, base)
    except urls.UrlError:
        return None


def test_every_reference_leads_where_a_browser_would_go() -> None:
    """Of the standard's cases all whose base is a page; what no http client can fetch has no canonical URL."""
    num_pages = num_refused = 0
    for case in (one for one in cases("wpt_urltestdata.json") if isinstance(one, dict)):
        base = canonical(case["base"]) if case["base"] else None
        if case["base"] and base is None:
            continue
        got = canonical(case["input"], base)
        if case.get("failure") or case["protocol"] not in ("http:", "https:"):
            assert got is None, case
            num_refused += 1
        else:
            assert got is not None and got == canonical(case["href"]), case
            assert urls.hostname_of(got) == case["hostname"].strip("[]") and got.startswith(case["protocol"] + "//"), case
            assert urls.host_of(got) == case["host"], case
            num_pages += 1
    assert num_pages > 200 and num_refused > 300


def test_dots_in_paths_go_as_the_standard_says() -> None:
    for path, wanted in cases("urlcanon_path_dots.json")["special"].items():
        if "\\" not in path:  # in http a slash by the standard, which urlcanon does not follow
            assert canonical(f"http://h{path}") == f"http://h{wanted}"


def test_the_canonical_form_is_that_of_urlcanon_but_where_it_would_name_another_page() -> None:
    found = set()
    for url, wanted in cases("urlcanon_semantic_precise.json").items():
        if url.strip().lower().startswith("http"):
            page = wanted.partition("#")[0]
            if canonical(as_meant(url)) != (page.removesuffix("?") if page.count("?") == 1 else page):
                found.add(url)
    assert found == OTHERWISE


def test_a_canonical_url_is_its_own_canonical_url() -> None:
    every = [*cases("urlcanon_idempotence.json"), *cases("urlcanon_semantic_precise.json")]
    every += [one["input"] for one in cases("wpt_urltestdata.json") if isinstance(one, dict)]
    known = [one for url in every if (one := canonical(url))]
    assert len(known) > 300
    assert [url for url in known if canonical(url) != url] == []
