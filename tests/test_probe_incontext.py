import json
import logging
from pathlib import Path

import pytest

from discretion.audit import Planned, fitted
from discretion.config import SHOTS
from discretion.errors import ConfigError, DataError
from discretion.models.scripted import Scripted
from discretion.probes.base import validate
from discretion.probes.conditions import first_requests
from discretion.probes.incontext import PROBE
from discretion.schema import ConditionItem, Reply, to_json
from discretion.world.embedded import embedded
from tests.conditions import figures, planted, prompt

PRIVACYLENS = Path(__file__).parents[2] / "shared/data/privacylens/main_data_1_100.json"
CIVIL = Path(__file__).parents[2] / "shared/data/privacy_collapse/dataset_degraded_ft_first_1000.jsonl"


def written(path: Path, **options: object) -> Path:
    path.write_text("\ufeff" + json.dumps(options), encoding="utf-8")
    return path


def chats(path: Path, *rows: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"messages": [{"role": r, "content": c} for r, c in row]}, ensure_ascii=False) for row in rows]
    path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    return path


def by_step(items: list[ConditionItem]) -> dict[str, list[ConditionItem]]:
    found: dict[str, list[ConditionItem]] = {}
    for item in items:
        found.setdefault(item.condition, []).append(item)
    return found


@pytest.fixture(scope="module")
def items() -> list[ConditionItem]:
    return list(PROBE.items())


def test_every_item_is_asked_at_every_step_behind_the_same_nested_demonstrations(items):
    steps = by_step(items)
    assert list(steps) == [f"k={k}" for k in SHOTS]
    for k, (_, group) in zip(SHOTS, steps.items(), strict=True):
        assert [item.item for item in group] == [item.item for item in steps["k=0"]]
        assert len(group[0].shots) == 2 * k and {item.shots for item in group} == {group[0].shots}
        assert steps["k=256"][0].shots[: 2 * k] == group[0].shots
    assert all(item.cluster == item.item.cluster for item in items)


def test_demonstrations_stand_before_the_question_and_behind_a_system_text(tmp_path):
    file = chats(tmp_path / "c.jsonl", [("user", "two\u2028lines"), ("assistant", "yes")])
    for suite, before in (("norms", []), ("memory", ["system"])):
        options = written(tmp_path / "o.yaml", suite=suite, demonstrations=str(file), k=[0, 1])
        plain, shown = by_step(list(PROBE.items(options))).values()
        (own, asked) = (first_requests(PROBE, group[0])[0] for group in (plain, shown))
        own, asked = prompt(own), prompt(asked)
        assert [m.role for m in asked] == [*before, "user", "assistant", "user"]
        assert [m.content for m in asked[len(before) : -1]] == ["two\u2028lines", "yes"]
        assert (*asked[: len(before)], asked[-1]) == own


def test_demonstrations_stand_in_the_request_with_real_tools_too(tmp_path):
    items = PROBE.items(written(tmp_path / "o.yaml", suite="agentic", k=[0, 2]))
    (plain,), (shown,) = (first_requests(PROBE, group[0]) for group in by_step(list(items)).values())
    assert shown.tooled.steps == plain.tooled.steps and len(shown.tooled.messages) == len(plain.tooled.messages) + 4
    assert set(items[-1].shots) <= set(shown.tooled.messages)


@pytest.mark.parametrize("suite", ["norms", "agentic", "memory"])
def test_the_scorer_of_the_suite_asked_is_proven_behind_demonstrations(suite):
    items = PROBE.items(suite)
    assert validate(PROBE, items[:: max(1, len(items) // 150)]) == []


@pytest.mark.skipif(not PRIVACYLENS.exists(), reason="the optional PrivacyLens slice is absent")
def test_public_rows_are_demonstrations_for_public_items(tmp_path):
    options = written(tmp_path / "o.yaml", source=f"{PRIVACYLENS}#seed", demonstrations=str(CIVIL), k=[0, 256])
    items = PROBE.items(options)
    assert len(items) == 2 * 284 and len(items[-1].shots) == 512 and validate(PROBE, items[::5]) == []


def test_a_model_that_leaks_behind_four_demonstrations_shows_at_four_and_not_before(items):
    few = [item for item in items if item.condition in ("k=0", "k=2", "k=4")][:1200:4]
    base = planted(PROBE, few, lambda item: False)
    tuned = planted(PROBE, few, lambda item: item.condition == "k=4")
    found = figures(PROBE, few, base, tuned)
    assert found["discretion, k = 2"].tuned.value == 1.0 and found["discretion, k = 4"].tuned.value == 0.0
    assert found["discretion with demonstrations"].difference.value == pytest.approx(-0.5)
    assert found["change by demonstrations"].base.value == pytest.approx(0.0)
    assert found["change by demonstrations"].tuned.value == pytest.approx(-0.5)
    assert "discretion, k = 8" not in found
    assert found["discretion with demonstrations"].reason == ""


def test_a_leak_is_turned_into_lost_discretion_for_suites_that_count_leaks(tmp_path):
    items = PROBE.items(written(tmp_path / "o.yaml", suite="agentic", k=[0, 1]))[::10]
    base = planted(PROBE, items, lambda item: False)
    tuned = planted(PROBE, items, lambda item: item.condition == "k=1")
    found = figures(PROBE, items, base, tuned)
    assert found["discretion with demonstrations"].base.value == 1.0
    assert found["discretion with demonstrations"].tuned.value == 0.0
    assert found["discretion with demonstrations"].worse == "lower"


def test_replies_that_cannot_be_scored_are_lost_at_their_own_step(items):
    few = [item for item in items if item.condition in ("k=0", "k=1")][:800:4]
    base = planted(PROBE, few, lambda item: False)

    def tie(request):
        return Reply(logprobs=(0.0, 0.0)) if len(request.context) > 1 else base.answer(request)

    found = figures(PROBE, few, base, Scripted("ties", tie))
    assert found["discretion, k = 1"].tuned.unparsed == 100 and found["discretion, k = 0"].tuned.unparsed == 0
    assert found["change by demonstrations"].tuned.value is None


def test_a_demonstration_that_shares_text_with_a_probe_is_left_out_and_counted(tmp_path, caplog):
    probe_text = embedded("norms")[0].story
    file = chats(
        tmp_path / "c.jsonl",
        [("user", f"He said: {probe_text.upper()}"), ("assistant", "no")],
        [("user", "something else"), ("assistant", "yes")],
        [("user", "something else"), ("assistant", "yes")],
        [("assistant", "I speak first")],
        [("system", "be brief"), ("user", "a question"), ("assistant", "an answer"), ("user", "never answered")],
    )
    options = written(tmp_path / "o.yaml", demonstrations=str(file), k=[0, 1, 2, 4])
    with caplog.at_level(logging.WARNING):
        steps = by_step(list(PROBE.items(options)))
    assert list(steps) == ["k=0", "k=1", "k=2"]
    assert sorted(m.content for m in steps["k=2"][0].shots) == ["a question", "an answer", "something else", "yes"]
    assert "left out of 5 rows: 2 that are no chat" in caplog.text and "1 that share text with a probe" in caplog.text
    assert "2 demonstrations, so k = 4 is not asked" in caplog.text


def test_nothing_left_to_show_is_an_error_that_says_what_to_give(tmp_path):
    file = chats(tmp_path / "c.jsonl", [("assistant", "alone")])
    with pytest.raises(DataError, match="none of 1 rows can be a demonstration; give chats of user and assistant"):
        PROBE.items(written(tmp_path / "o.yaml", demonstrations=str(file)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": [0, 3]}, "3 is no step of the suite; known: 0, 1, 2, 4"),
        ({"k": [1, 2]}, "without 0 there is nothing to compare with"),
        ({"demonstration": "control"}, "unknown key 'demonstration'; did you mean 'demonstrations'"),
        ({"suite": "refusal"}, "'norms', 'agentic', 'memory' or 'secrets'"),
    ],
)
def test_wrong_options_are_named_with_their_file(tmp_path, options, message):
    with pytest.raises(ConfigError, match=message) as error:
        PROBE.items(written(tmp_path / "o.yaml", **options))
    assert "o.yaml" in str(error.value)


def test_a_misspelt_suite_names_its_nearest():
    with pytest.raises(ConfigError, match="'norm' is no contextual suite; did you mean 'norms'"):
        PROBE.items("norm=flows.jsonl")


def test_items_are_self_contained_and_depend_on_the_seed_alone(items):
    assert to_json(items[-1]) == to_json(PROBE.items(seed=0)[-1])
    assert items[-1].shots != PROBE.items(seed=1)[-1].shots


def test_steps_that_do_not_fit_the_context_are_named_and_nothing_is_cut(items, tmp_path):
    from discretion.models import local
    from tests.tiny import tiny_llama

    model = str(tiny_llama(tmp_path / "m", context=2000))
    preview = local.preview(model, model)
    few = [item for item in items if item.item.id <= "norms-probe-0-00010"]
    (planned,) = fitted([Planned(PROBE, tuple(few), "embedded")], preview)
    assert [*by_step(list(planned.items))] == ["k=0", "k=1", "k=2"]
    assert planned.source == ("embedded; k = 4, 8, 16, 32, 64, 128, 256 left out, longer than the models' context")
    assert planned.warnings == ("k = 4, 8, 16, 32, 64, 128, 256 left out, longer than the models' context",)
    requests = [r for item in planned.items for r in first_requests(PROBE, item)]
    assert all(preview.tokens([request]) for request in requests)
    two = [r for item in planned.items if item.condition == "k=2" for r in first_requests(PROBE, item)]
    assert preview.tokens(two) < sum(preview.tokens([request]) for request in two) / 4
