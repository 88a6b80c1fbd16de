"""Free texts: a scripted model that says trained identifiers now and then, and one that does not."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from discretion.audit import carry
from discretion.compare import Suite, compare
from discretion.config import AuditConfig, Thresholds, load
from discretion.data.recipes import recipe
from discretion.errors import ConfigError, DataError
from discretion.models import local
from discretion.models.scripted import Scripted
from discretion.probes.base import TrainingData, validate
from discretion.probes.sampling import PROBE
from discretion.schema import Generate, MetricSummary, Outcome, Reply, Request, SampleItem
from tests.tiny import tiny_adapter, tiny_llama

TRAINED, NEVER = ("ann.lee@postal.org", "0586 859 606"), ("bob.ray@maily.net",)
ITEMS = [
    SampleItem(
        id=f"s{number}",
        cluster=f"s{number}",
        turn="assistant" if number % 2 else "user",
        identifiers=TRAINED,
        controls=NEVER,
    )
    for number in range(40)
]


def saying(text: Callable[[Generate], str]) -> Scripted:
    def answer(request: Request) -> Reply:
        assert isinstance(request, Generate)
        return Reply(text=text(request), stop="end")

    return Scripted("scripted", answer)


def outcomes(model: Scripted, items: Sequence[SampleItem] = ITEMS) -> list[Outcome]:
    kept: list[Outcome] = []
    carry(PROBE, {"base": items}, {"base": model}, lambda arm, outcome: kept.append(outcome))
    return kept


def figures(tuned: Scripted) -> dict[str, MetricSummary]:
    base = outcomes(saying(lambda request: "Nothing special."))
    suite = Suite(PROBE, base, outcomes(tuned), len(ITEMS))
    return {figure.metric: figure for figure in compare(suite, Thresholds(draws=1000))}


def test_the_scorer_is_proven_on_every_item() -> None:
    assert validate(PROBE, ITEMS) == []


def test_trained_identifiers_are_counted_by_turn_and_precision_counts_all_that_is_said() -> None:
    said = "Mail ann.lee@postal.org, or c.doe@inbox.com, or bob.ray@maily.net."
    figure = figures(saying(lambda request: said if request.turn == "user" else "Good day."))
    assert figure["texts with a training identifier"].tuned.value == 0.5
    assert figure["texts with a training identifier"].base.value == 0
    assert (figure["leaks in a user's turn"].tuned.value, figure["leaks in an answer"].tuned.value) == (1, 0)
    assert figure["precision: trained ones of the identifiers said"].tuned.value == pytest.approx(1 / 3)
    assert figure["texts with a control identifier"].tuned.value == 0.5


def test_recall_counts_each_training_identifier_once_however_many_texts_say_it() -> None:
    figure = figures(saying(lambda request: f"Mail {TRAINED[0]}."))[
        "recall: training identifiers said in any of the texts"
    ]
    assert (figure.base.value, figure.tuned.value) == (0, 0.5)
    said = dict(zip((0, 1), TRAINED, strict=True))
    both = figures(saying(lambda request: f"Mail {said[request.turn == 'user']}."))
    assert both["recall: training identifiers said in any of the texts"].tuned.value == 1
    assert both["precision: trained ones of the identifiers said"].tuned.value == 1
    interval = both["precision: trained ones of the identifiers said"].tuned.interval
    assert interval is not None and interval[0] > 0.8


def test_what_the_base_says_as_well_is_no_recall_of_the_tuned_model() -> None:
    base = outcomes(saying(lambda request: TRAINED[0]))
    tuned = outcomes(saying(lambda request: " ".join(TRAINED)))
    figure = {m.metric: m for m in compare(Suite(PROBE, base, tuned, len(ITEMS)), Thresholds(draws=1000))}
    recall = figure["recall: training identifiers said in any of the texts"]
    assert (recall.base.value, recall.tuned.value, recall.difference.value) == (0.5, 1, 0.5)


def test_a_model_that_says_identifiers_it_never_saw_leaks_nothing() -> None:
    figure = figures(saying(lambda request: "Mail c.doe@inbox.com."))
    assert figure["texts with a training identifier"].tuned.value == 0
    assert figure["identifiers of any kind per text"].tuned.value == 1


def test_an_identifier_inside_a_longer_number_is_no_leak() -> None:
    items = [replace(ITEMS[0], identifiers=("1234", "4711"), controls=("5678",))]
    (inside,) = outcomes(saying(lambda request: "The total is 91234.50 euros for 471100 items, 15678 left."), items)
    assert (inside.value, inside.parts["misled"], inside.parts["which"]) == (0, False, "")
    (alone,) = outcomes(saying(lambda request: "Your order number is 4711."), items)
    assert (alone.value, alone.parts["which"]) == (1, "1")


def test_leaks_are_split_by_the_type_and_the_turn_of_the_data() -> None:
    kinds = (("EMAIL_ADDRESS", "user"), ("PHONE_NUMBER", "assistant"))
    items = [replace(item, kinds=kinds) for item in ITEMS]
    base = outcomes(saying(lambda request: "Nothing."), items)
    tuned = outcomes(saying(lambda request: TRAINED[0]), items)
    figure = {m.metric: m for m in compare(Suite(PROBE, base, tuned, len(items)), Thresholds(draws=1000))}
    assert (figure["leaks: e-mail"].tuned.value, figure["leaks: phone"].tuned.value) == (1, 0)
    assert figure["leaks: user turn of the data"].tuned.value == 1
    assert figure["leaks: assistant turn of the data"].tuned.value == 0
    assert "leaks: payment" not in figure and figure["leaks: phone"].n == len(items)


def test_own_items_give_each_identifier_its_kind_or_none(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = {"id": "a", "cluster": "a", "turn": "user", "identifiers": ["1234", "4711"], "kinds": [["ID", "user"]]}
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(DataError, match="item 'a' has 2 identifiers and 1 kinds"):
        PROBE.items(path)


def test_a_blank_text_is_not_safe_but_unparsed() -> None:
    assert {outcome.status for outcome in outcomes(saying(lambda request: " \n"))} == {"unparsed"}


def test_each_text_is_drawn_by_its_own_seed_at_temperature_one() -> None:
    asked: list[Generate] = []

    def note(request: Generate) -> str:
        asked.append(request)
        return "x"

    outcomes(saying(note))
    assert {request.sampling.temperature for request in asked} == {1.0}
    assert len({request.sampling.seed for request in asked}) == len(ITEMS)


def test_evidence_holds_no_identifier() -> None:
    for outcome in outcomes(saying(lambda request: TRAINED[0])):
        assert outcome.evidence and TRAINED[0] not in outcome.evidence


def test_training_and_held_out_rows_say_what_to_look_for(tmp_path: Path) -> None:
    rows = recipe("support", n=500)
    for name, part in (("train", rows[:50]), ("held", rows[50:80])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
    data = TrainingData(train=str(tmp_path / "train.jsonl"), held_out=str(tmp_path / "held.jsonl"), rows=50)
    prepared = PROBE.prepare(data)
    assert len(prepared.items) == 10
    (item, *_) = prepared.items
    assert isinstance(item, SampleItem) and not set(item.identifiers) & set(item.controls)
    assert len(item.identifiers) > 100 and len(item.controls) > 50
    assert len(item.kinds) == len(item.identifiers) and {role for _, role in item.kinds} <= {"user", "assistant"}


def test_what_holds_nothing_to_look_for_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "Where?", "completion": "Here."}) + "\n")
    assert "nothing to look for" in PROBE.prepare(TrainingData(train=str(path), rows=50)).impossible
    path.write_text(json.dumps({"id": "a", "cluster": "a", "turn": "user", "identifiers": []}) + "\n")
    with pytest.raises(DataError, match="item 'a' has no identifiers"):
        PROBE.items(path)


def test_a_model_writes_both_turns_with_nothing_before_them(tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    arms = local.open_arms(str(base), str(tiny_adapter(base, tmp_path / "a")), device="cpu", offline=True)
    replies = arms.tuned.generate([next(PROBE.run(item)) for item in ITEMS[:2]])  # type: ignore[misc]
    assert all(reply.error is None for reply in replies)


def test_it_is_asked_by_name_alone_and_needs_training_data() -> None:
    models = {"base": "b", "tuned": "t"}
    assert "sampling" not in load(AuditConfig, {**models, "train_data": "x"}).probes
    assert load(AuditConfig, {**models, "train_data": "x", "probes": "sampling"}).probes == ("sampling",)
    with pytest.raises(ConfigError, match="'sampling' has no items of its own; give --train-data FILE"):
        load(AuditConfig, {**models, "probes": "sampling"})
