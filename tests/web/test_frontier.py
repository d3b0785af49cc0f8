"""The frontier decides the same, whatever the order of answers, the partitions, the round size and the interruptions."""

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.web import urls
from tasks.web.frontier import Frontier, FrontierConfig, Seen, UrlReject
from tasks.web.robots import Robots

HOSTS = ("a.example", "b.example:81", "c.example")
OPEN = Robots("Gristmill", 404)
PAGES = [f"http://{host}/{path}" for host in HOSTS for path in ("", "p1", "p2", "p3", "x/p4", "x/p5", "private/p6")]
RULES = {
    "http://a.example": Robots.parse("User-agent: *\nDisallow: /private/\nSitemap: http://a.example/x/p5", "Gristmill"),
    "http://b.example:81": OPEN,
    "http://c.example": Robots("Gristmill", None, failure="unreachable", detail="connection refused"),
}
Site = dict[str, Seen]


def _crawl(frontier: Frontier, site: Site, chance: random.Random | None = None) -> set[str]:
    """Works a site off; with `chance` answers come shuffled and, as after a kill, only some of them at a time."""
    fetched: list[str] = []
    while not frontier.finished:
        while needed := frontier.origins_needed():
            frontier.learn({origin: RULES.get(origin, OPEN) for origin in needed})
        orders = [order for batch in frontier.batches().values() for order in batch]
        if chance:
            chance.shuffle(orders)
            orders = orders[: chance.randint(1, len(orders))] if orders else []
        frontier.take(site.get(order.url, Seen(order.url)) for order in orders)
        fetched += [order.url for order in orders]
    assert len(fetched) == len(set(fetched)), "a URL was ordered twice"
    return set(fetched)


@st.composite
def _sites(draw: st.DrawFn) -> Site:
    pages = st.sampled_from(PAGES)
    return {
        url: Seen(url, tuple(draw(st.lists(pages, max_size=4))), draw(st.none() | pages)) for url in PAGES
    }  # fmt: skip


@settings(max_examples=80, deadline=None)
@given(_sites(), st.integers(1, 25), st.integers(1, 8), st.integers(0, 4), st.randoms(use_true_random=False))
def test_the_crawled_set_and_the_rejects_do_not_depend_on_timing_partitions_or_rounds(
    site: Site, max_pages: int, max_of_host: int, max_depth: int, chance: random.Random
) -> None:
    limits = {
        "seeds": (PAGES[0], PAGES[7], PAGES[14]),
        "max_pages": max_pages,
        "max_pages_per_host": max_of_host,
        "max_depth": max_depth,
    }
    plain = Frontier(FrontierConfig(**limits))  # type: ignore[arg-type]
    hasty = Frontier(
        FrontierConfig(**limits, round_pages=chance.randint(1, 9), num_partitions=chance.randint(1, 5))  # type: ignore[arg-type]
    )
    assert _crawl(plain, site) == _crawl(hasty, site, chance)
    assert sorted(plain.rejects) == sorted(hasty.rejects)
    assert plain.counts == hasty.counts
    assert plain.counts["num_requested"] <= max_pages


def test_every_url_in_scope_is_either_requested_or_rejected_with_its_rule() -> None:
    site = {PAGES[0]: Seen(PAGES[0], (*PAGES, "http://elsewhere.example/"))}
    frontier = Frontier(FrontierConfig(seeds=(PAGES[0],), allowed_hosts=HOSTS, max_pages=6))
    fetched = _crawl(frontier, site)
    rules = {reject.url: reject.rule for reject in frontier.rejects}
    assert fetched | rules.keys() == set(PAGES)
    assert fetched.isdisjoint(rules)
    assert rules["http://a.example/private/p6"] == "robots"
    assert rules["http://c.example/p1"] == "unreachable"
    assert "budget" in rules.values()
    assert frontier.counts["links_out_of_scope"] == 1


def test_a_sitemap_named_by_robots_is_fetched_like_a_seed() -> None:
    orders = Frontier(FrontierConfig(seeds=(PAGES[0],)))
    assert "http://a.example/x/p5" in _crawl(orders, {})
    without = Frontier(FrontierConfig(seeds=(PAGES[0],), use_sitemaps=False))
    assert "http://a.example/x/p5" not in _crawl(without, {})


def test_allow_and_deny_rules_bound_the_scope() -> None:
    site = {PAGES[0]: Seen(PAGES[0], tuple(PAGES))}
    config = FrontierConfig(seeds=(PAGES[0],), allow=(r"^http://a\.example/($|x/)",), deny=(r"p5$",), use_sitemaps=False)
    assert _crawl(Frontier(config), site) == {PAGES[0], "http://a.example/x/p4"}


def test_an_endless_chain_of_redirects_ends_as_a_counted_reject() -> None:
    chain = [f"http://a.example/r{i}" for i in range(9)]
    site = {here: Seen(here, (), there) for here, there in pairwise(chain)}
    frontier = Frontier(FrontierConfig(seeds=(chain[0],), max_redirects=3, use_sitemaps=False))
    assert _crawl(frontier, site) == set(chain[:4])
    assert [(reject.url, reject.rule) for reject in frontier.rejects] == [(chain[4], "redirect_loop")]


def test_two_pages_that_redirect_to_each_other_are_asked_once_each() -> None:
    site = {
        "http://a.example/1": Seen("http://a.example/1", (), "/2"),
        "http://a.example/2": Seen("http://a.example/2", (), "/1"),
    }
    frontier = Frontier(FrontierConfig(seeds=("http://a.example/1",), use_sitemaps=False))
    assert _crawl(frontier, site) == set(site)


def test_a_host_that_asks_for_a_very_long_delay_is_left_alone() -> None:
    frontier = Frontier(FrontierConfig(seeds=("http://slow.example/",), max_crawl_delay_s=5))
    frontier.learn({"http://slow.example": Robots.parse("User-agent: *\nCrawl-delay: 3600", "Gristmill")})
    assert frontier.batches() == {}
    assert [reject.rule for reject in frontier.rejects] == ["crawl_delay"]


def test_a_partition_holds_whole_hosts_and_lets_them_take_turns() -> None:
    seeds = tuple(f"http://h{i}.example/{page}" for i in range(6) for page in range(5))
    frontier = Frontier(FrontierConfig(seeds=seeds, num_partitions=2, round_pages=7))
    frontier.learn(dict.fromkeys(frontier.origins_needed(), OPEN))
    batches = frontier.batches()
    hosts = {place: [urls.host_of(order.url) for order in batch] for place, batch in batches.items()}
    assert set(hosts[0]).isdisjoint(hosts[1])
    assert all(len(batch) <= 7 for batch in batches.values())
    assert all(len(set(batch[: len(set(batch))])) == len(set(batch)) for batch in hosts.values())


def test_bad_seeds_are_rejects_and_bad_patterns_config_errors() -> None:
    frontier = Frontier(FrontierConfig(seeds=("ftp://h/x",)))
    assert frontier.finished
    assert frontier.rejects == [UrlReject("ftp://h/x", "bad_url", "scheme 'ftp' is not http or https")]
    with pytest.raises(ValidationError, match="no regular expression"):
        FrontierConfig(seeds=("http://h/",), deny=("(",))


def test_a_level_of_which_all_is_refused_does_not_hide_that_the_next_needs_robots() -> None:
    frontier = Frontier(FrontierConfig(seeds=("http://a/", "http://a/r"), allowed_hosts=("a",)))
    frontier.learn({"http://a": Robots.parse("User-agent: *\nDisallow: /no", "mill")})
    assert len(frontier.batches()[next(iter(frontier.batches()))]) == 2
    frontier.take([Seen("http://a/", links=("https://a/x",)), Seen("http://a/r", redirect_to="/no")])
    assert frontier.batches() == {}
    assert not frontier.finished
    assert frontier.origins_needed() == ["https://a"]
    frontier.learn({"https://a": Robots.parse("", "mill")})
    assert [order.url for orders in frontier.batches().values() for order in orders] == ["https://a/x"]
    assert [(reject.url, reject.rule) for reject in frontier.rejects] == [("http://a/no", "robots")]
