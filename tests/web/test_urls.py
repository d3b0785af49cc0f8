"""URL spelling against the WHATWG cases of other people, and the addresses that may never be fetched."""

import json
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.web import urls

WPT = Path(__file__).parents[3] / "shared" / "data" / "urls" / "wpt_urltestdata.json"
# UTS 46 drops these ignorable code points; the IDNA codec behind yarl refuses them
IGNORABLE = ("\u200b", "%C2%AD")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://Example.COM:80", "http://example.com/"),
        ("https://example.com:443/a#frag", "https://example.com/a"),
        ("https://example.com:8443/?", "https://example.com:8443/"),
        ("http://h/a/./b/../c/%2e%2E/d", "http://h/a/d"),
        ("http://h/%7euser/%e9%2f?q=%61 b", "http://h/~user/%E9%2F?q=a%20b"),
        ("http://bücher.ch/ü", "http://xn--bcher-kva.ch/%C3%BC"),
        ("http://user:secret@h/", "http://h/"),
        ("http:\\\\h\\a", "http://h/a"),
        ("http://0x7f.1/", "http://127.0.0.1/"),
        ("http://[2001:DB8::0:1]:80/", "http://[2001:db8::1]/"),
    ],
)
def test_every_spelling_of_a_url_becomes_one(url: str, expected: str) -> None:
    assert urls.canonical(url) == expected
    assert urls.canonical(expected) == expected


@pytest.mark.parametrize(
    "url", ["", "mailto:a@b.c", "http://", "http://[bad", "http://a b/", "http://h:99999/", "/x", "http://h/" + "a" * 3000]
)
def test_what_cannot_be_fetched_is_refused(url: str) -> None:
    with pytest.raises(urls.UrlError):
        urls.canonical(url)


@pytest.mark.parametrize(
    ("href", "expected"),
    [
        ("../x", "http://h:81/x"), ("?q", "http://h:81/a/b?q"), ("#f", "http://h:81/a/b?z"), ("//o/y", "http://o/y"),
        ("/r", "http://h:81/r"), ("https:k/", "https://k/"), ("javascript:void(0)", None), ("http://[bad", None),
    ],
)  # fmt: skip
def test_links_are_resolved_against_their_page(href: str, expected: str | None) -> None:
    assert urls.resolve("http://h:81/a/b?z", href) == expected


@given(st.text(max_size=60))
def test_a_canonical_url_is_its_own_canonical_form(text: str) -> None:
    found = urls.resolve("http://example.org/a/b", text)
    assert found is None or urls.canonical(found) == found


def _web_cases() -> list[dict[str, Any]]:
    cases = [case for case in json.loads(WPT.read_text()) if isinstance(case, dict)]
    web_bases = [case for case in cases if not case.get("base") or case["base"].startswith("http")]
    return [case for case in web_bases if case.get("failure") or case["protocol"] in ("http:", "https:")]


@pytest.mark.skipif(not WPT.exists(), reason="the WHATWG cases are not in ../shared/data")
def test_parsing_agrees_with_the_whatwg_cases() -> None:
    cases = [case for case in _web_cases() if not any(mark in case["input"] for mark in IGNORABLE)]
    wrong = []
    for case in cases:
        got = urls.resolve(urls.canonical(case["base"]), case["input"]) if case.get("base") else _or_none(case["input"])
        want = None if case.get("failure") else (case["host"], unquote(case["pathname"]), unquote(case["search"][1:]))
        location, _, query = (got or "").partition("://")[2].partition("?")
        host, slash, path = location.partition("/")
        if (got and (host, unquote(slash + path), unquote(query))) != want:
            wrong.append((case["input"], case.get("base"), got, want))
    assert wrong == []
    assert len(cases) > 400


def _or_none(url: str) -> str | None:
    try:
        return urls.canonical(url)
    except urls.UrlError:
        return None


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.9.9", "169.254.169.254", "0.0.0.0", "100.64.0.1", "224.0.0.1", "::1", "fe80::1%eth0",
     "fc00::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::", "not an address"],
)  # fmt: skip
def test_addresses_outside_the_public_internet_are_forbidden(address: str) -> None:
    assert urls.forbidden_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700::1111", "::ffff:8.8.8.8"])
def test_public_addresses_are_not_forbidden(address: str) -> None:
    assert not urls.forbidden_address(address)


def test_hosts_keep_their_partition_and_all_partitions_are_used() -> None:
    places = [urls.partition_of(f"host{i}.example", 4) for i in range(200)]
    assert set(places) == {0, 1, 2, 3}
    assert urls.partition_of("127.0.0.1:8790", 8) == urls.partition_of("127.0.0.1:8790", 8)
    assert urls.host_of("http://[::1]:8/x") == "[::1]:8"
    assert urls.hostname_of("http://[::1]:8/x") == "::1"
    assert urls.origin_of("https://h:8/x?q=://") == "https://h:8"


def test_a_port_of_any_length_is_judged_and_never_raises_anything_else() -> None:
    assert urls.resolve("http://a.example/", f"http://h:{'9' * 5000}/") is None
    assert urls.resolve("http://a.example/", f"http://h:{'0' * 5000}80/") == "http://h/"
    assert urls.resolve("http://a.example/", "http://h:00080/") == "http://h/"
    assert urls.resolve("http://a.example/", "http://h:0/") == "http://h:0/"
