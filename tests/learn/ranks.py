"""Several ranks as forks of one process that has imported torch, which torchrun would import once for each."""

from __future__ import annotations

import json
import multiprocessing
import os
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tasks.learn.config import TrainConfig

CACHE = "machine"
"""Folder of the measured peak, below that of the training."""


def trained(shards: str, tokeniser_folder: str, folder: Path, config: TrainConfig, stop_at: int = 0) -> dict[str, Any]:
    """Train with `config.ranks` processes on all shards of a folder, up to the end or until `stop_at`; the result's fields."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tasks.learn.trainer", "tests.learn.ranks"])
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = (shards, tokeniser_folder, str(folder), config.model_dump_json(), stop_at, port)
    processes = [context.Process(target=_rank, args=(mine, *given)) for mine in range(config.ranks)]
    for one in processes:
        one.start()
    for one in processes:
        one.join(timeout=120)
    assert [one.exitcode for one in processes] == [3 if stop_at else 0] * config.ranks
    return {} if stop_at else json.loads((folder / "result.json").read_text())


def _rank(mine: int, shards: str, tokeniser_folder: str, folder: str, raw: str, stop_at: int, port: int) -> None:
    from tasks.learn import parallel, tokens, trainer

    config = TrainConfig.model_validate_json(raw)
    os.environ.update(
        RANK=str(mine), LOCAL_RANK=str(mine), WORLD_SIZE=str(config.ranks), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    opened = list(tokens.read_shards(shards))

    def stop(step: int) -> None:
        if step == stop_at:
            os._exit(3)

    with parallel.joined(config.ranks, "cpu") as ranks:
        result = trainer.train(
            opened,
            opened,
            config,
            Path(folder),
            tokeniser_folder=tokeniser_folder,
            on_log=lambda line: None,
            on_step=stop,
            ranks=ranks,
            cache=Path(folder, CACHE),
        )
        if ranks.first:
            Path(folder, "result.json").write_text(json.dumps(asdict(result), default=str))
