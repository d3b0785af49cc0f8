"""What people say of answers, in one SQLite file: thumbs, corrections and blind choices, and what each person agreed to.

A vote that was acknowledged survives kill -9 and a power cut (write-ahead log, synchronous=FULL); half a vote is never there. Without
consent only the bare vote is written: who (a random number), when, which models, which thumb. All texts are redacted before they touch
the disk, and what is forgotten is overwritten there. Costs one fsync a vote, some 1 to 10 ms.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infra.errors import InputError
from infra.ids import digest_of
from tasks.serving.guardrails import Guard
from tasks.serving.policy import PiiRule, Policy, SecretsRule

SCHEMA_VERSION = 1
FILE = "votes.sqlite"
RATER = r"^[A-Za-z0-9_-]{16,64}$"
VOTES = {"thumb": ("up", "down"), "correction": ("corrected",), "choice": ("left", "right", "tie", "both_bad")}
"""What can be said, by the kind of the vote."""
EXPIRE_EVERY_S = 3600.0
BUSY_S = 10.0

Redact = Callable[[Sequence[str]], tuple[list[str], dict[str, int]]]
"""From texts to the same without what identifies people, and how many of each kind were masked."""


class VoteError(InputError):
    """A vote that cannot be kept as it is; the message says which limit it breaks."""


class VotesConfig(BaseModel):
    """How much of what people say is kept, and for how long."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    retention_days: int = Field(365, ge=1)
    """Days after which a vote and all that belongs to it is removed."""
    max_messages: int = Field(200, ge=1)
    """Turns of a conversation that is kept with a vote; a longer one is refused."""
    max_chars: int = Field(200_000, ge=1)
    """Characters of a conversation with its answers; a longer one is refused."""
    max_text_chars: int = Field(4_000, ge=1)
    """Characters of what a person writes about an answer."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(_Part):
    """A turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class Speaker(_Part):
    """The model that gave an answer."""

    name: str = Field(max_length=200)
    """As requests name it; it may be an alias."""
    version: str = Field("", max_length=200)
    """What the name meant."""
    digest: str = Field("", max_length=200)

    @property
    def label(self) -> str:
        """Its name, and what that meant when it answered."""
        return self.name if self.version in ("", self.name) else f"{self.name} = {self.version}"

    @property
    def identity(self) -> str:
        """Equal for equal models, whatever they were called: today's champion was a challenger yesterday."""
        return self.digest or self.label


class Consent(_Part):
    """What the person agreed to."""

    training: bool = False
    """That conversation, answers and words are kept, shown to other raters and used for training."""
    wording: str = Field("", max_length=40)
    """Version of the words that were agreed to (WORDINGS)."""


class Vote(_Part):
    """One thing that one person said."""

    vote_id: str = Field(default_factory=lambda: uuid.uuid4().hex, pattern=r"^[0-9a-f]{32}$")
    """The same id from the same rater replaces what was said before."""
    time: str = ""
    """UTC, ISO 8601; the store sets it."""
    rater: str = Field(pattern=RATER)
    """A random number that the page or terminal drew; whoever has it may have its votes forgotten."""
    kind: Literal["thumb", "correction", "choice"]
    vote: str
    """One of VOTES[kind]."""
    models: tuple[Speaker, ...]
    """Who gave the answers; of a choice the left one first."""
    template: str = Field("", max_length=200)
    """Version of the prompt template."""
    messages: tuple[Message, ...] | None = None
    """The conversation up to the answer. None: not kept."""
    answers: tuple[str, ...] | None = None
    """The answer; of a correction also the corrected one, of a choice the left and the right one. None: not kept."""
    text: str | None = None
    """What the person wrote about it."""
    consent: Consent = Consent()
    redacted: dict[str, int] = {}
    """How many of each kind of personal data and secrets were masked, among those that are told one by one."""
    copied_from: str | None = None
    """Id of the vote whose conversation and answers were judged again; with that vote this one is removed."""
    schema_version: int = SCHEMA_VERSION

    @model_validator(mode="after")
    def _fits_together(self) -> Vote:
        if self.vote not in VOTES[self.kind]:
            raise ValueError(f"vote: of kind {self.kind} it is one of {', '.join(VOTES[self.kind])} (got {self.vote!r})")
        wanted = {"thumb": (1, 1), "correction": (1, 2), "choice": (2, 2)}[self.kind]
        if len(self.models) != wanted[0] or (self.answers is not None and len(self.answers) != wanted[1]):
            raise ValueError(f"a {self.kind} is about {wanted[0]} model(s) and has {wanted[1]} answer(s)")
        if self.messages is not None and (not self.messages or self.messages[-1].role != "user"):
            raise ValueError("messages: the last turn before an answer is the user's")
        return self

    @property
    def is_whole(self) -> bool:
        """Whether conversation and answers are kept with it."""
        return self.messages is not None and self.answers is not None

    @property
    def item(self) -> str:
        """The same for the same answers to the same prompt, whichever side they were on; empty where they are not kept."""
        if not self.is_whole:
            return ""
        contents = [part for one in self.messages or () for part in (one.role, one.content)]
        return digest_of(self.kind, *contents, "answers", *sorted(self.answers or ()))


WORDINGS = {
    "2026-11": (
        "Your vote is kept with the time, the models' names and a random number that stands for you. Only if you tick this box, the "
        "conversation up to this answer, the answer and what you write are kept too. Addresses, numbers of telephones, cards and accounts, "
        "and keys are masked where their form tells them; names are not. The texts may be shown to other people who judge answers, and "
        "used to train models: do not vote with the box ticked on what must stay secret. Everything is removed after "
        "{retention_days} days, or when you press “Forget my votes”; what a model has learned by then stays learned."
    )
}
"""What a person agrees to, by version: a changed text is a new version."""
WORDING = "2026-11"


def printable(text: str) -> str:
    """Without control characters, which could move a terminal's cursor or write into its clipboard; line breaks and tabs stay."""
    return "".join(one for one in text if one in "\n\t" or (one >= " " and not "\x7f" <= one <= "\x9f"))


def mask_personal(texts: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Personal data and secrets masked, as the guard's rules of these kinds find them, and how many of each kind."""
    decisions = [_guard().after(text) for text in texts]
    # rules that only mask refuse nothing, so there is a text
    return [one.text or "" for one in decisions], dict(Counter(fired.kind for one in decisions for fired in one.rules))


@cache
def _guard() -> Guard:
    return Guard(Policy(name="votes", rules=(SecretsRule(kind="secrets"), PiiRule(kind="pii"))))


class Forgotten(BaseModel):
    """What `forget` removed, and where it had been copied to before."""

    votes: int
    exports: tuple[tuple[str, str], ...]
    """Digest and file of each export that holds one of them."""


class VoteStore:
    """The votes of one installation, in `folder`. Threads and processes may share it; the file system must be a local one.

    Args:
        expires: whether votes older than the config allows are removed, now and then.

    Raises:
        InputError: the file is no store of votes, or one of a newer release.
    """

    def __init__(
        self,
        folder: Path,
        config: VotesConfig | None = None,
        redact: Redact = mask_personal,
        clock: Callable[[], float] = time.time,
        *,
        expires: bool = True,
    ) -> None:
        self._expires = expires
        self.config, self._redact, self._clock = config or VotesConfig(), redact, clock
        self.path = folder / FILE
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path.touch(mode=0o600)
        self._lock = threading.Lock()
        self._base = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None, check_same_thread=False)
        try:
            self._prepare()
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise InputError(
                f"{self.path}: cannot be used as a store of votes ({error}); move it away to begin a new one"
            ) from error
        self._expired_at = -EXPIRE_EVERY_S
        if expires:
            self.expire()

    def _prepare(self) -> None:
        for setting in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON", "foreign_keys=ON"):
            self._base.execute(f"PRAGMA {setting}")
        with self._writing() as base:
            [version] = base.execute("PRAGMA user_version").fetchone()
            if version > SCHEMA_VERSION:
                raise InputError(
                    f"{self.path}: written by a newer release (schema {version}, this one knows {SCHEMA_VERSION}); use that one"
                )
            if version == 0:
                for statement in _TABLES:
                    base.execute(statement)
                base.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block or nothing."""
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield self._base
                self._base.execute("COMMIT")
            except BaseException:
                if self._base.in_transaction:  # SQLite itself gives up where the disk is full
                    self._base.execute("ROLLBACK")
                raise

    def keep(self, vote: Vote) -> Vote:
        """Write a vote and return it as it is kept: it is on the disk when this returns.

        Raises:
            VoteError: it is too long, agrees to unknown words, or has the id of another person's vote.
            sqlite3.OperationalError: the disk is full, or another process has held the file for BUSY_S seconds.
        """
        self._within_limits(vote)
        if self._expires and self._clock() - self._expired_at > EXPIRE_EVERY_S:
            self.expire()
        kept = self._redacted(vote) if vote.consent.training else _bare(vote)
        kept = kept.model_copy(update={"time": self._now()})
        with self._writing() as base:
            try:
                done = base.execute(_INSERT, _row(kept))
            except sqlite3.IntegrityError as error:  # the one reference that there is
                raise VoteError("what you judged was taken back meanwhile by the person who had written it") from error
            if done.rowcount == 0:
                raise VoteError(
                    f"vote_id {vote.vote_id}: another vote has this id, of somebody else or of another kind; send a new one"
                )
        return kept

    def _within_limits(self, vote: Vote) -> None:
        contents = [one.content for one in vote.messages or ()]
        sizes = (
            ("messages", len(contents), self.config.max_messages, "turns"),
            ("conversation", sum(map(len, [*contents, *(vote.answers or ())])), self.config.max_chars, "characters"),
            ("text", len(vote.text or ""), self.config.max_text_chars, "characters"),
        )
        for name, size, limit, unit in sizes:
            if size > limit:
                raise VoteError(f"{name}: {size:,} {unit} are too long to keep; at most {limit:,}".replace(",", " "))
        if vote.consent.training and vote.consent.wording not in WORDINGS:
            raise VoteError(f"consent.wording: no such version (got {vote.consent.wording!r}); these are: {', '.join(WORDINGS)}")

    def _redacted(self, vote: Vote) -> Vote:
        messages, answers = vote.messages or (), vote.answers or ()
        texts = [*(one.content for one in messages), *answers, *([] if vote.text is None else [vote.text])]
        masked, counts = self._redact(texts)
        turns = [one.model_copy(update={"content": text}) for one, text in zip(messages, masked, strict=False)]
        changed = {
            "messages": None if vote.messages is None else tuple(turns),
            "answers": None if vote.answers is None else tuple(masked[len(messages) :][: len(answers)]),
            "text": None if vote.text is None else masked[-1],
        }
        return vote.model_copy(update={**changed, "redacted": counts})

    def votes(self, rater: str = "") -> list[Vote]:
        """All votes in the order in which they were given; of one rater where it is named."""
        where, values = ("WHERE rater = ?", (rater,)) if rater else ("", ())
        with self._lock:
            rows = self._base.execute(
                f"SELECT {', '.join(_COLUMNS)} FROM votes {where} ORDER BY time, vote_id", values
            ).fetchall()
        return [_vote(row) for row in rows]

    @property
    def state(self) -> tuple[int, int]:
        """Another value as soon as anything was written, here or by another process."""
        with self._lock:
            [others] = self._base.execute("PRAGMA data_version").fetchone()
            return others, self._base.total_changes

    def to_judge_again(self, rater: str) -> Vote | None:
        """A choice of somebody else, drawn among those that this rater has not judged; None: there is none."""
        asked = (
            f"SELECT {', '.join(_COLUMNS)} FROM votes WHERE kind = 'choice' AND item != '' AND copied_from IS NULL AND rater != ?1 "
            "AND item NOT IN (SELECT item FROM votes WHERE rater = ?1) ORDER BY random() LIMIT 1"
        )
        with self._lock:
            row = self._base.execute(asked, (rater,)).fetchone()
        return _vote(row) if row else None

    def forget(self, rater: str) -> Forgotten:
        """Remove all votes of a rater."""
        with self._writing() as base:
            of_rater = "SELECT vote_id FROM votes WHERE rater = ?"
            asked = (
                f"SELECT DISTINCT digest, file FROM exports JOIN exported USING (digest) WHERE vote_id IN ({of_rater}) ORDER BY 1"
            )
            exports = base.execute(asked, (rater,)).fetchall()
            removed = base.execute("DELETE FROM votes WHERE rater = ?", (rater,)).rowcount
        self._forget_the_log()
        return Forgotten(votes=removed, exports=tuple((digest, file) for digest, file in exports))

    def expire(self) -> int:
        """Remove what is older than the config allows; returns how many votes that were."""
        self._expired_at = self._clock()
        oldest = self._now(self._expired_at - self.config.retention_days * 86400)
        with self._writing() as base:
            removed = base.execute("DELETE FROM votes WHERE time < ?", (oldest,)).rowcount
        if removed:
            self._forget_the_log()
        return removed

    def note_export(self, digest: str, file: str, form: str, vote_ids: Sequence[str]) -> None:
        """Remember which votes went into an exported file, by its digest."""
        with self._writing() as base:
            base.execute("INSERT OR REPLACE INTO exports VALUES (?, ?, ?, ?)", (digest, self._now(), file, form))
            base.executemany("INSERT OR IGNORE INTO exported VALUES (?, ?)", [(digest, one) for one in vote_ids])

    def close(self) -> None:
        """Close the file; what was kept stays."""
        with self._lock:
            self._base.close()

    def _forget_the_log(self) -> None:
        """The log still holds the pages as they were before."""
        with self._lock:
            self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def _now(self, at: float | None = None) -> str:
        return datetime.fromtimestamp(self._clock() if at is None else at, UTC).isoformat(timespec="microseconds")


_COLUMNS = (
    *("vote_id", "time", "rater", "kind", "vote", "models", "template", "messages", "answers", "text"),
    *("consent_training", "consent_wording", "redacted", "copied_from", "schema_version", "item"),
)
_JSON = ("models", "messages", "answers", "redacted")
_TABLES = (
    """CREATE TABLE votes (
        vote_id TEXT PRIMARY KEY, time TEXT NOT NULL, rater TEXT NOT NULL, kind TEXT NOT NULL, vote TEXT NOT NULL,
        models TEXT NOT NULL, template TEXT NOT NULL, messages TEXT, answers TEXT, text TEXT,
        consent_training INTEGER NOT NULL, consent_wording TEXT NOT NULL, redacted TEXT NOT NULL,
        copied_from TEXT REFERENCES votes (vote_id) ON DELETE CASCADE, schema_version INTEGER NOT NULL, item TEXT NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX votes_by_rater ON votes (rater)",
    "CREATE INDEX votes_by_time ON votes (time)",
    "CREATE INDEX votes_by_item ON votes (item)",
    "CREATE INDEX votes_by_copied_from ON votes (copied_from)",
    "CREATE TABLE exports (digest TEXT PRIMARY KEY, time TEXT NOT NULL, file TEXT NOT NULL, form TEXT NOT NULL)",
    """CREATE TABLE exported (
        digest TEXT NOT NULL REFERENCES exports ON DELETE CASCADE, vote_id TEXT NOT NULL, PRIMARY KEY (digest, vote_id)
    ) WITHOUT ROWID""",
)
_CHANGED = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name not in ("vote_id", "rater"))
_INSERT = (
    f"INSERT INTO votes ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))}) "
    f"ON CONFLICT (vote_id) DO UPDATE SET {_CHANGED} WHERE rater = excluded.rater AND kind = excluded.kind"
)


def _bare(vote: Vote) -> Vote:
    nothing: dict[str, Any] = {"messages": None, "answers": None, "text": None, "template": "", "redacted": {}}
    return vote.model_copy(update={**nothing, "consent": Consent(wording=vote.consent.wording)})


def _row(vote: Vote) -> list[Any]:
    fields = vote.model_dump(mode="json")
    consent = fields.pop("consent")
    fields |= {"consent_training": int(consent["training"]), "consent_wording": consent["wording"], "item": vote.item}
    for name in _JSON:
        fields[name] = None if fields[name] is None else json.dumps(fields[name], ensure_ascii=False)
    return [fields[name] for name in _COLUMNS]


def _vote(row: Sequence[Any]) -> Vote:
    fields = dict(zip(_COLUMNS, row, strict=True))
    del fields["item"]
    fields["consent"] = {"training": bool(fields.pop("consent_training")), "wording": fields.pop("consent_wording")}
    for name in _JSON:
        fields[name] = None if fields[name] is None else json.loads(fields[name])
    return Vote.model_validate(fields)
