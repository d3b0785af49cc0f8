"""The one door of OpenLineage: START, COMPLETE and FAIL of every step run, posted to a lineage server of one's own (extra [openlineage]).

Nothing is sent unless GRISTMILL_OPENLINEAGE_URL names one, and nothing that goes wrong here touches a run: the first failure of a process
is one warning, and it sends no more. A dataset is `<store>/<step>`; its version and digest are facets. Two requests a step.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from infra import storage
from infra.dataset import ShardSet
from infra.settings import settings
from infra.versions import code_version

log = logging.getLogger("gristmill")

NAMESPACE = "gristmill"
TIMEOUT_S = 5.0
_failed: set[str] = set()
"""Addresses that failed in this process."""


@contextlib.contextmanager
def told(step: str, run_id: str, root: str, inputs: Sequence[ShardSet]) -> Iterator[list[ShardSet]]:
    """Tell that a step begins and how it ends; the caller puts into the list what it made.

    Args:
        step: name of the step, the job of these events.
        run_id: id of this try of it, a UUID.
        root: id of the whole run, a UUID.
        inputs: versions that it reads.
    """
    made: list[ShardSet] = []
    _send(lambda: _event("START", step, run_id, root, inputs, made))
    try:
        yield made
    except BaseException as error:  # a cancelled or suspended step ends too
        why = f"{type(error).__name__}: {error}"
        _send(lambda: _event("FAIL", step, run_id, root, inputs, made, why))
        raise
    _send(lambda: _event("COMPLETE", step, run_id, root, inputs, made))


def _send(event: Callable[[], Any]) -> None:
    url = settings().openlineage_url
    if not url or url in _failed:
        return
    try:
        from openlineage.client import OpenLineageClient
        from openlineage.client.transport.http import HttpConfig, HttpTransport

        # no second try: a step must not wait for a server that only listens
        transport = HttpTransport(HttpConfig(url=url, timeout=TIMEOUT_S, retry={"total": 0}))
        OpenLineageClient(transport=transport).emit(event())
        transport.close(TIMEOUT_S)
    except (ImportError, OSError, ValueError) as error:  # what `requests` raises is an OSError
        _failed.add(url)
        mend = 'install the extra: pip install "gristmill[openlineage]"' if isinstance(error, ImportError) else "is it up?"
        where = urlsplit(url)
        # an address may hold a password, and `requests` repeats it
        log.warning(
            "OpenLineage: nothing is sent to %s:%s any more (%s); %s", where.hostname, where.port, type(error).__name__, mend
        )


def _event(
    state: str, step: str, run_id: str, root: str, inputs: Sequence[ShardSet], made: Sequence[ShardSet], why: str = ""
) -> Any:
    from openlineage.client import event_v2, facet_v2

    facets: dict[str, Any] = {
        "parent": facet_v2.parent_run.ParentRunFacet(
            run=facet_v2.parent_run.Run(runId=root), job=facet_v2.parent_run.Job(namespace=NAMESPACE, name="run")
        ),
        "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
            version=code_version(), name=f"gristmill on {socket.gethostname()}"
        ),
    }
    if why:
        facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(message=why, programmingLanguage="python")
    return event_v2.RunEvent(
        eventType=event_v2.RunState(state),
        eventTime=datetime.now(UTC).isoformat(),
        producer=f"urn:gristmill:{code_version()}",
        run=event_v2.Run(runId=run_id, facets=facets),
        job=event_v2.Job(namespace=NAMESPACE, name=step),
        inputs=[event_v2.InputDataset(*_name(one), facets=_facets(one)) for one in inputs],
        outputs=[
            event_v2.OutputDataset(*_name(one), facets=_facets(one), outputFacets={"outputStatistics": _statistics(one)})
            for one in made
        ],
    )


def _name(version: ShardSet) -> tuple[str, str]:
    """Namespace and name as OpenLineage has them: the file system, and the folder in which the step's versions lie."""
    folder = version.folder.rpartition("/")[0]
    if storage.is_local(folder):
        return "file", folder
    parts = urlsplit(folder)
    return f"{parts.scheme}://{parts.netloc}", parts.path.lstrip("/")


def _facets(version: ShardSet) -> dict[str, Any]:
    from openlineage.client import facet_v2

    tags = {"digest": version.digest, "schema": version.schema_name, "path": version.path}
    fields = [facet_v2.tags_dataset.TagsDatasetFacetFields(key=key, value=value, source=NAMESPACE) for key, value in tags.items()]
    return {
        "version": facet_v2.dataset_version_dataset.DatasetVersionDatasetFacet(datasetVersion=version.version),
        "tags": facet_v2.tags_dataset.TagsDatasetFacet(tags=fields),
    }


def _statistics(version: ShardSet) -> Any:
    from openlineage.client import facet_v2

    manifest = version.manifest()
    return facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=version.counts.kept, size=sum(shard.num_bytes for shard in manifest.shards), fileCount=len(manifest.shards)
    )
