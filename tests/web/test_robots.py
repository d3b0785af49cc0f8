"""RFC 9309: what a robots.txt, or its absence, allows."""

import pytest

from tasks.web.robots import MAX_ROBOTS_BYTES, Robots

TEXT = """
User-agent: *
Disallow: /private/
Allow: /private/open
Crawl-delay: 2.5

User-agent: gristmill
Disallow: /nomill/

Sitemap: http://h/sitemap.xml
Sitemap: http://h/more.xml
"""


def test_the_group_of_the_agent_wins_over_the_star() -> None:
    mill, other = Robots.parse(TEXT, "Gristmill"), Robots.parse(TEXT, "OtherBot")
    assert not mill.allows("http://h/nomill/x")
    assert mill.allows("http://h/private/x")
    assert not other.allows("http://h/private/x")
    assert other.allows("http://h/private/open/x")
    assert (mill.crawl_delay_s, other.crawl_delay_s) == (None, 2.5)
    assert mill.sitemaps == ("http://h/sitemap.xml", "http://h/more.xml")


@pytest.mark.parametrize(
    ("status", "allowed"), [(200, True), (404, True), (403, True), (429, False), (500, False), (503, False), (None, False)]
)
def test_a_missing_file_allows_all_and_a_failing_server_allows_nothing(status: int | None, allowed: bool) -> None:
    assert Robots.from_response(status, b"", "Gristmill").allows("http://h/x") is allowed


def test_the_body_of_an_error_page_is_not_read_as_rules() -> None:
    assert Robots.from_response(404, b"User-agent: *\nDisallow: /", "Gristmill").allows("http://h/x")


def test_rules_within_500_kib_hold_and_rules_beyond_do_not() -> None:
    early = b"User-agent: *\nDisallow: /early/\n"
    filler = b"# " + b"x" * 97 + b"\n"
    body = early + filler * (MAX_ROBOTS_BYTES // len(filler)) + b"Disallow: /late/\n"
    rules = Robots.from_response(200, body, "Gristmill")
    assert not rules.allows("http://h/early/")
    assert rules.allows("http://h/late/")


def test_rules_survive_the_round_log() -> None:
    rules = Robots.parse(TEXT, "Gristmill")
    assert Robots.from_json(rules.to_json()) == rules
