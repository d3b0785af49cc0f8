"""What a pattern alone cannot tell of a candidate: checksums, issuers, entropy, and what a coded text says."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections import Counter
from collections.abc import Callable
from typing import Literal

from tasks.text.pii import RedactConfig, is_masked

CheckName = Literal["luhn", "iban", "us_ssn", "public_ip", "phone_digits", "random_word"]

MIN_BITS = 3.0
"""Shannon bits a character that a random-looking word has: English words and identifiers of 20 letters stay below 3.6, hexadecimals reach
at most 4, base 64 at most 6."""
# Lengths by country: the IBAN registry of SWIFT, release 99.
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "FK", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "NI", "PL", "SV"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}


_DATE = re.compile(r"[0-3]?[0-9]([-./ ])[01]?[0-9]\1(?:19|20)[0-9]{2}")


def digits_of(found: str) -> str:
    """Its ASCII digits."""
    return "".join(char for char in found if "0" <= char <= "9")


def luhn(found: str) -> bool:
    """Whether it is a card number: 12 to 19 digits that begin as cards do, with Luhn's check digit (ISO/IEC 7812)."""
    digits = digits_of(found)
    if not 12 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    if not (digits[0] in "23456" or digits.startswith("180")):  # 1800: JCB of 15 digits
        return False
    total = 0
    for place, digit in enumerate(map(int, reversed(digits))):
        total += digit if place % 2 == 0 else sum(divmod(2 * digit, 10))
    return total % 10 == 0


def iban(found: str) -> bool:
    """Whether it is an IBAN: its country's length, and the remainder 1 of ISO 7064."""
    plain = "".join(found.split()).upper()
    if _IBAN_LENGTHS.get(plain[:2]) != len(plain):
        return False
    return int("".join(str(int(char, 36)) for char in plain[4:] + plain[:4])) % 97 == 1


def us_ssn(found: str) -> bool:
    """Whether such a social security number can have been given out: no area 000, 666 or 9xx, no group 00, no serial 0000."""
    area, group, serial = found[:3], found[4:6], found[7:]
    return area not in ("000", "666") and area[0] != "9" and group != "00" and serial != "0000"


def public_ip(found: str) -> bool:
    """Whether `redact` would mask this address."""
    return is_masked(found, RedactConfig())


def phone_digits(found: str) -> bool:
    """Whether it has as many digits as telephone numbers (ITU-T E.164: at most 15) and is no date."""
    if _DATE.fullmatch(found):
        return False
    digits = digits_of(found.lower().split("x")[0])
    return 7 <= len(digits) <= 15 and len(set(digits)) > 2


def bits(found: str) -> float:
    """Shannon entropy of its characters, in bits a character."""
    counts = Counter(found).values()
    return -sum(count / len(found) * math.log2(count / len(found)) for count in counts)


def random_word(found: str) -> bool:
    """Whether it looks drawn at random: letters and digits, many different ones."""
    return any(char.isdigit() for char in found) and any(char.isalpha() for char in found) and bits(found) >= MIN_BITS


CHECKS: dict[CheckName, Callable[[str], bool]] = {
    "luhn": luhn,
    "iban": iban,
    "us_ssn": us_ssn,
    "public_ip": public_ip,
    "phone_digits": phone_digits,
    "random_word": random_word,
}
"""By the name that rule files use."""


def decoded(found: str) -> str | None:
    """What a run of base 64 or hexadecimals says, if that is text; None where it is none."""
    plain = "".join(found.split())
    for raw in (_base64(plain), _hexadecimal(plain)):
        if raw is not None and len(raw) >= 8:
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError:
                continue
            if sum(char.isprintable() or char in "\n\t" for char in text) == len(text):
                return text
    return None


def _base64(plain: str) -> bytes | None:
    standard = plain.replace("-", "+").replace("_", "/").rstrip("=")
    if len(standard) % 4 == 1:
        return None
    try:
        return base64.b64decode(standard + "=" * (-len(standard) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def _hexadecimal(plain: str) -> bytes | None:
    try:
        return bytes.fromhex(plain)
    except ValueError:
        return None
