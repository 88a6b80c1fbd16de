"""Which tokens are computed together: sequences in, groups that share prefixes and batches under a token budget out.

Every distinct token behind a shared prefix is computed once. Pure: no torch, no model, no text. A plan depends on the
sequences alone, so both arms walk the same one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]

SHARE = 32
"""Shortest common prefix, in tokens, that is worth computing apart."""
TRUNK_COST = 32
STEM_COST = 64
"""What an extra forward costs, in tokens: sharing must save more than this."""
ROW = 256
"""Leaves are packed into rows of at most this many tokens, or half their trunk where that is more: attention between
the leaves of one row is computed and thrown away, so rows must stay short beside their trunk."""


@dataclass(frozen=True, slots=True)
class Group:
    """Sequences computed behind one trunk: tokens `[0, stem)` are shared with other groups, `[stem, trunk)` with each
    other, the rest is each one's own. A sequence alone is all trunk."""

    stem: int
    trunk: int
    members: tuple[int, ...]


class Read(NamedTuple):
    """Score tokens `[first, len(targets) + first)` that follow position `first − 1` of a sequence."""

    sequence: int
    first: int
    targets: Tokens


class Look(NamedTuple):
    """Hidden states asked of one sequence: block outputs (0 the embedding), averaged over positions."""

    sequence: int
    layers: tuple[int, ...]
    positions: tuple[int, ...]


class Place(NamedTuple):
    """Where tokens `[start, stop)` of a sequence are computed: from `column` of `row` of a part of the layout."""

    part: int
    """0 stem, 1 trunks, 2 leaves."""
    row: int
    column: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One batch, laid out in rows."""

    stem: Tokens
    trunks: list[Tokens]
    """One row each; may be empty arrays where the stem is the whole trunk."""
    rows: list[list[Tokens]]
    """Leaves packed one after the other."""
    trunk_of: list[int]
    """Trunk of each row of leaves."""
    offset: list[int]
    """Position of the first leaf token of each row of leaves: stem plus its trunk's length."""
    places: dict[int, tuple[Place, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """Groups of the sequences that must be computed."""

    groups: tuple[Group, ...]
    owner: tuple[int, ...]
    """Sequence → the one computed in its place: an equal one, or one that it is a prefix of."""
    tokens: int
    """Tokens to compute, padding not counted."""


def common(a: Tokens, b: Tokens) -> int:
    """Length of the common prefix."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n


def make_plan(sequences: Sequence[Tokens], longest: int) -> Plan:
    """Group sequences so that the fewest tokens are computed.

    `longest` is the length up to which a sequence may share (the model's attention decides); 0 shares nothing, though
    equal sequences, and prefixes of one another, are still computed once.
    """
    keys = [tokens.astype(">i4").tobytes() for tokens in sequences]
    order = sorted(range(len(sequences)), key=keys.__getitem__)
    owner = list(range(len(sequences)))
    kept: list[int] = []
    for here in reversed(order):
        if kept and keys[kept[-1]].startswith(keys[here]):
            owner[here] = kept[-1]
        else:
            kept.append(here)
    kept.reverse()
    alone = [i for i in kept if len(sequences[i]) > longest]
    kept = [i for i in kept if len(sequences[i]) <= longest]
    lengths = [len(sequences[i]) for i in kept]
    shared = [0, *(common(sequences[a], sequences[b]) for a, b in pairwise(kept))]
    tree = _Tree(kept, lengths, shared)
    found = [Group(0, len(sequences[i]), (i,)) for i in alone]
    cost = sum(len(sequences[i]) for i in alone)
    for low, high in tree.cut(0, len(kept), SHARE):
        spent, groups = tree.with_stem(low, high)
        cost += spent
        found += groups
    lengths_of = {group: max(len(sequences[m]) for m in group.members) for group in found}
    stems: dict[tuple[int, bytes], list[Group]] = {}
    for group in found:
        key = (group.stem, keys[group.members[0]][: 4 * group.stem])
        stems.setdefault(key, []).append(group)
    groups = []
    for cluster in sorted(stems.values(), key=lambda c: -max(lengths_of[g] for g in c)):
        groups += sorted(cluster, key=lambda g: (-g.trunk, g.members))
    return Plan(tuple(groups), tuple(owner), sum(_size(g, sequences) for g in groups) + _stems(groups, sequences))


def _size(group: Group, sequences: Sequence[Tokens]) -> int:
    return group.trunk - group.stem + sum(len(sequences[m]) - group.trunk for m in group.members)


def _stems(groups: Sequence[Group], sequences: Sequence[Tokens]) -> int:
    return sum(map(len, {sequences[group.members[0]][: group.stem].tobytes() for group in groups})) // 4


@dataclass(frozen=True, slots=True)
class _Tree:
    """The sorted sequences as a compressed trie, given by the common prefix of each with the one before."""

    kept: list[int]
    lengths: list[int]
    shared: list[int]

    def cut(self, low: int, high: int, depth: int) -> list[tuple[int, int]]:
        """Runs in `[low, high)` in which neighbours share at least `depth` tokens."""
        edges = [low, *(i for i in range(low + 1, high) if self.shared[i] < depth), high]
        return [(a, b) for a, b in pairwise(edges) if a < b]

    def below(self, low: int, high: int) -> tuple[int, list[tuple[int, int]]]:
        """Depth of the node over `[low, high)`, and its children; steps grow with depth so that the tree stays low."""
        depth = min(self.shared[low + 1 : high])
        return depth, self.cut(low, high, depth + max(16, depth // 8))

    def with_trunk(self, low: int, high: int, done: int) -> tuple[int, list[Group]]:
        """Cheapest groups behind `done` tokens that are there already: (tokens, groups)."""
        if high - low == 1:
            return self.lengths[low] - done, [Group(done, self.lengths[low], (self.kept[low],))]
        depth, children = self.below(low, high)
        whole = depth - done + sum(self.lengths[low:high]) - (high - low) * depth + TRUNK_COST
        parts = [self.with_trunk(a, b, done) for a, b in children]
        apart = sum(cost for cost, _ in parts)
        if whole < apart:
            return whole, [Group(done, depth, tuple(self.kept[low:high]))]
        return apart, [group for _, groups in parts for group in groups]

    def with_stem(self, low: int, high: int) -> tuple[int, list[Group]]:
        """As `with_trunk` from nothing, where a prefix may also be put under several trunks."""
        plain = self.with_trunk(low, high, 0)
        if high - low == 1:
            return plain
        depth, children = self.below(low, high)
        over = [self.with_trunk(a, b, depth) for a, b in children]
        parts = [self.with_stem(a, b) for a, b in children]
        choices = [
            plain,
            (depth + STEM_COST + sum(c for c, _ in over), [g for _, groups in over for g in groups]),
            (sum(c for c, _ in parts), [g for _, groups in parts for g in groups]),
        ]
        return min(choices, key=lambda choice: choice[0])


def packed(group: Group, sequences: Sequence[Tokens]) -> list[list[int]]:
    """The members of a group in rows of leaves; none where there is a single one."""
    if len(group.members) == 1:
        return []
    most = max(ROW, group.trunk // 2)
    rows: list[list[int]] = []
    room = 0
    for member in group.members:
        size = len(sequences[member]) - group.trunk
        if not rows or size > room:
            rows.append([])
            room = most
        rows[-1].append(member)
        room -= size
    return rows


def take(groups: Sequence[Group], sequences: Sequence[Tokens], budget: int) -> tuple[int, int]:
    """(how many of the first groups make one batch, its tokens with padding): one stem, at least one group."""
    trunk = leaf = rows = padded = 0
    first = groups[0]
    stem = sequences[first.members[0]][: first.stem]
    for count, group in enumerate(groups):
        trunk = max(trunk, group.trunk - group.stem)
        for row in packed(group, sequences):
            rows += 1
            leaf = max(leaf, sum(len(sequences[m]) for m in row) - len(row) * group.trunk)
        size = (count + 1) * trunk + rows * leaf
        same = group.stem == first.stem and np.array_equal(sequences[group.members[0]][: first.stem], stem)
        if count and not (same and size <= budget):
            return count, padded
        padded = size
    return len(groups), padded


def halve(groups: Sequence[Group]) -> tuple[tuple[Group, ...], tuple[Group, ...]] | None:
    """A batch in two, for want of memory; None where it is a single sequence."""
    if len(groups) > 1:
        middle = len(groups) // 2
        return tuple(groups[:middle]), tuple(groups[middle:])
    (group,) = groups
    if len(group.members) == 1:
        return None
    middle = len(group.members) // 2
    return tuple((Group(group.stem, group.trunk, half),) for half in (group.members[:middle], group.members[middle:]))  # type: ignore[return-value]


def lay_out(groups: Sequence[Group], sequences: Sequence[Tokens]) -> Layout:
    """Rows and columns of one batch, whose groups have one stem."""
    first = groups[0]
    layout = Layout(sequences[first.members[0]][: first.stem], [], [], [], [])
    for group in groups:
        trunk = len(layout.trunks)
        whole = len(group.members) == 1
        end = len(sequences[group.members[0]]) if whole else group.trunk
        layout.trunks.append(sequences[group.members[0]][group.stem : end])
        base = (Place(0, 0, 0, 0, group.stem), Place(1, trunk, 0, group.stem, end))
        if whole:
            layout.places[group.members[0]] = base
        for members in packed(group, sequences):
            column = 0
            for member in members:
                size = len(sequences[member])
                layout.places[member] = (*base, Place(2, len(layout.rows), column, group.trunk, size))
                column += size - group.trunk
            layout.rows.append([sequences[m][group.trunk :] for m in members])
            layout.trunk_of.append(trunk)
            layout.offset.append(group.trunk)
    return layout


def place_of(places: Sequence[Place], position: int) -> tuple[int, int, int]:
    """(part, row, column) of one token position of a sequence."""
    for place in places:
        if place.start <= position < place.stop:
            return place.part, place.row, place.column + position - place.start
    raise IndexError(f"token {position} is not computed")
