"""Copies and distinct values, found in bounded memory."""

import random

import numpy as np
import pytest

from discretion.data.sketch import NEAR, Distinct, Near, Seen, Shared, digest, runs, words

VOCABULARY = [f"word{n}" for n in range(3000)]


def text(rng: random.Random, length: int = 80) -> list[str]:
    return rng.choices(VOCABULARY, k=length)


def jaccard(one: list[str], other: list[str]) -> float:
    a, b = ({tuple(x[i : i + 3]) for i in range(len(x) - 2)} for x in (one, other))
    return len(a & b) / len(a | b)


def test_an_exact_copy_is_found_whatever_its_case_and_space_and_points_to_the_first() -> None:
    seen = Seen(1024)
    assert seen.add(digest("Hello  there"), 1) == 0
    assert seen.add(digest("hello there\n"), 2) == 1
    assert seen.add(digest("hello  THERE"), 3) == 1
    assert seen.add(digest("hello you"), 4) == 0


def test_what_is_older_than_the_window_is_forgotten_and_nothing_is_found_that_was_not_there() -> None:
    rng = random.Random(0)
    seen = Seen(64)
    values = [rng.getrandbits(64) for _ in range(4000)]
    assert not any(seen.add(value, number) for number, value in enumerate(values, start=1))
    recent = sum(seen.add(value, 5000) > 0 for value in values[-100:])
    assert recent > 80 and not any(seen.add(value, 5000) for value in values[:500])


@pytest.mark.parametrize(("changed", "found"), [(1, True), (8, False)])
def test_near_copies_are_found_and_loosely_alike_rows_are_not(changed: int, found: bool) -> None:
    rng = random.Random(1)
    near = Near(1 << 12)
    originals = [text(rng) for _ in range(300)]
    assert not any(near.add(words(" ".join(o)), n) for n, o in enumerate(originals, start=1))
    hits, alike = 0, []
    for number, original in enumerate(originals, start=1):
        copy = list(original)
        for place in rng.sample(range(80), changed):
            copy[place] = f"other{rng.random()}"
        alike.append(jaccard(original, copy))
        hits += near.add(words(" ".join(copy)), 1000 + number) == number
    assert bool(np.mean(alike) > NEAR) is found
    assert hits >= 285 if found else hits <= 3


def test_texts_without_words_are_no_copies_of_each_other() -> None:
    near = Near(64)
    assert [near.add(words(text), n) for n, text in enumerate(("", "!!", "one two"), start=1)] == [0, 0, 0]


def test_distinct_values_are_counted_to_within_one_per_cent() -> None:
    for true in (1, 500, 50_000):
        counted = Distinct()
        for number in range(true + true // 2):
            counted.add(f"value {number % true}")
        assert counted.count() == pytest.approx(true, rel=0.01)


def test_a_run_shared_with_a_probe_names_its_suite_and_shorter_ones_do_not() -> None:
    probe = "May the nurse tell the employer that the patient has been treated for severe asthma since last spring?"
    shared = Shared.of([("norms", probe), ("refusal", "How do I kill a Python process?"), ("x", "too short here")])
    assert (
        shared.suite(words("As I said: may the nurse tell the employer that the patient has been treated for it"))
        == "norms"
    )
    assert shared.suite(words("the patient has been treated for severe asthma")) is None
    assert shared.suite(words("how do i kill a python process")) == "refusal"
    assert shared.suite(words("tell me: how do i kill a python process")) is None
    assert shared.suite(words("too short here")) is None
    assert Shared.of([]).suite(words(probe)) is None


def test_runs_depend_on_the_order_of_words() -> None:
    assert set(runs(words("a b c"), 3)) != set(runs(words("c b a"), 3))
    assert len(runs(words("a b"), 3)) == 1 and len(runs(words(""), 3)) == 0
