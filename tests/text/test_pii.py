import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from tasks.text.pii import SHIELD, RedactConfig, find, redact, shield, unshield

LABELLED = Path(__file__).parents[3] / "shared" / "data" / "pii" / "synth_dataset_v2.json"  # presidio-research, MIT
FLOORS = Path(__file__).parents[1] / "gates" / "floors.json"

PIECES = [
    "8.8.8.8", "10.0.0.1", "999.1.1.1", "1.2.3.4.5", "22.214.171.124", "2001:4860", "2606:4700::1111", "2001:4860::",
    "6e40:4041:c617:e898:c11:40d2:c669:2eb4", "a@b.co", "email@example.com", "b.co", "@", ".", ":", "::", "1", "ff",
    "com", "-", "+", "_", "%", "/", "x", " ", "\n", "\x00", "é", "中",
]  # fmt: skip
TEXTS = st.lists(st.one_of(st.lists(st.sampled_from(PIECES), max_size=9).map("".join), st.text()), max_size=5)
CONFIGS = st.sampled_from(
    [
        RedactConfig(),
        RedactConfig(public_ips_only=False),
        RedactConfig(ips=False),
        RedactConfig(email_replacement="<e\\mail>", ip_replacement="<ip>"),
    ]
)


def redacted(text: str, config: RedactConfig | None = None) -> tuple[str, int, int]:
    new, counts = redact(pa.array([text]), config or RedactConfig())
    return new[0].as_py(), int(counts["email"][0]), int(counts["ip"][0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to jane.doe+mill@mail.example.co.uk.", "Write to email@example.com."),
        ("<a_b@x-y.org>", "<email@example.com>"),
        ("mailto:c@d.io?subject=1", "mailto:email@example.com?subject=1"),
        ("请联系me@site.com或致电", "请联系email@example.com或致电"),
        ("user@xn--80akhbyknj4f.xn--p1ai", "email@example.com"),
        ("me@site.comLogin", "email@example.com"),
        ("%20me@site.com", "%email@example.com"),
    ],
)
def test_email_addresses_are_masked_in_place(text: str, expected: str) -> None:
    assert redacted(text) == (expected, 1, 0)


@pytest.mark.parametrize(
    "text",
    ["@handle", "a @ b.com", "lodash@4.17.21", "user@localhost", "me@", "@b.com", "a@b", "a@b.c", "a@-b.-c", "5 @ 3.50"],
)
def test_what_only_resembles_an_email_address_stays(text: str) -> None:
    assert redacted(text) == (text, 0, 0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("from 8.8.8.8.", "from 22.214.171.124."),
        ("http://93.184.216.34:8080/x", "http://22.214.171.124:8080/x"),
        ("(1.1.1.0/24)", "(22.214.171.124/24)"),
        ("адрес8.8.8.8、", "адрес22.214.171.124、"),
        ("[2606:4700::1111]:443", "[22.214.171.124]:443"),
        ("2001:4860:4860::8888: found", "22.214.171.124: found"),
        ("6e40:4041:c617:e898:c11:40d2:c669:2eb4", "22.214.171.124"),
        ("::ffff:8.8.8.8", "::ffff:22.214.171.124"),
    ],
)
def test_public_ip_addresses_are_masked_in_place(text: str, expected: str) -> None:
    assert redacted(text) == (expected, 0, 1)


@pytest.mark.parametrize(
    "text",
    [
        "127.0.0.1 10.1.2.3 192.168.0.1 172.31.255.255 169.254.169.254 0.0.0.0 255.255.255.255 192.0.2.1",
        "::1 fe80::1 2001:db8::1 fd00:1:2:3:4:5:6:7",
        "1.2.3.4.5 v1.2.3.4 1.2.3.4a 999.1.1.1 1.2.3 256.8.8.8 08.8.8.8 iso.3.6.1.4",
        "std::vector dead::beef ::add() 12:30:45 a::b::c",
        "00:11:22:33:44:55:66:77 and 2001:aaaa:bbbb:cccc:1:2:3:4:5",
    ],
)
def test_private_addresses_versions_and_code_stay(text: str) -> None:
    assert redacted(text) == (text, 0, 0)


def test_private_addresses_are_masked_on_request() -> None:
    assert redacted("127.0.0.1 and fe80::1", RedactConfig(public_ips_only=False, ip_replacement="IP"))[0] == "IP and fe80::1"
    everything_off = RedactConfig(emails=False, ips=False)
    assert redacted("a@b.co 8.8.8.8", everything_off) == ("a@b.co 8.8.8.8", 0, 0)


@settings(deadline=None)
@given(TEXTS, CONFIGS)
def test_redacting_twice_changes_and_counts_nothing_more(texts: list[str], config: RedactConfig) -> None:
    once, _ = redact(pa.array(texts, pa.string()), config)
    twice, counts = redact(once, config)
    assert twice is once
    assert not counts["email"].any()
    assert not counts["ip"].any()


@settings(deadline=None)
@given(TEXTS, CONFIGS, st.data())
def test_a_document_is_redacted_alike_alone_in_a_slice_and_in_a_large_array(texts, config, data) -> None:  # type: ignore[no-untyped-def]
    whole, counts = redact(pa.array(texts, pa.large_string()), config)
    assert whole.type == pa.large_string()
    cut = data.draw(st.integers(0, len(texts)))
    tail, tail_counts = redact(pa.array(texts, pa.string()).slice(cut), config)
    assert tail.to_pylist() == whole.to_pylist()[cut:]
    for kind in counts:
        assert tail_counts[kind].tolist() == counts[kind].tolist()[cut:]
    for text, new, emails, ips in zip(texts, whole.to_pylist(), counts["email"], counts["ip"], strict=True):
        assert text == new or emails + ips > 0


def test_addresses_that_run_into_each_other_leave_none_behind() -> None:
    text = "email@example.com8.8.8.8email@example.com a@b.co@c.com 2001:4860::.me@d.com"
    new, _, _ = redacted(text, RedactConfig(email_replacement="<e>", ip_replacement="<i>"))
    assert new == "<e> <e> <i>.<e>"


def test_text_without_matches_is_the_very_same_array() -> None:
    text = pa.array(["plain", None, "", "127.0.0.1 a@b email@example.com 22.214.171.124"])
    new, counts = redact(text, RedactConfig())
    assert new is text
    assert counts["email"].tolist() == counts["ip"].tolist() == [0, 0, 0, 0]


def test_nulls_stay_null_beside_redacted_documents() -> None:
    new, counts = redact(pa.array([None, "a@b.co c@d.io 8.8.8.8", None]), RedactConfig())
    assert new.to_pylist() == [None, "email@example.com email@example.com 22.214.171.124", None]
    assert (counts["email"].tolist(), counts["ip"].tolist()) == ([0, 2, 0], [0, 1, 0])


@pytest.mark.parametrize(
    "wrong",
    [{"email_replacement": "a@b.co or c@d.io"}, {"ip_replacement": "8.8.8.8, 1.1.1.1"}, {"ip_replacement": "me@host.com"}],
)
def test_a_replacement_that_would_be_masked_in_turn_is_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="masked in turn"):
        RedactConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.skipif(not LABELLED.exists(), reason="the labelled set is not beside the checkout")
@pytest.mark.parametrize(("kind", "label"), [("email", "EMAIL_ADDRESS"), ("ip", "IP_ADDRESS")])
def test_precision_and_recall_on_labelled_texts_are_above_their_floors(kind: str, label: str) -> None:
    rows = json.loads(LABELLED.read_text(encoding="utf-8"))
    new, counts = redact(pa.array([row["full_text"] for row in rows]), RedactConfig())
    num_labelled = num_masked = 0
    for row, text in zip(rows, new.to_pylist(), strict=True):
        values = [span["entity_value"] for span in row["spans"] if span["entity_type"] == label]
        num_labelled += len(values)
        num_masked += sum(value not in text for value in values)
    floors = json.loads(FLOORS.read_text(encoding="utf-8"))["pii"]
    assert num_labelled >= 10
    assert num_masked / num_labelled >= floors[f"{kind}_recall"]
    assert num_masked / counts[kind].sum() >= floors[f"{kind}_precision"]


MASKS = ("email@example.com", "22.214.171.124", "<e\\mail> (.*)", "")


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.booleans())
def test_what_is_shielded_is_all_that_would_be_masked_and_comes_back_as_it_was(texts: list[str], large: bool) -> None:
    text = pa.array([*texts, None, f"a@b.co {SHIELD}", "1.2.3.4 <e\\mail> (.*)"], pa.large_string() if large else pa.string())
    shielded, inside = shield(text, MASKS)
    assert unshield(shielded, inside).equals(text) and shielded.type == text.type
    assert inside[len(texts) + 1] == [f"a@b.co {SHIELD}"] and inside[len(texts) + 2] == ["1.2.3.4", "<e\\mail> (.*)"]
    everything = RedactConfig(public_ips_only=False, email_replacement="<mail>", ip_replacement="<ip>")
    _, left = redact(shielded, everything)
    assert not left["email"].any() and not left["ip"].any()
    _, there = redact(text, everything)
    assert all(row in inside for row in np.flatnonzero(there["email"] + there["ip"]))


def test_addresses_are_shielded_by_hand() -> None:
    text = pa.array(["Ask me@site.org or 8.8.8.8, not 10.0.0.1; ::1 and 2001:4860::8888.", "No address.", "éa@b.coé"])
    shielded, inside = shield(text)
    assert shielded.to_pylist() == [f"Ask {SHIELD} or {SHIELD}, not {SHIELD}; ::1 and {SHIELD}.", "No address.", f"é{SHIELD}é"]
    assert inside == {0: ["me@site.org", "8.8.8.8", "10.0.0.1", "2001:4860::8888"], 2: ["a@b.co"]}
    assert shield(text.slice(1, 1))[0].to_pylist() == ["No address."]


@settings(max_examples=200)
@given(TEXTS, CONFIGS)
def test_what_is_found_is_what_is_masked(texts: list[str], config: RedactConfig) -> None:
    found = find(pa.array(texts, pa.string()), config)
    masked = redact(pa.array(texts, pa.string()), config)[0].to_pylist()
    for one in found:
        assert one.value in texts[one.row] and texts[one.row] != masked[one.row]
        assert one.kind == ("email" if "@" in one.value else "ip")


def test_addresses_are_found_with_their_kind_and_replacements_are_none() -> None:
    text = pa.array(["no address", "jo@mill.org, email@example.com, 10.0.0.1, 8.8.8.8", "2001:4860:4860::8888 22.214.171.124"])
    assert find(text, RedactConfig()) == [(1, "email", "jo@mill.org"), (1, "ip", "8.8.8.8"), (2, "ip", "2001:4860:4860::8888")]
    assert not find(pa.array(["8.8.8.822.214.171.124"]), RedactConfig())  # no address, though the end is a replacement
    assert find(text, RedactConfig(ips=False)) == [(1, "email", "jo@mill.org")]
