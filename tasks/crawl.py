"""crawl: fetch sites politely, host partitions side by side, and index WARC files; what was fetched stays on disk as WARC.

A site is crawled in rounds: in each, every partition of hosts fetches one bounded batch as one task and leaves a WARC file and a log. The
frontier learns from the logs, so a kill costs at most one batch per partition and the restart goes on from the logs. The version's
shards hold what follows from the site alone (URL, status, payload digest), in the order of ids; where each payload lies on disk is in
`warc/index-NNNNN.parquet` beside them.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import CAPTURES
from infra import storage
from infra.dataset import Outcome, ShardRef, rejects_table, write_table
from infra.errors import InputError
from infra.ids import digest_of, doc_id, payload_digest
from infra.progress import report
from infra.settings import settings
from infra.steps import BESIDE, Output, step
from infra.storage import LocalPath
from tasks.web import demo, html, urls, warc
from tasks.web.coding import CodingError
from tasks.web.consent import Consent, robots_tag, tdm_header
from tasks.web.fetch import FetchConfig, Fetched, crawl_batch, fetch_robots
from tasks.web.frontier import FetchOrder, Frontier, FrontierConfig, Seen
from tasks.web.robots import Robots

# what a round's log adds to a capture: what the frontier learns from it, and where the payload lies
LOG_SCHEMA = pa.schema(
    [
        *CAPTURES,
        ("links", pa.list_(pa.string())),
        ("redirect_to", pa.string()),
        ("rule", pa.string()),
        ("detail", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
    ]
)
INDEX_COLUMNS = ("doc_id", "file", "offset")
WARC_SUFFIXES = (".warc", ".warc.gz", ".warc.zst")
ROBOTS_LOG = "robots.json"


class SiteSource(BaseModel):
    """Sites to crawl from their URLs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["site"]
    name: str = "web"
    """Name of this source; part of every document's id."""
    urls: tuple[str, ...] = ()
    """URLs to begin with; the crawl stays on their hosts unless `crawl.scope` allows others."""
    url_file: LocalPath = ""
    """A text file of such URLs, one a line; `#` begins a comment."""


class DemoSource(BaseModel):
    """The demo site, made from the documentation inside the botocore wheel and served on loopback while it is crawled."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["demo"]
    name: str = "botocore"
    """Name of this source; part of every document's id."""
    services: int | None = Field(120, ge=1)
    """How many services' texts to serve, in alphabetical order; null: all."""
    num_hosts: int = Field(8, ge=1, le=64)
    """Loopback hosts to spread them over."""
    port: int = Field(demo.DEFAULT_PORT, ge=1, le=65535)
    """Port of these hosts. It is part of the URLs, so another port makes another corpus."""


class WarcSource(BaseModel):
    """WARC files that exist already, such as Common Crawl's; they are read where they are."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["warc"]
    name: str = "warc"
    """Name of this source; part of every document's id."""
    path: LocalPath
    """A WARC file, or a folder that is searched for them."""


class CrawlConfig(BaseModel):
    """What is crawled, how far and how gently."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    snapshot: str = "first"
    """Label of this crawl. Another label crawls again; the same label and configuration are not fetched twice."""
    sources: tuple[Annotated[SiteSource | DemoSource | WarcSource, Field(discriminator="kind")], ...] = ()
    """Where pages come from."""
    scope: FrontierConfig = FrontierConfig()
    """Where a crawl ends and what it may not enter."""
    fetch: FetchConfig = FetchConfig()
    """How the crawler presents itself and how gently it knocks."""
    shard_pages: int = Field(2000, ge=1)
    """Pages per shard of the version, and so of all that is made from it."""


def source_files(config: CrawlConfig) -> Mapping[str, str]:
    """Local files that decide what is crawled: URL lists by content, WARC files by size and time, the demo by its wheel."""
    found: dict[str, str] = {}
    for source in config.sources:
        if isinstance(source, SiteSource) and source.url_file:
            found[source.url_file] = payload_digest(_existing(source.url_file).read_bytes())
        elif isinstance(source, WarcSource):
            found |= {str(path): f"{path.stat().st_size}:{path.stat().st_mtime_ns}" for path in _warc_files(source.path)}
        elif isinstance(source, DemoSource):
            found["botocore"] = demo.botocore_version()
    return found


@step(schema="captures", fingerprint=source_files)
def crawl(config: CrawlConfig, out: Output) -> None:
    """Fetch the configured sites and index the configured WARC files, into one snapshot of captures."""
    logs: list[ShardRef] = []
    refused: list[dict[str, Any]] = []
    for number, source in enumerate(config.sources):
        if isinstance(source, WarcSource):
            work = partial(index_warc, source=source.name, config=config.fetch)
            logs += out.map_beside(f"warc-{number}", work, _warc_files(source.path))
        else:
            with _site(source) as (seeds, hosts):
                logs += _crawl_site(number, source.name, _with_seeds(config, seeds, hosts), out, refused)
    names = [name for name in LOG_SCHEMA.names if name not in ("links", "redirect_to")]
    table = pa.concat_tables([log.read(names) for log in logs]) if logs else LOG_SCHEMA.empty_table().select(names)
    # one order for all, whatever the rounds were: by id, and of a page found twice with equal bytes only the first
    table = _first_of_each(table.sort_by([("doc_id", "ascending"), ("file", "ascending"), ("offset", "ascending")]))
    refused.sort(key=lambda row: (row["url"], row["rule"]))
    sites = [number for number, source in enumerate(config.sources) if not isinstance(source, WarcSource)]
    if sites and table["rule"].null_count == 0:
        _forget(sites, out)
        raise InputError(_nothing_fetched(refused + table.filter(pc.is_valid(table["rule"])).to_pylist()))
    starts = range(0, max(table.num_rows, 1), config.shard_pages) if config.sources else ()
    # `take` copies: a slice would travel to its worker with the whole table behind it
    rows = [table.take(pa.array(range(start, min(start + config.shard_pages, table.num_rows)), pa.int64())) for start in starts]
    pieces = [(piece, index, refused if index == 0 else []) for index, piece in enumerate(rows)]
    out.map(partial(seal_captures, folder=storage.join(out.folder, "warc")), pieces)
    out.keep_beside(*_own_files(out, table, len(pieces)))


def fetch_round(
    job: tuple[int, int, tuple[FetchOrder, ...]], source: str, robots: Mapping[str, Robots], config: FetchConfig, folder: str
) -> Outcome:
    """Fetch one partition's batch of one round: the bodies into a WARC file, the facts and links into the log."""
    round_number, partition, orders = job
    results = crawl_batch(orders, robots, config)
    path = storage.join(folder, f"round-{round_number:05d}-{partition:03d}.warc.gz")
    kept = [result for result in results if result.error is None]
    with storage.open_write(path) as file:
        places = warc.write(file, kept, config.agent)
    where = dict(zip((result.url for result in kept), places, strict=True))
    rows = [
        _log_row(result, source, config, path, where[result.url].offset if result.url in where else None)
        | (_consent(result, config, robots[urls.origin_of(result.url)]).row() if result.error is None else {})
        for result in results
    ]
    return Outcome(pa.Table.from_pylist(rows, schema=LOG_SCHEMA))


def index_warc(path: Path, source: str, config: FetchConfig) -> Outcome:
    """The responses of one WARC file; broken records are rejects with the place where they are."""
    rows = []
    for record in warc.scan(path):
        if isinstance(record, warc.BrokenRecord):
            key = f"{path}@{record.offset}"
            rows.append(_reject_row(source, key, "broken_warc_record", f"{record.why} (at byte {record.offset})"))
        else:
            rows.append(_warc_row(record, source, str(path), config))
    return Outcome(pa.Table.from_pylist(rows, schema=LOG_SCHEMA))


def seal_captures(piece: tuple[pa.Table, int, list[dict[str, Any]]], folder: str) -> Outcome:
    """One shard of the version: its rows, its number, and the URLs that the frontier refused, as further rejects."""
    table, index, refused = piece
    rejects = list(refused)
    dropped = table.filter(pc.is_valid(table["rule"])).select(["doc_id", "url", "source", "rule", "detail", "status"])
    rejects += ({**row, "value": row["status"]} for row in dropped.to_pylist())
    kept = table.filter(pc.is_null(table["rule"]))
    write_table(storage.join(folder, f"index-{index:05d}.parquet"), kept.select(INDEX_COLUMNS))
    return Outcome(kept.select(CAPTURES.names), rejects_table(rejects))


def _own_files(out: Output, table: pa.Table, num_shards: int) -> list[str]:
    """The WARC files that this crawl wrote, and the indexes into them: volatile bytes, but no less a part of the version."""
    root = out.folder + "/"
    files = [path.removeprefix(root) for path in pc.unique(table["file"]).to_pylist() if path and path.startswith(root)]
    return [*sorted(files), *(f"warc/index-{index:05d}.parquet" for index in range(num_shards))]


def _first_of_each(table: pa.Table) -> pa.Table:
    """Give every further row of equal `doc_id` the rule `same_capture`; the table is in the order of ids."""
    ids, rules = table["doc_id"].combine_chunks(), table["rule"]
    again = pa.concat_arrays([pa.array([False] * min(len(ids), 1), pa.bool_()), pc.equal(ids[1:], ids[:-1])])
    return table.set_column(
        table.column_names.index("rule"), "rule", pc.if_else(pc.and_(again, pc.is_null(rules)), "same_capture", rules)
    )


def _crawl_site(number: int, source: str, config: CrawlConfig, out: Output, refused: list[dict[str, Any]]) -> list[ShardRef]:
    """Rounds until the frontier has nothing left; returns their logs and adds what was refused."""
    robots = _RobotsLog(storage.join(out.folder, BESIDE, f"{number}-{ROBOTS_LOG}"), config.fetch)
    frontier, logs = Frontier(config.scope), []
    round_number = 0
    while not frontier.finished:
        while needed := frontier.origins_needed():
            frontier.learn(robots.of(needed))
        batches = frontier.batches()
        if not batches:
            continue  # all of a level was refused, and the next one needs the robots of new hosts
        known = robots.of(sorted({urls.origin_of(order.url) for orders in batches.values() for order in orders}))
        # by number: two sources may bear the same name, and a name may hold a slash
        folder = storage.join(out.folder, "warc", f"site-{number}")
        work = partial(fetch_round, source=source, robots=known, config=config.fetch, folder=folder)
        jobs = [(round_number, partition, orders) for partition, orders in batches.items()]
        done = out.map_beside(f"site-{number}-round-{round_number:05d}", work, jobs)
        for log in done:
            frontier.take(_seen(log))
        logs += done
        round_number += 1
        report(frontier.counts["num_requested"], frontier.counts["num_requested"] + len(frontier.rejects), "pages requested")
    refused += [
        {"doc_id": doc_id(source, one.url, ""), "url": one.url, "source": source, "rule": one.rule, "detail": one.detail}
        for one in frontier.rejects
    ]
    out.facts[f"links_out_of_scope.{source}"] = frontier.counts["links_out_of_scope"]
    return logs


def _forget(sites: Sequence[int], out: Output) -> None:
    """Remove what a crawl of these sources left, so that the next try asks again."""
    beside = storage.join(out.folder, BESIDE)
    for number in sites:
        storage.remove(storage.join(out.folder, "warc", f"site-{number}"))
        storage.remove(storage.join(beside, f"{number}-{ROBOTS_LOG}"))
        for name in storage.list_folder(beside):
            if name.startswith(f"site-{number}-"):
                storage.remove(storage.join(beside, name))


def _nothing_fetched(rejects: Sequence[Mapping[str, Any]]) -> str:
    reasons = ", ".join(f"{rule} {count:,}" for rule, count in Counter(row["rule"] for row in rejects).most_common())
    first = "".join(f"\n  {row['url']}: {row['rule']}: {row['detail']}" for row in rejects[:3])
    return f"crawl: no page could be fetched ({reasons}).{first}\nMend that and try again: nothing of this try is kept."


class _RobotsLog:
    """robots.txt of every origin, asked for once per snapshot: a restart decides as the first run did."""

    def __init__(self, path: str, config: FetchConfig) -> None:
        self._path, self._config = path, config
        raw = storage.read_json(path) if storage.exists(path) else {}
        self._known = {origin: Robots.from_json(fields) for origin, fields in raw.items()}

    def of(self, origins: Sequence[str]) -> dict[str, Robots]:
        """The rules of these origins, fetched where they are not known yet."""
        if missing := [origin for origin in origins if origin not in self._known]:
            self._known |= fetch_robots(missing, self._config)
            storage.write_json(self._path, {origin: robots.to_json() for origin, robots in self._known.items()})
        return {origin: self._known[origin] for origin in origins}


@contextlib.contextmanager
def _site(source: SiteSource | DemoSource) -> Iterator[tuple[list[str], list[str]]]:
    """The URLs to begin with, and the private hosts that may be fetched; the demo's site is up inside the block."""
    if isinstance(source, SiteSource):
        yield _seeds(source), []
        return
    # one folder a site: another run may be serving its own
    plan = digest_of(demo.botocore_version(), str(source.services), str(source.num_hosts), str(source.port))
    folder = settings().home / "demo-site" / plan[:8]
    site = demo.build_site(folder, source.services, source.num_hosts, source.port)
    with demo.serve_site(folder, site.hosts):
        yield list(site.seeds), list(site.hosts)


def _seeds(source: SiteSource) -> list[str]:
    lines = _existing(source.url_file).read_text(encoding="utf-8").splitlines() if source.url_file else []
    found = [*source.urls, *(line.partition("#")[0].strip() for line in lines)]
    if not any(found):
        raise InputError(f"crawl.sources: {source.name}: no URL to begin with; give `urls` or a `url_file` that holds some")
    return [url for url in found if url]


def _with_seeds(config: CrawlConfig, seeds: list[str], hosts: list[str]) -> CrawlConfig:
    scope = config.scope.model_copy(update={"seeds": (*config.scope.seeds, *seeds)})
    fetch = config.fetch.model_copy(update={"allowed_private_hosts": (*config.fetch.allowed_private_hosts, *hosts)})
    return config.model_copy(update={"scope": scope, "fetch": fetch})


def _seen(log: ShardRef) -> list[Seen]:
    rows = log.read(["url", "links", "redirect_to"]).to_pylist()
    return [Seen(row["url"], tuple(row["links"] or ()), row["redirect_to"]) for row in rows]


def _log_row(result: Fetched, source: str, config: FetchConfig, path: str, offset: int | None) -> dict[str, Any]:
    if result.error is not None:
        row = _reject_row(source, result.url, result.error, result.detail)
        return {**row, "status": result.status, "redirect_to": result.redirect_to}
    content_type = result.header("Content-Type")
    sitemap, links = _links(result, content_type, config)
    digest = payload_digest(result.body)
    return {
        "doc_id": doc_id(source, result.url, digest),
        "source": source,
        "url": result.url,
        "host": urls.host_of(result.url),
        "status": result.status,
        "content_type": content_type,
        "payload_digest": digest,
        "num_bytes": len(result.body),
        "links": sitemap or links,
        "rule": "sitemap" if sitemap else None,
        "detail": f"lists {len(sitemap)} pages" if sitemap else None,
        "file": path,
        "offset": offset,
    }


def _consent(answer: Fetched | warc.Record, config: FetchConfig, robots: Robots | None) -> Consent:
    """What the site and the answer say about collecting the page."""
    said = robots.consent(answer.url) if robots else Consent()
    orders = robots_tag(answer.values("X-Robots-Tag"), config.product_token)
    return said.and_page(orders, tdm_header(answer.header("TDM-Reservation")))


def _links(result: Fetched, content_type: str | None, config: FetchConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Where the answer leads: what it lists if it is a sitemap, and the targets of its links if it is a page."""
    try:
        content = result.content(config.max_bytes)
    except CodingError:
        return (), ()  # a page that cannot be decoded leads nowhere; extract rejects it with the reason
    return html.sitemap_urls(content), html.links(content, content_type, result.url)


def _warc_row(record: warc.Record, source: str, path: str, config: FetchConfig) -> dict[str, Any]:
    try:
        url = urls.canonical(record.url)
    except urls.UrlError as error:
        return _reject_row(source, record.url, "bad_url", str(error))
    if not 200 <= record.status < 300:
        return {**_reject_row(source, url, "bad_status", f"status {record.status}"), "status": record.status}
    return {
        "doc_id": doc_id(source, url, record.payload_digest),
        "source": source,
        "url": url,
        "host": urls.host_of(url),
        "status": record.status,
        "content_type": record.content_type,
        "payload_digest": record.payload_digest,
        "num_bytes": len(record.body),
        "file": path,
        "offset": record.offset,
        **_consent(record, config, None).row(),
    }


def _reject_row(source: str, url: str, rule: str, detail: str | None) -> dict[str, Any]:
    return {"doc_id": doc_id(source, url, ""), "source": source, "url": url, "rule": rule, "detail": detail}


def _warc_files(path: str) -> list[Path]:
    root = _existing(path)
    found = [root] if root.is_file() else sorted(one for one in root.rglob("*") if one.name.lower().endswith(WARC_SUFFIXES))
    if not found:
        raise InputError(f"{path}: no WARC file in this folder ({', '.join(WARC_SUFFIXES)})")
    return found


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise InputError(f"{path}: no such file or folder")
    return found
