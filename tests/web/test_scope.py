"""Where a crawl stays, which sessions it forgets, and both sides of each threshold of its traps."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.web import urls
from tasks.web.scope import Scope, ScopeConfig

HEX = "0123456789abcdef"
OPEN = Scope(ScopeConfig(allowed_hosts=("h",)), ())


def enters(scope: Scope, url: str) -> bool:
    return scope.refusal(urls.canonical(url), 2026) is None


def trap(path: str, **config: int | None) -> str:
    refusal = Scope(ScopeConfig.model_validate({"allowed_hosts": ("h",), **config}), ()).refusal(f"http://h{path}", 2026)
    assert refusal is None or refusal[0] == "trap"
    return refusal[1] if refusal else ""


@pytest.mark.parametrize(
    ("seed", "inside", "outside"),
    [
        ("http://h/", ["http://h/x", "https://h/", "http://h:8080/"], ["http://a.h/", "http://hh/"]),
        ("http://localhost:8080/", ["http://localhost:8080/x"], ["http://localhost/", "http://localhost:8081/"]),
        ("http://127.0.0.1/", ["http://127.0.0.1:81/"], ["http://127.0.0.2/"]),
        ("http://[::1]:81/", ["http://[::1]:81/"], ["http://[::1]/", "http://[::2]:81/"]),
    ],
)
def test_without_a_word_a_crawl_stays_on_the_hosts_of_its_seeds(seed: str, inside: list[str], outside: list[str]) -> None:
    scope = Scope(ScopeConfig(), [seed])
    assert all(enters(scope, url) for url in [seed, *inside])
    assert not any(enters(scope, url) for url in outside)


@pytest.mark.parametrize(
    ("seed", "inside", "outside"),
    [
        (
            "https://docs.example.org/",
            ["http://example.org/", "https://a.b.example.org:99/"],
            ["https://notexample.org/", "https://org/"],
        ),
        ("https://docs.a.co.uk/", ["https://a.co.uk/", "https://b.a.co.uk/"], ["https://b.co.uk/", "https://co.uk/"]),
        ("https://x.github.io/", ["https://y.x.github.io/"], ["https://y.github.io/", "https://github.io/"]),
        ("https://github.io/", ["https://github.io/x"], ["https://y.github.io/"]),
        ("https://bücher.example.ch/", ["https://www.example.ch/"], ["https://ch/"]),
        ("https://www.example.org./", ["https://www.example.org/"], ["https://org./"]),
        ("http://127.0.0.1/", ["http://127.0.0.1/x"], ["http://1.127.0.0.1.example/", "http://126.0.0.1/"]),
        ("http://localhost:8080/", ["http://localhost:8080/x"], ["http://localhost:81/", "http://a.localhost:8080/"]),
        ("http://[::1]/", ["http://[::1]/x"], ["http://[::2]/"]),
    ],
)
def test_or_below_their_domains_as_the_public_suffix_list_has_them(seed: str, inside: list[str], outside: list[str]) -> None:
    scope = Scope(ScopeConfig(stay_on="domain"), [urls.canonical(seed)])
    assert all(enters(scope, url) for url in [seed, *inside])
    assert not any(enters(scope, url) for url in outside)


def test_hosts_and_domains_that_are_named_add_up_and_replace_those_of_the_seeds() -> None:
    config = ScopeConfig(
        allowed_hosts=("A.example", "b.example:443", "c.example:81", "[::1]"), allowed_domains=("Bücher.ch", "d.e.")
    )
    scope = Scope(config, ["http://seed/"])
    inside = [
        "http://a.example:99/",
        "https://b.example/",
        "http://c.example:81/",
        "http://[::1]:8/",
        "http://x.bücher.ch/",
        "http://d.e/",
    ]
    outside = ["http://seed/", "http://x.a.example/", "http://b.example/", "http://c.example/", "http://e/", "http://ad.e/"]
    assert all(enters(scope, url) for url in inside)
    assert not any(enters(scope, url) for url in outside)
    assert scope.refusal("http://seed/", 2026) == ("out_of_scope", "not on an allowed host")


@pytest.mark.parametrize("field", ["allowed_hosts", "allowed_domains"])
@pytest.mark.parametrize("name", ["", "http://h/", "h/path", "*.example.org", "a b", "h?q"])
def test_what_is_no_host_is_refused_with_the_configuration(field: str, name: str) -> None:
    with pytest.raises(ValidationError):
        ScopeConfig.model_validate({field: [name]})


def test_a_domain_with_a_port_and_an_unknown_key_are_refused() -> None:
    for config in ({"allowed_domains": ["h:80"]}, {"max_queries": 1}, {"allow": ["("]}):
        with pytest.raises(ValidationError):
            ScopeConfig.model_validate(config)


def test_one_pattern_of_allow_must_be_found_and_none_of_deny() -> None:
    scope = Scope(ScopeConfig(allow=("^http://h/docs/", "/wiki/"), deny=(r"\.zip$", "print=1")), ["http://h/"])
    assert enters(scope, "http://h/docs/x")
    assert enters(scope, "http://h/de/wiki/x")
    assert scope.refusal("http://h/x", 2026) == ("out_of_scope", "no pattern of allow is found in it")
    assert scope.refusal("http://h/docs/x?print=1", 2026) == ("out_of_scope", "deny 'print=1'")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("/a;jsessionid=1A2b!-3.node1?x=1", "/a?x=1"),
        ("/a;JSESSIONID=1/b;v=2;jsessionid=3", "/a/b;v=2"),
        ("/..;jsessionid=1/b", "/b"),
        ("/a?PHPSESSID=q,-1&x=1", "/a?x=1"),
        ("/a?x=1&phpsessid=2&y=3", "/a?x=1&y=3"),
        ("/a?jsessionid=5", "/a"),
        ("/a?ASPSESSIONIDQQBCCDAD=KJH", "/a"),
        ("/a?ASPSESSIONIDSHORT=KJH", "/a?ASPSESSIONIDSHORT=KJH"),
        ("/a?CFID=12&x=1&CFTOKEN=34", "/a?x=1"),
        ("/a?CFID=12&x=1", "/a?CFID=12&x=1"),
        (f"/a?sid={HEX}", "/a"),
        (f"/a?sid={HEX[:-1]}", f"/a?sid={HEX[:-1]}"),
        ("/a?sid=1234567890123456", "/a?sid=1234567890123456"),
        ("/a?sid=internationalisation", "/a?sid=internationalisation"),
        ("/a?sid=99/03/31/0137221", "/a?sid=99/03/31/0137221"),
        (f"/a?side={HEX}&inside={HEX}", f"/a?side={HEX}&inside={HEX}"),
        (f"/a?x&Session_ID={HEX}&osCsid={HEX}&zenid={HEX}", "/a?x"),
        ("/(S(lit3py55t21z5v55vlm25s55))/a.aspx", "/a.aspx"),
        ("/app/(X(1)F(a-b_c)S(abc))/", "/app/"),
        ("/wiki/Mercury_(planet)/(s(1))/x", "/wiki/Mercury_(planet)/(s(1))/x"),
    ],
)
def test_session_ids_are_taken_out(url: str, expected: str) -> None:
    assert OPEN.cleaned(f"http://h{url}") == f"http://h{expected}"
    assert Scope(ScopeConfig(strip_session_ids=False), ()).cleaned(f"http://h{url}") == f"http://h{url}"


PARTS = st.sampled_from(
    ["jsessionid=", ";jsessionid=1", "(S(x))", "/(S(x))/", "PHPSESSID=1", "cfid=1", "CFTOKEN=2", f"sid={HEX}", "sid=", HEX]
) | st.sampled_from(["/", "?", "&", "&&", ";", "=", "..", ".", "%", "a", "é", "//", "\\", "ASPSESSIONIDABCDEFGH=1"])


@given(st.lists(PARTS, max_size=12).map("".join))
@example("..;jsessionid=1/(S(x))/..;jsessionid=2")
@example(f"?sid={HEX};jsessionid=1&cfid=1&cftoken=2")
def test_a_cleaned_url_is_canonical_and_clean(text: str) -> None:
    cleaned = OPEN.cleaned(urls.canonical("http://h;jsessionid=1/" + text))
    assert cleaned == urls.canonical(cleaned) == OPEN.cleaned(cleaned)
    assert urls.host_of(cleaned) == "h;jsessionid=1"


def test_a_path_has_an_end() -> None:
    path = "".join(f"/{n}" for n in range(20))
    assert trap(path) == ""
    assert trap(path + "/") == "path: 21 segments, more than max_path_segments 20"
    assert trap(path + "/", max_path_segments=0) == ""


@pytest.mark.parametrize(
    ("path", "repeated"),
    [
        ("/a/a/page", None),
        ("/luxembourg/luxembourg/luxembourg", None),
        ("/a/a/a/", "/a"),
        ("/x/a/a/a/page", "/a"),
        ("/a/b/a/b/a", None),
        ("/a/b/a/b/a/b", "/a/b"),
        ("/a/b/a/b/a/bb", None),
        ("/x/a/b/c/a/b/c/a/b/c/y", "/a/b/c"),
        ("/a/b/a/c/a/d", None),
        ("/aa/a/a/b", None),
        ("/a///b", None),
        ("/a////b", "/"),
        ("/q?x=/a/a/a/a/", None),
    ],
)
def test_a_path_that_repeats_itself_is_a_trap(path: str, repeated: str | None) -> None:
    assert trap(path) == (f"path: {repeated} repeats more than max_repeats 2 times in a row" if repeated else "")
    assert trap(path, max_repeats=0) == ""


def test_as_many_repetitions_pass_as_are_configured() -> None:
    assert trap("/a/a/a/a/", max_repeats=4) == trap("/a/b" * 4, max_repeats=4) == ""
    assert trap("/a/a/a/a/a/", max_repeats=4) and trap("/a/b" * 5, max_repeats=4)


@pytest.mark.parametrize(
    "path",
    [
        "/2028/01/", "/x/2028/01/31", "/2028-01", "/2028-01-31/", "/2028/1/31", "/events/2028/1", "/2028/12/a",
        "/x?date=2028-01", "/x?a=b&eventDate=2028-01-31T10:00", "/x?d=20280131", "/x?tribe-bar-date=2028-1-1", "/x?day=2028%2F01%2F31",
        "/x?month=1&year=2028", "/calendar?year=2028", "/x?cal_year=2028&cal_month=0",
    ],
)  # fmt: skip
def test_the_future_ends_after_next_year(path: str) -> None:
    assert trap(path) == "calendar: 2028 is more than calendar_years_ahead 1 after 2026"
    assert trap(path.replace("2028", "2027")) == trap(path, calendar_years_ahead=2) == trap(path, calendar_years_ahead=None) == ""


@pytest.mark.parametrize("path", ["/calendar/1989/12/", "/events/1989-12-31", "/x/kalender?date=1989-12", "/agenda?y=1989&m=12"])
def test_a_calendar_begins_at_some_year(path: str) -> None:
    assert trap(path) == "calendar: 1989 is before calendar_from 1990"
    assert trap(path.replace("1989", "1990")) == trap(path, calendar_from=1989) == trap(path, calendar_from=0) == ""


def test_a_subdomain_may_say_that_it_is_a_calendar() -> None:
    scope = Scope(ScopeConfig(), ["http://events.example.org/", "http://h/"])
    assert not enters(scope, "http://events.example.org/1850/05/03")
    assert enters(scope, "http://h/1850/05/03")


@pytest.mark.parametrize(
    "path",
    [
        "/1984/", "/2050/", "/1850/05/03", "/archive/1850/05/03/page-2", "/events/1969/07/20/moon-landing", "/thread/2031/5",
        "/2099-13", "/2031-05-12-title", "/20310512/", "/12031/05/", "/x?id=2031-05", "/x?year=2031", "/x?d=210010", "/x?d=2031-05.zip",
        "/x?date=1850-05-03", "/x?year=1850&month=5", "/9999/05/",
    ],
)  # fmt: skip
def test_these_are_no_calendars(path: str) -> None:
    assert trap(path) == ""


@given(
    st.lists(PARTS | st.sampled_from(["2031", "-05", "/2031/05", "date=2031-05", "year=1850", "month=5"]), max_size=30).map(
        "".join
    )
)
def test_a_verdict_depends_on_the_url_and_the_year_alone(text: str) -> None:
    url = urls.canonical("http://h/" + text)
    assert OPEN.refusal(url, 2026) == OPEN.refusal(url, 2026) == Scope(ScopeConfig(allowed_hosts=("h",)), ()).refusal(url, 2026)
