"""Where texts stand in token shards word for word: the longest run of a text's tokens that a shard has, and how often strings occur.

Runs: a suffix automaton of the few texts that are asked about (Blumer et al. 1985) reads the training tokens once and keeps for each of its
states the longest match, so every run of any length is found, exactly. Strings: an Aho-Corasick automaton reads the bytes of the tokens.
Both go through a mapped shard by blocks: memory is that of the texts, some 100 bytes a token of them. Speeds: docs/probes.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from tasks.learn.tokens import TokenShard

Ints = npt.NDArray[np.int64]
Small = npt.NDArray[np.int32]
Bytes = npt.NDArray[np.uint8]

BLOCK_TOKENS = 1 << 20
_K1, _K2 = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F)  # xxHash's first two primes


class Runs(NamedTuple):
    """Of each text (N,): its longest run of tokens that stands in the shards."""

    lengths: Ints
    """Tokens; 0 where not even one token occurs."""
    ends: Ints
    """Place in the text behind the run."""
    shards: Ints
    places: Ints
    """Where the run begins in that shard's stream; one of the places where it stands."""


class _Automaton(NamedTuple):
    length: Ints
    """(states,) tokens of the longest string that ends in a state; state 0 is the empty one."""
    link: Ints
    slots: Small
    """Open hash table from (state, token) to 1 + edge, 0 where empty."""
    edge_state: Small
    edge_token: Ints
    edge_to: Small


def longest_runs(texts: Sequence[Sequence[int]], shards: Sequence[TokenShard]) -> Runs:
    """The longest run of each text's tokens in the shards; a run does not reach over the end of a text or a shard."""
    # a token of its own stands behind each text, which no shard has
    sizes = np.array([len(text) for text in texts], np.int64)
    stream = np.concatenate(
        [np.array([*text, -1 - number], np.int64) for number, text in enumerate(texts)] or [np.zeros(0, np.int64)]
    )
    automaton = _Automaton(*_build(stream))
    best, where = np.zeros(len(automaton.length), np.int64), np.zeros(len(automaton.length), np.int64)
    firsts, first = [], 0
    for shard in shards:
        firsts.append(first)
        state, length = np.int64(0), np.int64(0)
        for start in range(0, len(shard.tokens), BLOCK_TOKENS):
            block = shard.tokens[start : start + BLOCK_TOKENS].astype(np.int64)
            state, length = _read(block, first + start, state, length, *automaton, best, where)
        first += len(shard.tokens)
    order = np.argsort(-automaton.length, kind="stable")
    lengths, ends, begins = _collect(stream, sizes, order, *automaton, best, where)
    of = np.searchsorted(np.array(firsts, np.int64), begins, "right") - 1 if firsts else np.zeros(len(texts), np.int64)
    offsets = np.array(firsts, np.int64)[of] if firsts else np.zeros(len(texts), np.int64)
    return Runs(lengths, ends, of, begins - offsets)


@njit(cache=True, nogil=True, inline="always")
def _slot(slots: Small, edge_state: Small, edge_token: Ints, state: int, token: int) -> np.int64:
    """The slot of the edge (state, token), or the empty one where it belongs."""
    mask = np.int64(slots.size - 1)
    mixed = np.uint64(state) * _K1 ^ np.uint64(token) * _K2
    at = np.int64((mixed ^ (mixed >> np.uint64(29))) & np.uint64(mask))
    while slots[at] and not (edge_state[slots[at] - 1] == state and edge_token[slots[at] - 1] == token):
        at = (at + 1) & mask
    return at


@njit(cache=True, nogil=True)
def _build(stream: Ints) -> tuple[Ints, Ints, Small, Small, Ints, Small]:
    """The suffix automaton of a stream, as _Automaton has it: at most 2n states and 3n edges."""
    most = max(2 * stream.size, 2)
    size = 64
    while size < 8 * most:
        size *= 2
    slots = np.zeros(size, np.int32)
    edge_state, edge_token, edge_to = np.empty(2 * most, np.int32), np.empty(2 * most, np.int64), np.empty(2 * most, np.int32)
    newest, older = np.full(most, -1, np.int32), np.empty(2 * most, np.int32)  # the edges of a state, as a chain
    length, link = np.zeros(most, np.int64), np.full(most, -1, np.int64)
    states, edges, last = 1, 0, 0
    for token in stream:
        new = states
        states += 1
        length[new] = length[last] + 1
        at = last
        while at != -1:
            slot = _slot(slots, edge_state, edge_token, at, token)
            if slots[slot]:
                break
            edge_state[edges], edge_token[edges], edge_to[edges], older[edges] = at, token, new, newest[at]
            newest[at] = edges
            edges += 1
            slots[slot] = edges
            at = link[at]
        if at == -1:
            link[new] = 0
        else:
            there = np.int64(edge_to[slots[_slot(slots, edge_state, edge_token, at, token)] - 1])
            if length[there] == length[at] + 1:
                link[new] = there
            else:
                clone = states
                states += 1
                length[clone], link[clone] = length[at] + 1, link[there]
                edge = np.int64(newest[there])
                while edge != -1:
                    slot = _slot(slots, edge_state, edge_token, clone, edge_token[edge])
                    edge_state[edges], edge_token[edges], edge_to[edges] = clone, edge_token[edge], edge_to[edge]
                    older[edges] = newest[clone]
                    newest[clone] = edges
                    edges += 1
                    slots[slot] = edges
                    edge = np.int64(older[edge])
                while at != -1:
                    slot = _slot(slots, edge_state, edge_token, at, token)
                    if not slots[slot] or edge_to[slots[slot] - 1] != there:
                        break
                    edge_to[slots[slot] - 1] = clone
                    at = link[at]
                link[there] = clone
                link[new] = clone
        last = new
    return length[:states].copy(), link[:states].copy(), slots, edge_state, edge_token, edge_to


@njit(cache=True, nogil=True)
def _read(
    block: Ints,
    first: int,
    state: np.int64,
    length: np.int64,
    longest: Ints,
    link: Ints,
    slots: Small,
    edge_state: Small,
    edge_token: Ints,
    edge_to: Small,
    best: Ints,
    where: Ints,
) -> tuple[np.int64, np.int64]:
    """Reads a block of a stream whose first token has the number `first`; the longest match of each state goes into best and where."""
    for at in range(block.size):
        token = block[at]
        edge = np.int64(slots[_slot(slots, edge_state, edge_token, state, token)])
        while edge == 0 and state:
            state = link[state]
            length = longest[state]
            edge = np.int64(slots[_slot(slots, edge_state, edge_token, state, token)])
        if edge == 0:
            continue
        state = np.int64(edge_to[edge - 1])
        length += 1
        if length > best[state]:
            best[state], where[state] = length, first + at + 1 - length
    return state, length


@njit(cache=True, nogil=True)
def _collect(
    stream: Ints,
    sizes: Ints,
    order: Ints,
    longest: Ints,
    link: Ints,
    slots: Small,
    edge_state: Small,
    edge_token: Ints,
    edge_to: Small,
    best: Ints,
    where: Ints,
) -> tuple[Ints, Ints, Ints]:
    """(length, end in the text, first token's number in the shards) of each text's longest run."""
    for state in order:  # what ends in a state was seen where a longer string was that ends with it
        above = link[state]
        if best[state] and above > 0 and best[above] < longest[above]:
            best[above], where[above] = longest[above], where[state] + best[state] - longest[above]
    lengths, ends, begins = np.zeros(sizes.size, np.int64), np.zeros(sizes.size, np.int64), np.zeros(sizes.size, np.int64)
    at = 0
    for text in range(sizes.size):
        state = np.int64(0)
        for place in range(sizes[text]):
            state = np.int64(edge_to[slots[_slot(slots, edge_state, edge_token, state, stream[at])] - 1])
            at += 1
            seen = state
            while seen and best[seen] == 0:
                seen = link[seen]
            if best[seen] > lengths[text]:
                lengths[text], ends[text], begins[text] = best[seen], place + 1, where[seen]
        at += 1
    return lengths, ends, begins


def occurrences(strings: Sequence[str], shards: Sequence[TokenShard], pieces: Sequence[str]) -> Ints:
    """(N,) how often each string occurs in the text of the shards, byte for byte; `pieces` is the text of every token.

    A piece that is part of a character is another's: strings beyond ASCII can be missed where a tokeniser divides characters.
    """
    counts = np.zeros(len(strings), np.int64)
    if not strings:
        return counts
    table, first_of, next_of = _automaton([string.encode() for string in strings])
    encoded = [piece.encode() for piece in pieces]
    data = np.frombuffer(b"".join(encoded), np.uint8)
    ends = np.cumsum([0, *map(len, encoded)]).astype(np.int64)
    for shard in shards:
        state = np.int64(0)
        for start in range(0, len(shard.tokens), BLOCK_TOKENS):
            block = shard.tokens[start : start + BLOCK_TOKENS].astype(np.int64)
            state = _count(block, data, ends, table, first_of, next_of, state, counts)
    return counts


def _automaton(strings: Sequence[bytes]) -> tuple[Small, Small, Small]:
    """Aho and Corasick 1975: (states, 256) the next state; the string that ends in a state, or -1, and after each string the next one.

    Equal strings, and those that end within another, are all found: a string's next is the longest other that ends where it does.
    """
    rows, ends, before, depth_order = [np.zeros(256, np.int32)], [-1], [0], [0]
    next_of = np.full(len(strings), -1, np.int32)
    for number, string in enumerate(strings):
        state = 0
        for byte in string:
            if not rows[state][byte]:
                rows[state][byte] = len(rows)
                rows.append(np.zeros(256, np.int32))
                ends.append(-1)
                before.append(0)
            state = int(rows[state][byte])
        next_of[number], ends[state] = ends[state], number
    for state in depth_order:
        fallback = rows[before[state]] if state else np.zeros(256, np.int32)
        for byte in np.flatnonzero(rows[state]).tolist():
            child = int(rows[state][byte])
            before[child] = int(fallback[byte])
            depth_order.append(child)
        rows[state] = np.where(rows[state] > 0, rows[state], fallback)
        last = ends[state]
        while last >= 0 and next_of[last] >= 0:
            last = int(next_of[last])
        if state and ends[before[state]] >= 0:
            if last >= 0:
                next_of[last] = ends[before[state]]
            else:
                ends[state] = ends[before[state]]
    return np.stack(rows), np.array(ends, np.int32), next_of


@njit(cache=True, nogil=True)
def _count(
    block: Ints, data: Bytes, ends: Ints, table: Small, first_of: Small, next_of: Small, state: np.int64, counts: Ints
) -> np.int64:
    for token in block:
        for at in range(ends[token], ends[token + 1]):
            state = np.int64(table[state, data[at]])
            found = first_of[state]
            while found >= 0:
                counts[found] += 1
                found = next_of[found]
    return np.int64(state)
