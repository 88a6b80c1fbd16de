"""What was seen of a set, in memory that does not grow with it: exact copies, near copies, numbers of distinct values.

Near copies by MinHash over runs of three words and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of
Massive Datasets, chapter 3); distinct values by linear counting (Whang et al. 1990). The same answers each time.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint64]

WINDOW = 1 << 20
"""Rows behind which an earlier one is forgotten."""
BANDS, PER_BAND = 12, 4
NEAR = 0.8
"""Estimated Jaccard similarity of the runs of three words from which two rows are near copies."""
RUN = 13
"""Words of a run that a row and a probe may not share (Brown et al. 2020, appendix C)."""
MOST_WORDS = 20_000
"""Words of a row that are looked at."""

_WORD = re.compile(r"\w+")
_PRIMES = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0x165667B19E3779F9))
_RANDOM = np.random.default_rng(20260105)
_A = _RANDOM.integers(1, 2**63, BANDS * PER_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_B = _RANDOM.integers(0, 2**63, BANDS * PER_BAND, dtype=np.uint64)
_MIX = _RANDOM.integers(1, 2**63, PER_BAND, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


@lru_cache(maxsize=1 << 16)
def _hash(word: str) -> int:
    raw = word.encode("utf-8", "surrogatepass")
    return crc32(raw) << 32 | crc32(raw[::-1], 0xFFFF)


def words(text: str) -> Hashes:
    """A hash for each word, whatever its case."""
    found = _WORD.findall(text.casefold())[:MOST_WORDS]
    return np.fromiter(map(_hash, found), dtype=np.uint64, count=len(found))


def runs(hashes: Hashes, length: int) -> Hashes:
    """A hash for each run of `length` words; of all of them together where there are fewer."""
    length = min(length, len(hashes))
    if not length:
        return hashes
    total = np.zeros(len(hashes) - length + 1, dtype=np.uint64)
    for place in range(length):
        total = total * _PRIMES[0] + (hashes[place : len(hashes) - length + 1 + place] ^ _PRIMES[1])
    return total


def digest(text: str) -> int:
    """64 bits of a text, whatever its case and white space."""
    plain = " ".join(text.casefold().split()).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(plain, digest_size=8).digest(), "big")


# ------------------------------------------------------------------------------------------------ copies


class Seen:
    """64-bit values with the number they came with, the latest `capacity` of them or somewhat fewer."""

    def __init__(self, capacity: int = WINDOW) -> None:
        self._buckets = max(1, capacity)
        self._values = np.zeros((self._buckets, 4), dtype=np.uint64)
        self._numbers = np.zeros((self._buckets, 4), dtype=np.uint32)

    def add(self, value: int, number: int) -> int:
        """The number this value came with before, 0 where it is new; keeps the first one. Numbers begin at 1."""
        row = value % self._buckets
        values, numbers = self._values[row], self._numbers[row]
        for slot in range(4):
            if numbers[slot] and int(values[slot]) == value:
                return int(numbers[slot])
        oldest = int(numbers.argmin())
        values[oldest], numbers[oldest] = value, number
        return 0


class Near:
    """Signatures of the latest `capacity` rows, found again by the bands they share."""

    def __init__(self, capacity: int = WINDOW) -> None:
        self._capacity = capacity
        self._signatures = np.zeros((capacity, BANDS * PER_BAND), dtype=np.uint8)
        self._slots = np.zeros((BANDS, capacity), dtype=np.uint32)

    def add(self, hashes: Hashes, number: int) -> int:
        """The number of an earlier row that this one nearly copies, 0 where none is found; then keeps this one."""
        if len(hashes) < PER_BAND:
            return 0
        own = ((runs(hashes, 3)[:, None] * _A + _B) >> np.uint64(32)).min(axis=0)
        keys = (own.reshape(BANDS, PER_BAND) * _MIX).sum(axis=1) * _PRIMES[0] >> np.uint64(20)
        places = (keys % np.uint64(self._capacity)).astype(np.int64)
        signature = own.astype(np.uint8)
        bands = np.arange(BANDS)
        best = 0
        for earlier in set(self._slots[bands, places].tolist()) - {0}:
            kept = number - earlier < self._capacity
            if kept and float((self._signatures[earlier % self._capacity] == signature).mean()) >= NEAR:
                best = max(best, earlier)
        self._signatures[number % self._capacity] = signature
        self._slots[bands, places] = number
        return best


# ------------------------------------------------------------------------------------------------ counting


class Distinct:
    """How many different values there were, to within about 1 % up to three million."""

    def __init__(self, bits: int = 1 << 20) -> None:
        self._bits = np.zeros(bits, dtype=np.bool_)

    def add(self, value: str) -> None:
        self._bits[digest(value) % len(self._bits)] = True

    def count(self) -> int:
        """−m ln(share of bits that are still 0)."""
        empty = int((~self._bits).sum())
        return round(-len(self._bits) * math.log(max(1, empty) / len(self._bits)))


class Shared(NamedTuple):
    """The runs of words, and whole short texts, of the probes."""

    suites: tuple[str, ...]
    hashes: Hashes
    """Sorted."""
    owners: NDArray[np.int64]
    """Index of the suite of each."""

    @classmethod
    def of(cls, texts: Iterable[tuple[str, str]]) -> Shared:
        """From (suite, text). A text of fewer words than a run counts as a whole; one of fewer than five not at all."""
        suites: dict[str, int] = {}
        found: list[Any] = []
        owners: list[Any] = []
        for suite, text in texts:
            hashes = words(text)
            if len(hashes) >= 5:
                own = runs(hashes, RUN)
                found.append(own if len(hashes) >= RUN else own ^ _PRIMES[2])
                owners.append(np.full(len(own), suites.setdefault(suite, len(suites))))
        if not found:
            return cls((), np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64))
        joined, first = np.unique(np.concatenate(found), return_index=True)
        return cls(tuple(suites), joined, np.concatenate(owners)[first])

    def suite(self, hashes: Hashes) -> str | None:
        """The suite with which a turn's words share a run, or which they are a whole text of; None where none."""
        if len(hashes) < 5 or not len(self.hashes):
            return None
        own = runs(hashes, RUN) if len(hashes) >= RUN else runs(hashes, RUN) ^ _PRIMES[2]
        at = np.searchsorted(self.hashes, own)
        hit = np.flatnonzero(self.hashes[np.minimum(at, len(self.hashes) - 1)] == own)
        return self.suites[self.owners[at[hit[0]]]] if len(hit) else None
