"""crawl: fetch sites politely, partitions of hosts side by side, and index WARC files.

A site's hosts are spread over partitions, each with a frontier that survives a kill (`tasks.web.frontier`); one job per worker crawls some
of them (`tasks.web.crawler`), this step gives the jobs, shares the budgets among them and ends the crawl when none has anything left to do.
The version's shards hold what follows from the site alone (URL, status, payload digest), in the order of ids; where each payload lies on
disk is in `warc/index-NNNNN.parquet` beside them. A finished crawl keeps its logs, so what is lost of its version is made again from them.
"""

from __future__ import annotations

import contextlib
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field

from expectations.schemas import CAPTURES
from infra import cluster, storage
from infra.dataset import MANIFEST, RUN, Outcome, ShardRef, ShardSet, open_version, read_manifest, rejects_table, write_table
from infra.errors import GristmillError, InputError
from infra.ids import digest_of, doc_id, payload_digest
from infra.progress import report
from infra.settings import settings
from infra.steps import BESIDE, Output, step
from infra.storage import LocalPath
from tasks.web import crawler, demo, dispatch, frontier, urls, warc, well_known
from tasks.web.consent import Consent, robots_tag, tdm_header
from tasks.web.crawler import Plan
from tasks.web.exchange import Fetched
from tasks.web.fetch import FetchConfig
from tasks.web.frontier import LimitsConfig
from tasks.web.robots import Robots
from tasks.web.scope import ScopeConfig

# what the log adds to a capture: what came of the URL, and where the payload lies
LOG_SCHEMA = pa.schema(
    [*CAPTURES, *((name, pa.string()) for name in ("rule", "detail", "etag", "last_modified", "file")), ("offset", pa.int64())]
)
log = logging.getLogger("gristmill")

INDEX_COLUMNS = ("doc_id", "etag", "last_modified", "file", "offset")


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
    scope: ScopeConfig = ScopeConfig()
    """What may be entered."""
    limits: LimitsConfig = LimitsConfig()
    """Where a crawl ends."""
    fetch: FetchConfig = FetchConfig()
    """How the crawler presents itself and how gently it knocks."""
    compression: Literal["gzip", "zstd"] = "gzip"
    """Of the WARC files that are written: gzip is read everywhere, zstd is smaller and faster."""
    num_partitions: int = Field(16, ge=1, le=256)
    """Groups of hosts with a frontier each, and so the most workers that can crawl; does not change what is crawled."""
    conditional: bool = True
    """Whether a page that the newest earlier snapshot of these sources has is asked for on condition that it changed (ETag,
    Last-Modified): unless a server is wrong about that, it changes what is sent over the wire and not what is crawled."""
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
    earlier = _earlier(config)
    for number, source in enumerate(config.sources):
        if isinstance(source, WarcSource):
            work = partial(index_warc, source=source.name, config=config.fetch)
            logs += out.map_beside(f"warc-{number}", work, _warc_files(source.path))
        else:
            logs += _crawl_site(number, source, config, out, refused, earlier)
    table = pa.concat_tables([log.read(LOG_SCHEMA.names) for log in logs]) if logs else LOG_SCHEMA.empty_table()
    # one order for all, whatever the workers did: by id, and of a page found twice with equal bytes only the first
    table = _first_of_each(table.sort_by([("doc_id", "ascending"), ("file", "ascending"), ("offset", "ascending")]))
    refused.sort(key=lambda row: (row["url"], row["rule"]))
    sites = [number for number, source in enumerate(config.sources) if not isinstance(source, WarcSource)]
    if sites and table["rule"].null_count == 0:
        _forget(sites, out)
        raise InputError(_nothing_fetched(refused + table.filter(pc.is_valid(table["rule"])).to_pylist()))
    starts = range(0, max(table.num_rows, 1), config.shard_pages) if config.sources else ()
    # `take` copies: a slice would travel to its worker with the whole table behind it
    rows = [table.take(pa.array(range(start, min(start + config.shard_pages, table.num_rows)), pa.int64())) for start in starts]
    out.facts |= _changes(earlier, table)
    pieces = [(piece, index, refused if index == 0 else []) for index, piece in enumerate(rows)]
    out.map(partial(seal_captures, folder=storage.join(out.folder, "warc")), pieces)
    out.keep_beside(*_own_files(out, sites, len(pieces)))


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


def _own_files(out: Output, sites: Sequence[int], num_shards: int) -> list[str]:
    """The WARC files that this crawl wrote, and the indexes into them: volatile bytes, but no less a part of the version."""
    folders = [f"warc/site-{number}" for number in sites]
    files = [f"{folder}/{name}" for folder in folders for name in storage.list_folder(storage.join(out.folder, folder))]
    return [*files, *(f"warc/index-{index:05d}.parquet" for index in range(num_shards))]


def _first_of_each(table: pa.Table) -> pa.Table:
    """Give every further row of equal `doc_id` the rule `same_capture`; the table is in the order of ids."""
    ids, rules = table["doc_id"].combine_chunks(), table["rule"]
    again = pa.concat_arrays([pa.array([False] * min(len(ids), 1), pa.bool_()), pc.equal(ids[1:], ids[:-1])])
    return table.set_column(
        table.column_names.index("rule"), "rule", pc.if_else(pc.and_(again, pc.is_null(rules)), "same_capture", rules)
    )


def _crawl_site(
    number: int,
    source: SiteSource | DemoSource,
    config: CrawlConfig,
    out: Output,
    refused: list[dict[str, Any]],
    earlier: pa.Table,
) -> list[ShardRef]:
    """Crawl until no partition has anything left to do; returns their logs and adds the seeds that are no URLs."""
    scratch, post = _folders(number, out)
    done = storage.join(out.folder, BESIDE, f"site-{number}.json")
    num_refused = len(refused)
    if not storage.exists(done):  # else the logs are there, and the site need not be
        with _site(source) as (given, hosts):
            start = dispatch.begun(post)
            plan = Plan(
                start.crawl_id,
                scratch,
                post,
                storage.join(out.folder, "warc", f"site-{number}"),
                config.num_partitions,
                tuple(_canonical(given, source.name, refused)),
                config.limits,
                config.fetch.model_copy(update={"allowed_private_hosts": (*config.fetch.allowed_private_hosts, *hosts)}),
                config.scope,
                config.compression,
                _hand_out(earlier, source.name, config, storage.join(post, "before")),
            )
            row = partial(log_row, source=source.name, config=config.fetch)
            crawled = dispatch.crawl_all(
                plan, start, cluster.current(), row, lambda done, known: report(done, known, "pages requested")
            )
        storage.write_json(done, {"refused": refused[num_refused:], "partitions": crawled, "crawl_id": start.crawl_id})
        del refused[num_refused:]
    told = storage.read_json(done)
    refused += told["refused"]
    export = partial(export_log, told["crawl_id"], scratch, post, limits=config.limits, source=source.name)
    return out.map_beside(f"site-{number}", export, told["partitions"])


def _folders(number: int, out: Output) -> tuple[str, str]:
    """A local folder for the frontiers, which the next try finds again, and one in the store for what the jobs tell each other."""
    post = out.aside(f"post-{number}")
    if storage.is_local(out.folder):
        return out.aside(f"site-{number}"), post
    folder = settings().home / "crawls" / out.version
    out.scratch.append(folder)
    return str(folder / f"site-{number}"), post


def _earlier(config: CrawlConfig) -> pa.Table:
    """What the newest earlier snapshot of the same sources captured: BEFORE, with source and payload digest; empty where there is none."""
    schema = pa.schema([*crawler.BEFORE, ("source", pa.string()), ("payload_digest", pa.string())])
    folder = storage.join(settings().store, "crawl")
    began: dict[str, str] = {}
    for name in storage.list_folder(folder) if config.sources else ():
        version = storage.join(folder, name)
        if storage.exists(storage.join(version, MANIFEST)) and storage.exists(storage.join(version, RUN)):
            told = read_manifest(version).recipe["config"]
            if told["sources"] == config.model_dump(mode="json")["sources"] and told["snapshot"] != config.snapshot:
                began[version] = storage.read_json(storage.join(version, RUN))["started"]
    if not began:
        return schema.empty_table()
    newest = open_version(max(began, key=lambda version: began[version]))
    try:
        return pa.concat_tables([_captured(newest, shard, schema) for shard in newest.shards()])
    except GristmillError as error:
        log.warning("crawl: everything is fetched anew, for the earlier snapshot cannot be read: %s", error)
        return schema.empty_table()


def _captured(version: ShardSet, shard: ShardRef, schema: pa.Schema) -> pa.Table:
    index = storage.read_bytes(storage.join(version.folder, "warc", f"index-{shard.index:05d}.parquet"))
    rows, places = shard.read(["url", "source", "payload_digest"]), pq.read_table(pa.BufferReader(index))
    columns = {name: table[name] for table in (places, rows) for name in table.column_names}
    nothing = pa.nulls(rows.num_rows, pa.string())  # a version of an earlier release knows no conditions
    return pa.table({name: columns.get(name, nothing) for name in schema.names}, schema)


def _hand_out(earlier: pa.Table, source: str, config: CrawlConfig, folder: str) -> str:
    """Leave for each partition what the earlier snapshot has of its hosts; returns the folder, empty where there is nothing."""
    own = earlier.filter(pc.equal(earlier["source"], source)) if config.conditional else earlier.slice(0, 0)
    own = own.filter(pc.or_(pc.is_valid(own["etag"]), pc.is_valid(own["last_modified"])))
    if not own.num_rows:
        return ""
    hosts = pa.array([urls.host_of(url) for url in own["url"].to_pylist()]).dictionary_encode()
    numbers = pa.array([urls.partition_of(host, config.num_partitions) for host in hosts.dictionary.to_pylist()])
    partitions = numbers.take(hosts.indices)
    for number in pc.unique(partitions).to_pylist():
        write_table(
            storage.join(folder, f"{number:05d}.parquet"), own.filter(pc.equal(partitions, number)).select(crawler.BEFORE.names)
        )
    return folder


def _changes(earlier: pa.Table, now: pa.Table) -> dict[str, int]:
    """How many pages are new, changed, as they were, and gone, beside the earlier snapshot; nothing where there is none."""
    if not earlier.num_rows:
        return {}
    now = now.filter(pc.is_null(now["rule"]))
    before, after = (pc.binary_join_element_wise(one["source"], one["url"], " ") for one in (earlier, now))
    place = pc.index_in(after, value_set=before)
    same = pc.equal(earlier["payload_digest"].take(place), now["payload_digest"])
    num_same, num_known = pc.sum(same).as_py() or 0, len(place) - place.null_count
    num_gone = earlier.num_rows - (pc.sum(pc.is_in(before, value_set=after)).as_py() or 0)
    return {
        "pages.new": now.num_rows - num_known,
        "pages.changed": num_known - num_same,
        "pages.as_before": num_same,
        "pages.gone": num_gone,
    }


def export_log(crawl_id: str, scratch: str, post: str, partition: int, limits: LimitsConfig, source: str) -> Outcome:
    """The log of one partition: everything that was answered or refused."""
    with crawler.opened(crawl_id, scratch, post, partition, must_exist=True) as store:
        frontier.finish(store, limits)
        rows = [{"doc_id": doc_id(source, row["url"], ""), "source": source, **row} for row in frontier.rows(store)]
        counted = frontier.tallies(store)
    facts = {f"{name}.{source}": counted.get(name, 0.0) for name in ("links_out_of_scope", "links_of_copies", "not_modified")}
    return Outcome(pa.Table.from_pylist(rows, schema=LOG_SCHEMA), facts=facts)


def _forget(sites: Sequence[int], out: Output) -> None:
    """Leave nothing of the logs: with them the next try would load the failure instead of asking again."""
    for number in sites:
        storage.remove(storage.join(out.folder, BESIDE, f"site-{number}.json"))
        storage.remove(storage.join(out.folder, BESIDE, f"site-{number}"))
        storage.remove(storage.join(out.folder, "warc", f"site-{number}"))
        for folder in _folders(number, out):
            storage.remove(folder)


def _nothing_fetched(rejects: Sequence[Mapping[str, Any]]) -> str:
    reasons = ", ".join(f"{rule} {count:,}" for rule, count in Counter(row["rule"] for row in rejects).most_common())
    first = "".join(f"\n  {row['url']}: {row['rule']}: {row['detail']}" for row in rejects[:3])
    return f"crawl: no page could be fetched ({reasons}).{first}\nMend that and try again: nothing of this try is kept."


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


def _canonical(given: Sequence[str], source: str, refused: list[dict[str, Any]]) -> list[str]:
    """The seeds as canonical URLs; what is none is refused."""
    found = []
    for seed in given:
        try:
            found.append(urls.canonical(seed))
        except urls.UrlError as error:
            refused.append(_reject_row(source, seed, "bad_url", str(error)))
    return found


def log_row(got: Fetched, robots: Robots | None, source: str, config: FetchConfig) -> dict[str, Any]:
    """What the log has of an exchange: the facts of a page, or why it is none."""
    if got.error is not None:
        return {**_reject_row(source, got.url, got.error, got.detail), "status": got.status}
    digest = payload_digest(got.body)
    return {
        "doc_id": doc_id(source, got.url, digest),
        "source": source,
        "url": got.url,
        "host": urls.host_of(got.url),
        "status": got.status,
        "content_type": got.header("Content-Type"),
        "payload_digest": digest,
        "num_bytes": len(got.body),
        **_consent(got, config, robots).row(),
    }


def _consent(answer: Fetched | warc.Record, config: FetchConfig, robots: Robots | None) -> Consent:
    """What the site and the answer say about collecting the page."""
    said = robots.consent(answer.url) if robots else Consent()
    orders = robots_tag(answer.values("X-Robots-Tag"), config.product_token)
    return said.and_page(orders, tdm_header(answer.header("TDM-Reservation")))


def _warc_row(record: warc.Record, source: str, path: str, config: FetchConfig) -> dict[str, Any]:
    try:
        url = urls.canonical(record.url)
    except urls.UrlError as error:
        return _reject_row(source, record.url, "bad_url", str(error))
    if url.removeprefix(urls.origin_of(url)) in well_known.PATHS:
        return _reject_row(source, url, "well_known", "what a site says about itself, no page of it")
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
    found = [root] if root.is_file() else sorted(one for one in root.rglob("*") if one.name.lower().endswith(warc.SUFFIXES))
    if not found:
        raise InputError(f"{path}: no WARC file in this folder ({', '.join(warc.SUFFIXES)})")
    return found


def _existing(path: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise InputError(f"{path}: no such file or folder")
    return found
