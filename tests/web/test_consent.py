"""What sites and pages say about being collected: each signal read as its specification has it, and what follows by the policy."""

import json

import pytest
from pydantic import ValidationError

from tasks.web.consent import TRAINING_AGENTS, Consent, ConsentPolicy, Reservations, content_signal, robots_tag, tdm_header
from tasks.web.robots import Robots

URL = "https://h.example/articles/1?x=2"


@pytest.mark.parametrize(
    ("values", "orders"),
    [
        (["noindex, noai"], ("noai", "noindex")), (["NoIndex"], ("noindex",)), ([], ()), (["", " , "], ()),
        (["otherbot: noindex"], ()), (["mybot: noindex, nofollow"], ("nofollow", "noindex")), (["noai", "otherbot: noindex"], ("noai",)),
        (["otherbot: noai, nofollow, mybot: noindex"], ("noindex",)), (["max-snippet: 20, noarchive"], ("max-snippet", "noarchive")),
        (["unavailable_after: 25 Jun 2026 15:00:00 PST, noai"], ("noai", "unavailable_after")),
    ],
)  # fmt: skip
def test_x_robots_tag_is_read_for_us_and_for_all(values: list[str], orders: tuple[str, ...]) -> None:
    assert robots_tag(values, "MyBot") == orders


@pytest.mark.parametrize(("value", "reserved"), [("1", True), (" 0 ", False), ("yes", None), ("", None), (None, None)])
def test_a_tdm_header_reserves_by_one_and_nothing_else(value: str | None, reserved: bool | None) -> None:
    assert tdm_header(value) == reserved


def test_the_longest_location_of_tdmrep_decides() -> None:
    rules = [
        {"location": "/", "tdm-reservation": 1, "tdm-policy": "https://h.example/policy"},
        {"location": "/articles/*", "tdm-reservation": 0},
        {"location": "/articles/*.pdf$", "tdm-reservation": 1},
        {"location": 7, "tdm-reservation": 1}, {"location": "/x"}, "nonsense",
    ]  # fmt: skip
    said = Reservations.of(json.dumps(rules))
    pages = {"/": True, "/about": True, "/articles/1": False, "/articles/1.pdf": True, "/articles/1.pdf?x": False}
    assert {path: said.of_page(f"https://h.example{path}") for path in pages} == pages
    assert (
        Reservations.of("{}").of_page(URL)
        is Reservations.of("no json").of_page(URL)
        is Reservations.of("[" * 9000).of_page(URL)
        is None
    )


ROBOTS = """
User-agent: *
Content-Signal: search=yes, ai-train=no   # as contentsignals.org has it
Content-Signal: /articles/ search=yes, ai-train=yes
Disallow: /private/

User-agent: GPTBot
User-agent: ccbot
Disallow: /articles/

User-agent: mine
Content-Signal: ai-train=yes
Allow: /
"""


def test_content_signals_are_those_of_our_group_and_the_longest_path() -> None:
    assert content_signal(ROBOTS, "other", URL) == "search=yes, ai-train=yes"
    assert content_signal(ROBOTS, "other", "https://h.example/") == "search=yes, ai-train=no"
    assert content_signal(ROBOTS, "Mine", "https://h.example/") == "ai-train=yes"
    assert content_signal("Content-Signal: ai-train=no", "other", URL) == "ai-train=no"  # before any group: for all
    assert content_signal("User-agent: *\nDisallow:", "other", URL) is None


def test_robots_txt_is_read_for_the_collectors_of_training_data() -> None:
    said = Robots.parse(ROBOTS, "mine").consent(URL)
    assert said.robots_denies == ("CCBot", "GPTBot") and said.content_signal == "ai-train=yes" and said.tdm_reserved is None
    everywhere = Robots.parse(ROBOTS, "mine").consent("https://h.example/private/")
    assert set(everywhere.robots_denies or ()) == set(TRAINING_AGENTS) - {"CCBot", "GPTBot"}
    assert Robots("mine", 404).consent(URL) == Consent(robots_denies=())
    for agent in TRAINING_AGENTS:  # as one that is asked for each of them alone says
        alone = Robots.parse(f"User-agent: {agent}\nDisallow: /", "mine")
        assert agent in (alone.consent(URL).robots_denies or ()) and alone.allows(URL) is not (agent == "mine")
    reserved = Robots("mine", 200, "", tdmrep='[{"location": "/articles", "tdm-reservation": 1}]')
    assert reserved.consent(URL).tdm_reserved is True
    assert Robots.from_json(reserved.to_json()) == reserved


@pytest.mark.parametrize(
    ("said", "switch", "rule"),
    [
        (Consent(robots_orders=("noindex",)), "noindex", "noindex"), (Consent(robots_orders=("none",)), "noindex", "noindex"),
        (Consent(robots_orders=("noai",)), "noai", "noai"), (Consent(tdm_reserved=True), "tdm_reserved", "tdm_reserved"),
        (Consent(content_signal="search=yes, AI-Train = no"), "content_signal", "content_signal"),
        (Consent(robots_denies=("GPTBot",)), "agents", "robots_ai"),
    ],
)  # fmt: skip
def test_each_signal_keeps_a_page_out_unless_the_policy_says_otherwise(said: Consent, switch: str, rule: str) -> None:
    refusal = said.refusal(ConsentPolicy())
    assert refusal is not None and refusal[0] == rule and refusal[1]
    off: object = () if switch == "agents" else False
    assert said.refusal(ConsentPolicy.model_validate({switch: off})) is None


def test_what_allows_keeps_nothing_out_and_licences_can_be_asked_for() -> None:
    fine = Consent(robots_denies=(), robots_orders=("noimageai", "nofollow"), tdm_reserved=False, content_signal="ai-train=yes")
    assert fine.refusal(ConsentPolicy()) is Consent().refusal(ConsentPolicy()) is None
    free = ConsentPolicy(licences=(r"creativecommons\.org/(licenses/by|publicdomain)",))
    assert fine.refusal(free, "https://creativecommons.org/licenses/by-sa/4.0/") is None
    assert fine.refusal(free, "© X") == ("licence", "© X") and fine.refusal(free) == ("licence", "the page states none")
    assert fine.refusal(free, page_known=False) is None
    with pytest.raises(ValidationError, match="no regular expression"):
        ConsentPolicy(licences=("(",))
    with pytest.raises(ValidationError, match=r"not read for GTPBot; it is for AI2Bot.*GPTBot"):
        ConsentPolicy(agents=("GTPBot",))


def test_a_page_goes_before_its_site() -> None:
    site = Consent(robots_orders=("noarchive",), tdm_reserved=True)
    assert site.and_page(("noai",), None) == Consent(robots_orders=("noai", "noarchive"), tdm_reserved=True)
    assert site.and_page((), False).tdm_reserved is False
    assert site.refusal(ConsentPolicy(), page_known=False) is None  # the page could still take it back
    assert Consent.of_row(site.row()) == site
