"""A real web site for the demo: the documentation that ships in the botocore wheel (Apache-2.0), served on loopback.

`build_site` writes one page per operation and service from the untouched HTML fragments inside a page frame of ours (title,
navigation, breadcrumbs, footer), an index, robots.txt and sitemap.xml for every host; the bytes follow from the botocore version and
the arguments alone. Pages under /internal/ (the error lists) exist and are linked, but robots.txt disallows them. `serve_site`
serves them from a process of its own on 127.0.0.1 to .N, or on N ports of 127.0.0.1 where only that can be bound (macOS). URLs, and so
document ids, hold the port: it is fixed, and a taken one is an error. Costs 15 s for all 19,000 pages.
"""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import importlib.metadata
import importlib.util
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from infra.errors import GristmillError

DEFAULT_PORT = 8790
_FRAME_VERSION = "1"
_MAX_SHAPE_DEPTH = 3  # parameters of parameters of parameters; deeper ones have their own operations
_READY = "ready"


class DemoError(GristmillError):
    """The demo site cannot be built or served; the message says what to change."""


@dataclass(frozen=True)
class SiteFacts:
    """What was built. `hosts` are `address:port` in host order; `seeds` their start pages."""

    botocore_version: str
    frame_version: str
    services: tuple[str, ...]
    hosts: tuple[str, ...]
    num_pages: int
    num_disallowed_pages: int
    num_bytes: int

    @property
    def seeds(self) -> tuple[str, ...]:
        return tuple(f"http://{host}/" for host in self.hosts)


def site_hosts(num_hosts: int, port: int = DEFAULT_PORT) -> tuple[str, ...]:
    """`127.0.0.1:port` to `127.0.0.N:port`, or `127.0.0.1:port` to `:port+N-1` where other loopback addresses do not answer."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            return tuple(f"127.0.0.1:{port + i}" for i in range(num_hosts))
    return tuple(f"127.0.0.{i + 1}:{port}" for i in range(num_hosts))


def botocore_version() -> str:
    """Version of the wheel that the texts come from."""
    _data_folder()
    return importlib.metadata.version("botocore")


def service_names() -> list[str]:
    """Every service that botocore documents, sorted."""
    return sorted({path.parent.parent.name for path in _data_folder().glob("*/*/service-2.json*")})


def build_site(
    folder: Path, services: int | Sequence[str] | None = None, num_hosts: int = 8, port: int = DEFAULT_PORT
) -> SiteFacts:
    """Writes the site of all, the first N or the named services under `folder`/<host number>/; a folder that already holds
    exactly this site is left as it is. Raises DemoError for an unknown service."""
    known = service_names()
    chosen = known if services is None else known[:services] if isinstance(services, int) else sorted(set(services))
    if unknown := sorted(set(chosen) - set(known)):
        raise DemoError(f"botocore {botocore_version()} has no service {', '.join(unknown)}")
    hosts = site_hosts(num_hosts, port)
    facts_file = folder / "site.json"
    plan = {"botocore_version": botocore_version(), "frame_version": _FRAME_VERSION, "services": chosen, "hosts": list(hosts)}
    if facts_file.exists() and plan.items() <= (found := json.loads(facts_file.read_text())).items():
        return SiteFacts(**(found | {"services": tuple(chosen), "hosts": hosts}))
    shutil.rmtree(folder, ignore_errors=True)
    site = _Site(folder, hosts, {name: _read_service(name) for name in chosen})
    site.write()
    facts = SiteFacts(
        botocore_version=botocore_version(),
        frame_version=_FRAME_VERSION,
        services=tuple(chosen),
        hosts=hosts,
        num_pages=site.num_pages,
        num_disallowed_pages=site.num_disallowed_pages,
        num_bytes=site.num_bytes,
    )
    facts_file.write_text(json.dumps(asdict(facts)))
    return facts


@dataclass
class _Site:
    """The pages of one site on their way to disk."""

    folder: Path
    hosts: tuple[str, ...]
    services: Mapping[str, dict[str, Any]]
    num_pages: int = 0
    num_disallowed_pages: int = 0
    num_bytes: int = 0
    _paths_of: dict[int, list[str]] = field(default_factory=dict)

    def write(self) -> None:
        titles = {name: str(service["metadata"]["serviceFullName"]) for name, service in self.services.items()}
        items = "".join(f'<li><a href="{self.url(name)}">{escape(title)}</a></li>' for name, title in titles.items())
        for number in range(len(self.hosts)):
            self._paths_of[number] = []
            self._page(number, "/", "Services", [], f"<h1>Services</h1><ul>{items}</ul>")
        for name, service in self.services.items():
            self._service(name, titles[name], service)
        for number, host in enumerate(self.hosts):
            locations = "".join(f"<url><loc>http://{host}{escape(path)}</loc></url>" for path in self._paths_of[number])
            self._file(number, "/sitemap.xml", _SITEMAP.format(locations))
            self._file(number, "/robots.txt", f"User-agent: *\nDisallow: /internal/\nSitemap: http://{host}/sitemap.xml\n")

    def host_number(self, service: str) -> int:
        """A service stays on its host, however many services are chosen."""
        return int.from_bytes(hashlib.blake2b(service.encode(), digest_size=8).digest(), "little") % len(self.hosts)

    def url(self, service: str) -> str:
        return f"http://{self.hosts[self.host_number(service)]}/{service}/"

    def _service(self, name: str, title: str, service: dict[str, Any]) -> None:
        number, shapes, operations = self.host_number(name), service["shapes"], service["operations"]
        items = "".join(f'<li><a href="{op}.html">{op}</a></li>' for op in operations)
        neighbours = _neighbours(name, list(self.services))
        also = "".join(f'<li><a href="{self.url(other)}">{escape(other)}</a></li>' for other in neighbours)
        body = (
            f"<h1>{escape(title)}</h1>{service.get('documentation', '')}<h2>Operations</h2><ul>{items}</ul>"
            f'<h2>Other services</h2><ul>{also}</ul><p><a href="/internal/{name}/errors.html">Errors</a></p>'
        )
        self._page(number, f"/{name}/", title, [("/", "Services")], body)
        crumbs = [("/", "Services"), (f"/{name}/", title)]
        for op, operation in operations.items():
            body = f"<h1>{op}</h1>{operation.get('documentation', '')}"
            for heading, key in (("Request parameters", "input"), ("Response", "output")):
                if fields := _fields(shapes, operation.get(key, {}).get("shape"), ()):
                    body += f"<h2>{heading}</h2>{fields}"
            self._page(number, f"/{name}/{op}.html", f"{op} - {title}", crumbs, body)
        errors = "".join(
            f"<dt><code>{shape_name}</code></dt><dd>{shape.get('documentation', '')}</dd>"
            for shape_name, shape in shapes.items()
            if shape.get("exception")
        )
        self._page(number, f"/internal/{name}/errors.html", f"Errors - {title}", crumbs, f"<h1>Errors</h1><dl>{errors}</dl>")

    def _page(self, number: int, path: str, title: str, crumbs: list[tuple[str, str]], body: str) -> None:
        trail = " / ".join(f'<a href="{href}">{escape(text)}</a>' for href, text in crumbs)
        next_host = self.hosts[(number + 1) % len(self.hosts)]
        self._file(
            number,
            path + "index.html" if path.endswith("/") else path,
            _FRAME.format(title=escape(title), trail=trail, body=body, next_host=next_host),
        )
        self.num_pages += 1
        if path.startswith("/internal/"):
            self.num_disallowed_pages += 1
        else:
            self._paths_of[number].append(path)

    def _file(self, number: int, path: str, text: str) -> None:
        file = self.folder / str(number) / path[1:]
        if not file.parent.exists():
            file.parent.mkdir(parents=True)
        raw = text.encode()
        file.write_bytes(raw)
        self.num_bytes += len(raw)


_FRAME = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><header><nav><a href="/">All services</a> <a href="http://{next_host}/">Next host</a></nav>
<nav class="breadcrumbs" aria-label="breadcrumbs">{trail}</nav></header>
<main>{body}</main>
<footer><p>Text: botocore, Apache-2.0. Page frame: Gristmill demo.</p></footer></body></html>
"""
_SITEMAP = '<?xml version="1.0" encoding="UTF-8"?><urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{}</urlset>'


def _data_folder() -> Path:
    found = importlib.util.find_spec("botocore")
    if found is None or found.origin is None:
        raise DemoError("the demo source needs the botocore wheel: pip install -e '.[demo]' (make setup does)")
    return Path(found.origin).parent / "data"


def _read_service(name: str) -> dict[str, Any]:
    """The newest API version of one service."""
    path = max((_data_folder() / name).glob("*/service-2.json*"), key=lambda p: (p.parent.name, p.name))
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


def _neighbours(name: str, names: list[str]) -> list[str]:
    at = names.index(name)
    return [names[(at + step) % len(names)] for step in (1, 2, 3, 5, 8, 13)]


def _fields(shapes: dict[str, Any], shape_name: str | None, above: tuple[str, ...]) -> str:
    """The documented members of a shape as a definition list, members of members within."""
    shape = shapes.get(shape_name or "", {})
    while shape.get("type") in ("list", "map"):
        shape_name = (shape.get("member") or shape["value"])["shape"]
        shape = shapes[shape_name]
    if shape_name is None or shape_name in above or len(above) >= _MAX_SHAPE_DEPTH or not shape.get("members"):
        return ""
    parts = [
        f"<dt><code>{name}</code></dt><dd>{member.get('documentation', '')}{_fields(shapes, member['shape'], (*above, shape_name))}</dd>"
        for name, member in shape["members"].items()
    ]
    return f"<dl>{''.join(parts)}</dl>"


@contextmanager
def serve_site(folder: Path, hosts: Sequence[str]) -> Iterator[None]:
    """Serves a built site from a process of its own until the block ends; raises DemoError when a port is taken."""
    command = [sys.executable, "-m", "tasks.web.demo", "serve", str(folder), *hosts]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdin is not None
        try:
            answer = process.stdout.readline().strip()
            if answer != _READY:
                raise DemoError(answer or "the demo server did not start")
            yield
        finally:
            process.stdin.close()  # the server ends when its standard input does, so it never outlives a killed parent
            process.wait(timeout=10)


class _Answers(asyncio.Protocol):
    """A minimal HTTP/1.1 file server: GET and HEAD, keep-alive; 404 for what is not there."""

    def __init__(self, root: Path) -> None:
        self._root = root.resolve()
        self._received = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        while self._transport and b"\r\n\r\n" in self._received:
            head, _, self._received = self._received.partition(b"\r\n\r\n")
            method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
            self._transport.write(self._answer(method, rest.partition(" ")[0].partition("?")[0]))

    def _answer(self, method: str, path: str) -> bytes:
        path = unquote(path)
        file = self._root / path.lstrip("/")
        if path.endswith("/"):
            file /= "index.html"
        status, kind, body = "404 Not Found", "text/plain", b"not found\n"
        if method in ("GET", "HEAD") and ".." not in path and file.is_file():
            status, kind, body = "200 OK", _KINDS.get(file.suffix, "text/html; charset=utf-8"), file.read_bytes()
        head = f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        return head if method == "HEAD" else head + body


_KINDS = {".txt": "text/plain; charset=utf-8", ".xml": "application/xml"}


async def _serve(folder: Path, hosts: Sequence[str]) -> None:
    loop = asyncio.get_running_loop()
    for number, host in enumerate(hosts):
        address, _, port = host.rpartition(":")
        root = folder / str(number)
        try:
            await loop.create_server(lambda root=root: _Answers(root), address, int(port))  # type: ignore[misc]
        except OSError as error:
            print(f"{host} cannot be served ({error.strerror}): give the demo's source another `port`", flush=True)
            return
    print(_READY, flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    _, _command, _folder, *_hosts = sys.argv
    asyncio.run(_serve(Path(_folder), _hosts))
