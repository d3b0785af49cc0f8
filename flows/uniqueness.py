"""Every text once: duplicates among all crawls of a corpus, what was taken down, repeated passages, and evaluation items."""

from __future__ import annotations

import logging

from flows.budget import within_budget
from flows.config import RunConfig
from infra.dataset import ShardSet
from tasks.decontaminate import decontaminate
from tasks.dedup import dedup, documents_of
from tasks.forget import MAX_TOLD, forget, taken_down
from tasks.index import base_of, index
from tasks.trim import trim

log = logging.getLogger("gristmill")


def unique(rewritten: ShardSet, config: RunConfig) -> list[ShardSet]:
    """The versions on the way from documents to those that stay, which are the last.

    Args:
        rewritten: documents that the filter has kept.
        config: the whole run's configuration.
    """
    found = [index([rewritten], base_of(config.index, config.name, [rewritten]), config=config.index)]
    if old := taken_down().beyond(config.forget):
        log.warning(
            "%s%s: taken down by an earlier run and not named by this one, so pages of it that this crawl has are published; name it under "
            "`forget`, best in a file",
            ", ".join(old[:MAX_TOLD]),
            f" and {len(old) - MAX_TOLD:,} more" if len(old) > MAX_TOLD else "",
        )
    found += [forget(found[0], config=config.forget)] if config.forget.wanted else []
    kept = [within_budget(dedup(documents_of(found[-1], config.dedup), found[-1], config=config.dedup), config.budget)]
    if config.trim:
        kept.append(within_budget(trim(kept[-1:], config=config.trim), config.budget))
    if config.decontaminate.sets:
        kept.append(within_budget(decontaminate(kept[-1], config=config.decontaminate), config.budget))
    return [*found, *kept]
