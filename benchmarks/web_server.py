"""Real sites on a real server: the manuals of four Debian packages, served by nginx on loopback hosts, with a log that times requests.

`documents` downloads and unpacks the packages into a cache folder: 26 languages of the Debian handbook, 19 of the installation guide,
the manuals of Apache and of PostgreSQL, 8,700 pages in all; nothing of them is installed. `serve` spreads them over hosts 127.0.1.1 to
127.0.1.N of one port, each with an index page, a robots.txt that disallows what is linked, and one with a sitemap. nginx runs with
Debian's settings. Times in its log are of milliseconds: a request's start is never told earlier than it came, its end never later
than it was sent.
"""

from __future__ import annotations

import itertools
import os
import pwd
import re
import shutil
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from html import escape
from pathlib import Path

from infra.errors import GristmillError

PACKAGES = {
    "debian-handbook": ("html/*", "sect.backup"),
    "apache2-doc": ("manual", "*/developer/"),
    "installation-guide-amd64": ("*", "install."),
    "postgresql-doc-15": ("html", "sql-alter"),
}
"""Package: (its books, as a glob below usr/share/doc/<package>; what robots.txt disallows within each)."""
DEFAULT_PORT = 8791
_START_S = 10.0
_LOG_LINE = re.compile(r'(\S+) (\S+) (\S+) (\d+) \d+ "([^"]*)" "([^"]*)" "([^"]*)"')


class WebServerError(GristmillError):
    """The sites cannot be had or served; the message says what to do."""


@dataclass(frozen=True)
class Book:
    """A folder of pages that link each other, reachable from its index.html."""

    path: str
    """Where it lies on its host: debian-handbook/de-DE."""
    folder: Path
    disallow: str
    """The beginning of the paths within it that robots.txt disallows."""
    num_pages: int


@dataclass(frozen=True)
class Request:
    """One line of the server's log."""

    start_s: float
    end_s: float
    host: str
    status: int
    path: str
    agent: str
    content_type: str

    @property
    def is_page(self) -> bool:
        """Whether an HTML page was answered."""
        return self.status == 200 and self.content_type.startswith("text/html")


@dataclass(frozen=True)
class ServedSite:
    """Hosts that answer while the block of `serve` lasts."""

    hosts: tuple[str, ...]
    """`address:port` in order."""
    num_pages: tuple[int, ...]
    """HTML files of each host, those that robots.txt disallows included."""
    robots: Mapping[str, str]
    """robots.txt of each host."""
    access_log: Path

    @property
    def seeds(self) -> tuple[str, ...]:
        """The hosts' index pages."""
        return tuple(f"http://{host}/" for host in self.hosts)

    def requests(self) -> list[Request]:
        """What the server was asked until now, in the order of starts."""
        return sorted(_requests(self.access_log), key=lambda request: request.start_s)


def closest(requests: Sequence[Request]) -> tuple[Request, Request]:
    """The two whose starts follow each other fastest, of at least two requests of one host in the order of starts."""
    return min(itertools.pairwise(requests), key=lambda pair: pair[1].start_s - pair[0].start_s)


def greatest_overlap(requests: Iterable[Request]) -> int:
    """The most requests that one host was answering at a time; one that ends in the millisecond of another's start does not overlap."""
    ended, passed, begun = -1, 0, 1
    changes: list[tuple[float, int]] = []
    for request in requests:
        if request.end_s > request.start_s:
            changes += [(request.start_s, begun), (request.end_s, ended)]
        else:
            changes.append((request.end_s, passed))
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now + (change == passed))
    return most


def by_host(requests: Iterable[Request]) -> dict[str, list[Request]]:
    """The requests of each host, in the order given."""
    found: defaultdict[str, list[Request]] = defaultdict(list)
    for request in requests:
        found[request.host].append(request)
    return dict(found)


def documents(cache: Path, packages: Sequence[str] = tuple(PACKAGES)) -> tuple[Book, ...]:
    """The books of these packages, downloaded by apt-get into `cache` where they are not there yet.

    Raises:
        WebServerError: apt-get or dpkg-deb is missing, or cannot get them.
    """
    return tuple(book for package in packages for book in _books(package, unpacked(package, cache)))


@contextmanager
def serve(
    folder: Path,
    books: Sequence[Book],
    num_hosts: int,
    port: int = DEFAULT_PORT,
    *,
    crawl_delay_s: float | None = None,
    bytes_per_s: int = 0,
) -> Iterator[ServedSite]:
    """Serve `books` on hosts of equal size until the block ends; configuration and logs lie in `folder`, which must be empty.

    The first host asks for `crawl_delay_s` in its robots.txt. `bytes_per_s` limits each page, so that requests take a time that shows
    in the log; 0: no limit. nginx counts whole seconds: a page of fewer bytes takes no time.

    Raises:
        WebServerError: nginx is missing or does not start.
    """
    program = _nginx()
    shelves = _spread(books, num_hosts)
    hosts = tuple(f"127.0.1.{number + 1}:{port}" for number in range(num_hosts))
    robots = {
        host: _write_host(folder / "sites" / host, host, shelf, crawl_delay_s if number == 0 else None, has_sitemap=number == 0)
        for number, (host, shelf) in enumerate(zip(hosts, shelves, strict=True))
    }
    configuration = folder / "nginx.conf"
    configuration.write_text(_configuration(folder, hosts, bytes_per_s))
    command = [program, "-p", str(folder), "-c", str(configuration), "-e", str(folder / "error.log")]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            _wait_for(process, folder)
            sizes = tuple(1 + sum(book.num_pages for book in shelf) for shelf in shelves)
            yield ServedSite(hosts, sizes, robots, folder / "access.log")
        finally:
            process.terminate()
            process.wait(timeout=_START_S)


def _nginx() -> str:
    found = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")  # where only root's PATH leads
    if found is None:
        raise WebServerError("nginx is missing: apt-get update && apt-get install --yes --no-install-recommends nginx-light")
    return found


def unpacked(package: str, cache: Path) -> Path:
    """The folder of the package's documentation, below `cache / package`; downloaded if it is not there yet."""
    root = cache.absolute() / package
    found = root / "usr/share/doc" / package
    if found.is_dir():
        return found
    partial = root.with_name(f"{package}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        subprocess.run(["apt-get", "download", "--quiet", package], cwd=partial, check=True, capture_output=True, text=True)
        [archive] = partial.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", archive, partial], check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise WebServerError(f"{package}: {error.filename} is missing: the sites come from Debian 12's packages") from error
    except subprocess.CalledProcessError as error:
        why = error.stderr.strip().splitlines()[-1:]
        raise WebServerError(f"{package} cannot be had ({''.join(why)}): apt-get update, on Debian 12, and try again") from error
    archive.unlink()
    partial.rename(root)
    return found


def _books(package: str, folder: Path) -> list[Book]:
    pattern, disallow = PACKAGES[package]
    return [
        Book(f"{package}/{one.name}", one, disallow, num_pages=sum(1 for _ in one.rglob("*.html")))
        for one in sorted(folder.glob(pattern))
        if (one / "index.html").exists()
    ]


def _spread(books: Sequence[Book], num_hosts: int) -> list[list[Book]]:
    """The books of each host: the largest book first, always to the host that has the fewest pages."""
    shelves: list[list[Book]] = [[] for _ in range(num_hosts)]
    for book in sorted(books, key=lambda book: (-book.num_pages, book.path)):
        min(shelves, key=lambda shelf: sum(one.num_pages for one in shelf)).append(book)
    return shelves


def _write_host(root: Path, host: str, shelf: Sequence[Book], crawl_delay_s: float | None, *, has_sitemap: bool) -> str:
    """Make a host's document root; returns its robots.txt."""
    for book in shelf:
        (root / book.path).parent.mkdir(parents=True, exist_ok=True)
        (root / book.path).symlink_to(book.folder, target_is_directory=True)
    items = "".join(f'<li><a href="{book.path}/index.html">{escape(book.path)}</a></li>' for book in shelf)
    root.mkdir(parents=True, exist_ok=True)
    (root / "index.html").write_text(
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Books</title><ul>{items}</ul></html>"
    )
    rules = ["User-agent: *", *(f"Disallow: /{book.path}/{book.disallow}" for book in shelf)]
    if crawl_delay_s is not None:
        rules.append(f"Crawl-delay: {crawl_delay_s:g}")
    if has_sitemap:
        pages = [f"{book.path}/{page.relative_to(book.folder)}" for book in shelf for page in sorted(book.folder.rglob("*.html"))]
        locations = "".join(f"<url><loc>http://{host}/{escape(page)}</loc></url>" for page in pages)
        (root / "sitemap.xml").write_text(f'<urlset xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">{locations}</urlset>')
        rules.append(f"Sitemap: http://{host}/sitemap.xml")
    text = "\n".join(rules) + "\n"
    (root / "robots.txt").write_text(text)
    return text


def _configuration(folder: Path, hosts: Sequence[str], bytes_per_s: int) -> str:
    """Debian's nginx.conf, without what needs root, and with our log."""
    temporary = "".join(f"  {kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi"))
    limit = f"location ~ html$ {{ limit_rate {bytes_per_s}; }}"
    servers = "".join(f"  server {{ listen {host}; root {folder}/sites/{host}; {limit} }}\n" for host in hosts)
    return f"""user {pwd.getpwuid(os.geteuid()).pw_name};
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
events {{ worker_connections 768; }}
http {{
  include /etc/nginx/mime.types;
  default_type application/octet-stream;
  types_hash_max_size 2048;
  sendfile on;
  tcp_nopush on;
  gzip on;
  log_format timed '$msec $request_time $server_addr:$server_port $status $body_bytes_sent '
    '"$request_uri" "$http_user_agent" "$sent_http_content_type"';
  access_log {folder}/access.log timed;
{temporary}{servers}}}
"""


def _wait_for(process: subprocess.Popen[bytes], folder: Path) -> None:
    """Return when nginx listens: it writes its process id only then."""
    end = time.monotonic() + _START_S
    while process.poll() is None and time.monotonic() < end:
        if (folder / "nginx.pid").exists():
            return
        time.sleep(0.02)
    log = folder / "error.log"
    told = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
    raise WebServerError("nginx does not start: " + (told[0] if told else "no word from it"))


def _requests(log: Path) -> Iterator[Request]:
    for line in log.read_text(errors="replace").splitlines():
        fields = _LOG_LINE.fullmatch(line)
        if fields is None:
            raise WebServerError(f"{log}: not a line of our format: {line[:200]!r}")
        end_s, took_s, host, status, path, agent, content_type = fields.groups()
        # the difference in whole milliseconds, as both were written
        start_s = round(float(end_s) - float(took_s), 3)
        yield Request(start_s, float(end_s), host, int(status), path, agent, content_type)
