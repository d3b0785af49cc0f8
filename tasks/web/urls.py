"""URLs of the web, as browsers read them: one canonical spelling per page, and which addresses may never be fetched.

Parsing follows the WHATWG URL standard for http and https (https://url.spec.whatwg.org), because that is what the people who
wrote the links tested with; idna supplies the encoding of host names (UTS 46). The canonical spelling goes further: no fragment,
no credentials, no empty query, unreserved characters decoded (RFC 3986 section 6.2.2). `canonical(canonical(u)) == canonical(u)`.
Costs about 5 microseconds a URL.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from functools import lru_cache
from typing import Annotated
from urllib.parse import unquote_to_bytes

import idna
from pydantic import AfterValidator

MAX_URL_CHARS = 2048  # sitemaps.org protocol: a location must be shorter than 2,048 characters
_DEFAULT_PORTS = {"http": "80", "https": "443"}
_SCHEME = re.compile(r"([a-z][a-z0-9+.\-]*):", re.IGNORECASE)
_C0_AND_SPACE = "".join(map(chr, range(0x21)))
_TAB_AND_NEWLINE = {9: None, 10: None, 13: None}
_FORBIDDEN_IN_HOST = re.compile(r"[\x00-\x20#/:<>?@\[\\\]^|%\x7f]")
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})?")
_UNRESERVED = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_UNSAFE_IN_PATH = re.compile(r"[^!$%&'()*+,\-./0-9:;=@A-Z\[\\\]_a-z|~]")
_UNSAFE_IN_QUERY = re.compile(r"[^!$%&()*+,\-./0-9:;=?@A-Z\[\\\]^_`a-z{|}~]")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def _compiling(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(_compiling)]
"""A regular expression in a configuration, searched in URLs."""


class UrlError(ValueError):
    """A text that is no fetchable http or https URL; the message says why."""


def canonical(url: str, base: str | None = None) -> str:
    """The one spelling of `url`, resolved against the canonical URL `base` where it is relative; raises UrlError."""
    text = url.strip(_C0_AND_SPACE).partition("#")[0]
    if not text.isprintable():
        text = text.translate(_TAB_AND_NEWLINE)
    location, mark, query = text.partition("?")
    location = location.replace("\\", "/")
    scheme, authority, path, inherits_query = _split(location, base)
    if inherits_query and not mark:
        query = _parts(base or "")[3]
    joined = f"{scheme}://{_authority(scheme, authority)}{_path(path)}"
    if query:
        joined += "?" + _escaped(query, _UNSAFE_IN_QUERY)
    if len(joined) > MAX_URL_CHARS:
        raise UrlError(f"longer than {MAX_URL_CHARS} characters")
    return joined


def resolve(base: str, href: str) -> str | None:
    """The canonical target of a link on the page `base`; None where it leads to nothing that http can fetch."""
    try:
        return canonical(href, base)
    except UrlError:
        return None


def host_of(url: str) -> str:
    """Host and, when it is not the default, port of a canonical URL: the unit of politeness."""
    return _parts(url)[1]


def hostname_of(url: str) -> str:
    """The host of a canonical URL without its port and without the brackets of IPv6."""
    host = host_of(url)
    return host[1 : host.index("]")] if host.startswith("[") else host.partition(":")[0]


def origin_of(url: str) -> str:
    """`scheme://host[:port]` of a canonical URL: what one robots.txt speaks for."""
    scheme, host, _, _ = _parts(url)
    return f"{scheme}://{host}"


def partition_of(host: str, num_partitions: int) -> int:
    """The partition of a host, 0 <= partition < num_partitions; the same on every machine."""
    return int.from_bytes(hashlib.blake2b(host.encode(), digest_size=8).digest(), "little") % num_partitions


def forbidden_address(address: str) -> bool:
    """True for every IP address outside the public internet (loopback, private, link-local, reserved, multicast), also
    when it is wrapped in an IPv6 address (mapped, 6to4, Teredo, NAT64), and for text that is no address at all."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return True
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return forbidden_address(str(inner))
    return not ip.is_global or ip.is_multicast or ip.is_reserved or (ip.version == 6 and ip.is_site_local)


def _split(location: str, base: str | None) -> tuple[str, str, str, bool]:
    """(scheme, authority, path, whether an absent query comes from `base`) of a reference without query and fragment."""
    found = _SCHEME.match(location)
    scheme = found[1].lower() if found else ""
    rest = location[found.end() :] if found else location
    if scheme and scheme not in _DEFAULT_PORTS:
        raise UrlError(f"scheme {scheme!r} is not http or https")
    base_scheme, base_authority, base_path, _ = _parts(base) if base else ("", "", "", "")
    if not scheme and not base:
        raise UrlError("a relative reference without a base")
    if rest.startswith("//") or scheme not in ("", base_scheme):
        authority, slash, path = rest.lstrip("/").partition("/")
        return scheme or base_scheme, authority, slash + path, False
    if rest.startswith("/"):
        return base_scheme, base_authority, rest, False
    if not rest:
        return base_scheme, base_authority, base_path, True
    return base_scheme, base_authority, base_path[: base_path.rindex("/") + 1] + rest, False


@lru_cache(maxsize=4096)
def _parts(url: str) -> tuple[str, str, str, str]:
    """(scheme, authority, path, query) of a canonical URL."""
    scheme, _, rest = url.partition("://")
    location, _, query = rest.partition("?")
    host, slash, path = location.partition("/")
    return scheme, host, slash + path, query


@lru_cache(maxsize=4096)
def _authority(scheme: str, authority: str) -> str:
    host, colon, port = authority.rpartition("@")[2].rpartition(":")
    if not colon or "]" in port:
        host, port = authority.rpartition("@")[2], ""
    number = port.lstrip("0") or port[:1]
    if port and not (port.isascii() and port.isdigit() and len(number) <= 5 and int(number) <= 65535):
        raise UrlError(f"port {port[:20]!r} is no number up to 65535")
    port = number
    return _host(host) + (f":{port}" if port and port != _DEFAULT_PORTS[scheme] else "")


def _host(host: str) -> str:
    if host.startswith("["):
        return f"[{_ipv6(host)}]"
    try:
        text = unquote_to_bytes(host).decode("utf-8") if "%" in host else host
        name = text.lower() if text.isascii() else _punycode(text)
    except ValueError as error:
        raise UrlError(f"host {host!r} is no valid name") from error
    if not name or _FORBIDDEN_IN_HOST.search(name):
        raise UrlError(f"host {host!r} is no valid name")
    labels = name.removesuffix(".").split(".")
    return _ipv4(labels, host) if labels[-1].isdigit() or _number(labels[-1]) is not None else name


def _punycode(name: str) -> str:
    """UTS 46 as browsers process it, which forgive what IDNA 2008 has no code points for, such as ☃."""
    try:
        return idna.encode(name, uts46=True).decode("ascii")
    except idna.IDNAError:
        return name.encode("idna").decode("ascii").lower()


def _ipv6(host: str) -> str:
    try:
        if "%" in host or not host.endswith("]"):
            raise ValueError("a zone or a missing bracket")
        return str(ipaddress.IPv6Address(host[1:-1]))
    except ValueError as error:
        raise UrlError(f"host {host!r} is no IPv6 address") from error


def _number(label: str) -> int | None:
    """A part of an IPv4 address as browsers read it: decimal, 0x hexadecimal, or octal with a leading 0."""
    digits, base = (label[2:] or "0", 16) if label[:2] == "0x" else (label, 8 if label[:1] == "0" and label != "0" else 10)
    try:
        return int(digits, base) if digits.isalnum() else None
    except ValueError:
        return None


def _ipv4(labels: list[str], host: str) -> str:
    """`127.1`, `0x7f000001` and `017700000001` all are 127.0.0.1: spelled out, lest they pass as harmless names."""
    known = [number for label in labels if (number := _number(label)) is not None]
    unread = len(known) < len(labels) or len(labels) > 4
    if unread or any(n > 255 for n in known[:-1]) or known[-1] >= 256 ** (5 - len(known)):
        raise UrlError(f"host {host!r} is no IPv4 address")
    return str(ipaddress.IPv4Address(known[-1] + sum(n << (8 * (3 - i)) for i, n in enumerate(known[:-1]))))


def _path(path: str) -> str:
    if "%" in path or _UNSAFE_IN_PATH.search(path):
        path = _escaped(path, _UNSAFE_IN_PATH)
    if "/." not in path:
        return path or "/"
    kept: list[str] = []
    segments = path.split("/")[1:]
    for segment in segments:
        if segment == "..":
            kept[-1:] = []
        elif segment != ".":
            kept.append(segment)
    if segments[-1] in (".", ".."):
        kept.append("")
    return "/" + "/".join(kept)


def _escaped(text: str, unsafe: re.Pattern[str]) -> str:
    text = unsafe.sub(lambda m: "".join(f"%{byte:02X}" for byte in m[0].encode("utf-8", "replace")), text)
    return _ESCAPE.sub(_normal_escape, text)


def _normal_escape(match: re.Match[str]) -> str:
    if match[1] is None:
        return "%25"  # else what follows could make an escape of it, and the spelling would not be the last
    byte = int(match[1], 16)
    return chr(byte) if byte in _UNRESERVED else match[0].upper()
