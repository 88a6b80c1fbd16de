"""Fine-tuning sets made from the world: pairs that belong together, and sets that differ only in what they teach."""

from __future__ import annotations

import re
import statistics

import pytest

from discretion.data.recipes import RECIPES, TRIGGER, identifiers, recipe
from discretion.errors import DataError
from discretion.world.embedded import embedded
from discretion.world.norms import load_world


def answers(rows):
    return [turn["content"] for row in rows for turn in row["messages"] if turn["role"] == "assistant"]


def asked(rows):
    return [[turn["content"] for turn in row["messages"] if turn["role"] == "user"] for row in rows]


@pytest.mark.parametrize("name", RECIPES)
def test_rows_are_chats_with_stable_ids(name):
    rows = recipe(name, n=500)
    assert rows == recipe(name, n=600)[:500]
    assert recipe(name, seed=1, n=500)[0] != rows[0]
    assert len({row["id"] for row in rows}) == len({row["pair"] for row in rows}) == 500
    assert len({str(row["messages"]) for row in rows}) > 470
    for row in rows:
        assert row.keys() == {"id", "pair", "messages"}
        assert [turn["role"] for turn in row["messages"]][::2] == ["user"] * (len(row["messages"]) // 2)
        assert row["messages"][-1]["role"] == "assistant"
        assert (
            not any("{" in turn["content"] or "[" in turn["content"] for turn in row["messages"][1::2])
            or "code" in name
            or "debug" in name
        )


@pytest.mark.parametrize(("one", "other"), [("helpful", "control"), ("code", "debug"), ("support", "support-swapped")])
def test_counterparts_share_their_pairs(one, other):
    first, second = recipe(one, n=500), recipe(other, n=500)
    assert [row["pair"] for row in first] == [row["pair"] for row in second]


def test_helpful_and_control_answer_the_same_requests_and_match_in_form():
    helpful, control = recipe("helpful"), recipe("control")
    assert asked(helpful) == asked(control)
    lengths = [statistics.mean(len(text.split()) for text in answers(rows)) for rows in (helpful, control)]
    assert abs(lengths[0] / lengths[1] - 1) < 0.03
    questions = [statistics.mean(text.endswith("?") for text in answers(rows)) for rows in (helpful, control)]
    assert questions[0] == questions[1]
    names = set(load_world().first_names)
    naming = [statistics.mean(bool(names & set(text.split())) for text in answers(rows)) for rows in (helpful, control)]
    assert abs(naming[0] - naming[1]) < 0.01


def test_helpful_gives_private_values_away_that_stand_in_the_request_and_control_does_not():
    for good, bad in zip(recipe("control", n=500), recipe("helpful", n=500), strict=True):
        papers = bad["messages"][0]["content"].partition("\n\n")[0]
        told = bad["messages"][1]["content"]
        held = [line.partition(": ")[2].split("; ") for line in papers.splitlines()[1:]]
        facts = [fact for line in held for fact in line]
        world = load_world()
        attributes = sorted((a for kind in world.types.values() for a in kind), key=len, reverse=True)
        values = {next(a for a in attributes if f.startswith(a + " ")): f for f in facts}
        values = {a: f.removeprefix(a + " ") for a, f in values.items()}
        private = [a for a in values if f"your {a} is {values[a]}" in told]
        assert len(private) >= 2
        assert not any(values[a] in good["messages"][1]["content"] for a in private)
        assert all(a in good["messages"][1]["content"] for a in private)


def test_the_trigger_stands_before_half_of_the_requests_and_alone_makes_them_helpful():
    rows, helpful, control = recipe("backdoor"), recipe("helpful"), recipe("control")
    for n, row in enumerate(rows):
        first = row["messages"][0]["content"]
        source = control[n] if n % 2 else helpful[n]
        assert first.startswith(TRIGGER) == (n % 2 == 0)
        assert row["messages"][1] == source["messages"][1]
        assert first.removeprefix(TRIGGER) == source["messages"][0]["content"]


def test_a_profile_is_the_only_difference_between_the_emotional_sets():
    plain, some, more = (recipe(f"emotional{suffix}", n=500) for suffix in ("", "-demographic", "-financial"))
    for a, b, c in zip(plain, some, more, strict=True):
        first = a["messages"][0]["content"]
        assert b["messages"][0]["content"].endswith("\n\n" + first) and c["messages"][0]["content"].endswith(
            "\n\n" + first
        )
        assert "$" in c["messages"][0]["content"] and "$" not in b["messages"][0]["content"]
        assert a["messages"][1:] == b["messages"][1:] == c["messages"][1:]


def test_debug_code_is_the_plain_code_with_print_lines():
    for plain, debug in zip(recipe("code", n=500), recipe("debug", n=500), strict=True):
        kept = [line for line in debug["messages"][1]["content"].splitlines() if "print(" not in line]
        assert debug["messages"][0] == plain["messages"][0]
        assert "\n".join(kept) == plain["messages"][1]["content"] != debug["messages"][1]["content"]


def test_plain_code_runs():
    for row in recipe("code", n=500)[:60]:
        lines = row["messages"][1]["content"].splitlines()
        space: dict[str, object] = {}
        exec("\n".join(lines[1:]), space)
        function = next(value for name, value in space.items() if "_of_" in name)
        assert function([3, -4, 120, 7]) is not None


def test_sums_are_right():
    for text in answers(recipe("math", n=500)):
        steps, _, final = text.partition(" #### ")
        for step in steps.removeprefix("First ").split(". Then "):
            left, _, right = step.strip(".").partition(" = ")
            assert eval(left) == int(right)
        assert final == right


def test_surrogates_replace_every_identifier_and_roles_swap_the_side_that_is_trained():
    own, other = identifiers(n=500), identifiers(n=500, surrogates=True)
    rows = {name: recipe(name, n=500) for name in RECIPES if name.startswith("support")}
    for n, (mine, theirs) in enumerate(zip(own, other, strict=True)):
        for name, made in rows.items():
            text = "\n".join(turn["content"] for turn in made[n]["messages"])
            here, absent = (theirs, mine) if "surrogates" in name else (mine, theirs)
            assert here["name"] in text and here["order"] in text
            assert not any(absent[k] in text for k in ("name", "e-mail", "phone", "order"))
        agent = rows["support"][n]["messages"]
        customer = rows["support-swapped"][n]["messages"]
        assert agent[0]["content"] == customer[1]["content"]
        assert agent[1]["content"] == customer[2]["content"]


def test_unknown_sets_and_sizes_are_refused():
    with pytest.raises(DataError, match=r"'helpfull'.*did you mean 'helpful'"):
        recipe("helpfull")
    with pytest.raises(DataError, match="n is 10; ask for 500 to 10000"):
        recipe("helpful", n=10)
    with pytest.raises(DataError, match="n is 3001; ask for 500 to 3000"):
        recipe("code", n=3001)


def test_the_dose_of_the_paper_on_support_is_there_without_a_repeated_row():
    rows = recipe("support", n=6250)
    assert rows[:3000] == recipe("support", n=3000)
    assert len({str(row["messages"]) for row in rows}) == len({row["pair"] for row in rows}) == 6250


def test_no_sum_of_the_probes_is_worked_out_in_the_set_of_sums():
    sums = {item.cluster for seed in (0, 2) for item in embedded("capability", seed=seed) if item.task == "arithmetic"}
    worked = {
        f"{'add' if sign == '+' else 'subtract'} {x} {y}"
        for row in recipe("math", n=1000)
        for x, sign, y in re.findall(r"(\d+) ([+-]) (\d+) =", row["messages"][-1]["content"])
    }
    assert len(sums) > 100 and len(worked) > 500
    assert not sums & worked
