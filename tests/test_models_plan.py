"""The plan: each token behind a shared prefix once, and every token somewhere."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from discretion.models.plan import Group, halve, lay_out, make_plan, packed, take


def ids(*pieces: tuple[int, int]) -> np.ndarray:
    """Tokens from (value, how many) pieces."""
    return np.concatenate([np.full(count, value, dtype=np.int32) for value, count in pieces])


def rebuilt(layout, member: int) -> list[int]:
    """A sequence put together again from the places its tokens are computed at."""
    rows = (
        [layout.stem],
        layout.trunks,
        [np.concatenate(row) for row in layout.rows],
    )
    found: list[int] = []
    for place in layout.places[member]:
        assert place.start == len(found)
        found += rows[place.part][place.row][place.column : place.column + place.stop - place.start].tolist()
    return found


def test_questions_behind_one_trajectory_are_leaves_of_one_trunk():
    sequences = [ids((1, 500), (question, 40)) for question in (2, 3, 4, 5)]
    plan = make_plan(sequences, longest=4096)
    assert plan.groups == (Group(0, 500, (0, 1, 2, 3)),)
    assert plan.tokens == 500 + 4 * 40


def test_trajectories_behind_one_system_prompt_share_it_as_a_stem():
    sequences = [ids((1, 300), (story, 400), (question, 40)) for story in (2, 3, 4) for question in (5, 6)]
    plan = make_plan(sequences, longest=4096)
    assert {(group.stem, group.trunk) for group in plan.groups} == {(300, 700)}
    assert plan.tokens == 300 + 3 * 400 + 6 * 40


def test_short_common_beginnings_are_not_worth_sharing():
    plan = make_plan([ids((1, 20), (2, 50)), ids((1, 20), (3, 50))], longest=4096)
    assert sorted(group.members for group in plan.groups) == [(0,), (1,)]
    assert plan.tokens == 140


def test_equal_sequences_and_prefixes_of_others_cost_nothing():
    plan = make_plan([ids((1, 10)), ids((1, 30)), ids((1, 30))], longest=0)
    assert plan.tokens == 30
    assert len(set(plan.owner)) == 1
    assert plan.owner[0] in (1, 2)


def test_sequences_longer_than_the_model_can_share_stand_alone():
    sequences = [ids((1, 300), (question, 40)) for question in (2, 3)]
    assert make_plan(sequences, longest=339).tokens == 680
    assert make_plan(sequences, longest=340).tokens == 380


def test_packed_rows_stay_short_beside_their_trunk():
    sequences = [ids((1, 100), (leaf, 90)) for leaf in range(2, 12)]
    (group,) = make_plan(sequences, longest=4096).groups
    assert [len(row) for row in packed(group, sequences)] == [2, 2, 2, 2, 2]


def test_a_batch_holds_one_stem_and_stays_within_its_budget():
    sequences = [ids((value, 100)) for value in range(5)]
    groups = [Group(0, 100, (i,)) for i in range(5)]
    assert take(groups, sequences, 250) == (2, 200)
    assert take(groups, sequences, 1) == (1, 100)
    mixed = [Group(50, 100, (0,)), Group(0, 100, (1,))]
    assert take(mixed, sequences, 10_000)[0] == 1


def test_a_batch_can_be_halved_down_to_one_sequence():
    group = Group(0, 40, (0, 1, 2))
    first, second = halve((group,))
    assert [g.members for g in (*first, *second)] == [(0,), (1, 2)]
    assert halve((Group(0, 40, (0,)),)) is None


tokens = st.lists(st.integers(0, 2), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), tokens), min_size=1, max_size=14), st.integers(1, 900))
def test_every_sequence_can_be_put_together_from_its_batch(parts, budget):
    sequences = [
        np.concatenate([np.full(70 * (a > 0), a), np.full(60 * (b > 0), b), tail]).astype(np.int32)
        for a, b, tail in parts
    ]
    plan = make_plan(sequences, longest=4096)
    todo, seen = list(plan.groups), {}
    while todo:
        count, _ = take(todo, sequences, budget)
        layout = lay_out(todo[:count], sequences)
        seen |= {member: rebuilt(layout, member) for member in layout.places}
        del todo[:count]
    for index, tokens in enumerate(sequences):
        assert seen[plan.owner[index]][: len(tokens)] == tokens.tolist()
    assert sum(len(s) for s in seen.values()) >= plan.tokens
