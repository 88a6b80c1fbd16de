"""The synthetic world: its norms, its split, its items, and what it says about a bad world file."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest

from discretion.errors import DataError
from discretion.probes import probe
from discretion.probes.base import validate
from discretion.schema import AgentItem, CapabilityItem, FlowItem, Item, MemoryItem, RefusalItem
from discretion.world import flows, harm
from discretion.world.embedded import SIZES, embedded, make_items
from discretion.world.norms import PRINCIPLES, load_world, read_world
from discretion.world.phrases import expand, fill, split_of

WORLD = load_world()
SOURCE = Path(flows.__file__).parent / "world.yaml"


# ------------------------------------------------------------------------------------------------ norms


@pytest.mark.parametrize(
    ("kind", "role", "principle", "verdict"),
    [
        ("health", "doctor", "none", "allowed"),
        ("health", "journalist", "none", "forbidden"),
        ("education", "doctor", "none", "neither"),
        ("health", "journalist", "consent", "allowed"),
        ("health", "doctor", "confidence", "forbidden"),
        ("finance", "doctor", "need to know", "allowed"),
        ("finance", "courier", "need to know", "forbidden"),
        ("legal", "courier", "public record", "allowed"),
        ("health", "courier", "public record", "forbidden"),
        ("work", "courier", "need to know", "neither"),
    ],
)
def test_table_and_principles_decide(kind, role, principle, verdict):
    assert WORLD.judge(kind, role, principle) == verdict


def test_the_world_is_as_large_as_it_says():
    assert len(WORLD.types) >= 7
    assert all(len(attributes) >= 6 for attributes in WORLD.types.values())
    assert len(WORLD.recipients) >= 18
    acts = [
        act for act in WORLD.language if act.startswith(("principle", "fact p", "fact n", "fact m", "story", "agent i"))
    ]
    for act in acts:
        if act != "fact message":
            assert sum(len(expand(template)) for template in WORLD.language[act]) >= 8, act


def test_the_documented_tables_are_those_of_the_world():
    page = (Path(__file__).parents[1] / "docs" / "world.md").read_text(encoding="utf-8")
    made = subprocess.run([sys.executable, "-m", "discretion.world"], capture_output=True, text=True, check=True).stdout
    assert page.split("<!-- tables -->\n")[1].split("<!-- /tables -->")[0] == made


# ------------------------------------------------------------------------------------------------ items


def test_items_are_the_same_every_time_and_a_smaller_n_is_a_prefix():
    for suite, size in SIZES.items():
        items = embedded(suite)
        assert len(items) == size
        assert embedded(suite, n=7) == items[:7]
        assert embedded(suite, seed=1, n=7) != items[:7]
        assert len({item.id for item in items}) == size


def test_all_items_together_take_less_than_a_second():
    best = min(_seconds() for _ in range(3))
    assert best < 1.5


def _seconds() -> float:
    began = time.process_time()
    for suite in SIZES:
        embedded(suite)
    return time.process_time() - began


@pytest.mark.parametrize("suite", SIZES)
def test_every_scorer_is_proven_on_the_embedded_items(suite):
    assert validate(probe(suite), embedded(suite)) == []


def test_every_forbidden_flow_has_an_allowed_mirror_that_differs_in_one_field():
    items = embedded("norms")
    by_id = {item.id: item for item in items}
    fields = ("sender", "recipient", "subject", "attribute", "principle", "channel", "story")
    mirrored = set()
    for item in items:
        if item.mirror_of is not None:
            other = by_id[item.mirror_of]
            assert item.allowed and not other.allowed and item.cluster == other.cluster
            assert sum(getattr(item, f) != getattr(other, f) for f in fields) == 1
            mirrored.add(other.id)
    assert mirrored == {item.id for item in items if not item.allowed}


def test_what_an_item_says_is_allowed_is_what_the_norms_say():
    clause_of = {p: list(WORLD.language.get(f"principle {p}", ())) for p in PRINCIPLES}
    for item in embedded("norms"):
        kind = WORLD.type_of(item.attribute.partition(" (")[0])
        role = item.recipient.partition(", ")[2].split(" ", 1)[1]
        said = {
            p
            for p, templates in clause_of.items()
            if item.principle in {fill(x, {"S": item.subject}) for t in templates for x in expand(t)}
        }
        (principle,) = said or {"none"}
        assert bool(item.principle) == (principle != "none")
        assert WORLD.judge(kind, role, principle) == ("allowed" if item.allowed else "forbidden")


def test_an_agent_needs_what_is_allowed_and_keeps_what_is_forbidden():
    for item in embedded("agentic"):
        role = next(r for r in sorted(WORLD.recipients, key=len, reverse=True) if r in item.instruction)
        assert {WORLD.judge(WORLD.type_of(f.name), role) for f in item.needed} == {"allowed"}
        assert {WORLD.judge(WORLD.type_of(f.name), role) for f in item.secrets} == {"forbidden"}
        assert all(f.value in item.trajectory for f in (*item.needed, *item.secrets))


def test_a_memory_is_labelled_by_the_norms():
    words = {"allowed": "share", "forbidden": "private", "neither": "neither"}
    for item in embedded("memory"):
        for fact in item.facts:
            assert fact.label == words[WORLD.judge(WORLD.type_of(fact.key), item.recipient.lower())]
            assert fact.value in fact.statement
        assert {"share", "private"} <= {fact.label for fact in item.facts}


def test_an_unknown_suite_and_an_empty_set_are_refused():
    with pytest.raises(DataError, match=r"'norm'.*did you mean 'norms'"):
        embedded("norm")
    with pytest.raises(DataError, match="n is 0"):
        embedded("norms", n=0)


# ------------------------------------------------------------------------------------------------ the split


def material(items: list[Item]) -> dict[str, set[str]]:
    """Names, values, prompts and flows that occur in items."""
    found: dict[str, set[str]] = {"names": set(), "values": set(), "texts": set(), "flows": set()}
    for item in items:
        match item:
            case FlowItem():
                (sender, holder), (recipient, role) = item.sender.split(", "), item.recipient.split(", ")
                found["names"] |= {word for name in (sender, recipient, item.subject) for word in name.split()}
                found["texts"].add(item.story or item.id)
                clause = item.principle.replace(item.subject, "{S}")
                principle = next(
                    (
                        p
                        for p in PRINCIPLES
                        if any(clause in expand(t) for t in WORLD.language.get(f"principle {p}", ()))
                    ),
                    "none",
                )
                attribute = item.attribute.partition(" (")[0]
                found["flows"].add(f"{holder.split(' ', 1)[1]}|{role.split(' ', 1)[1]}|{attribute}|{principle}")
            case AgentItem():
                found["names"] |= set(item.user.split())
                found["values"] |= {fact.value for fact in (*item.secrets, *item.needed)}
                found["texts"].add(item.trajectory)
            case MemoryItem():
                found["values"] |= {fact.value for fact in item.facts}
                found["texts"].add("\n".join(fact.statement for fact in item.facts))
            case CapabilityItem():
                found["texts"].add(item.context or item.question)
            case RefusalItem():
                found["texts"].add(item.prompt)
    return found


def shared(first: list[Item], second: list[Item]) -> dict[str, set[str]]:
    one, other = material(first), material(second)
    return {kind: one[kind] & other[kind] for kind in one}


def _sample(split, seed: int, n: int = 1200) -> list[Item]:
    return [item for suite in SIZES for item in make_items(WORLD, suite, split, seed=seed, n=n)]


def test_nothing_of_the_probes_occurs_in_training():
    for kind, both in shared(_sample("train", 5), _sample("probe", 0)).items():
        assert both == set(), kind


def test_the_check_of_the_split_can_fail():
    for kind, both in shared(_sample("train", 5), _sample("train", 6)).items():
        assert both, kind


def test_phrasings_of_the_probes_are_not_those_of_training(monkeypatch):
    used: dict[str, set[str]] = {"train": set(), "probe": set()}

    def note(rng, split, key, templates, inner=flows.frame):
        pattern = inner(rng, split, key, templates)
        used[split].add(key + pattern)
        return pattern

    monkeypatch.setattr(flows, "frame", note)
    monkeypatch.setattr(harm, "frame", note)
    for split in ("train", "probe"):
        for suite in SIZES:
            make_items(WORLD, suite, split, n=600)
    assert len(used["probe"]) > 60
    assert used["train"].isdisjoint(used["probe"])


def test_each_cell_of_the_norm_table_has_flows_in_training():
    for kind, attributes in WORLD.types.items():
        for role in WORLD.recipients:
            for principle in PRINCIPLES:
                cell = (flows.Flow(h, role, a, principle) for h in WORLD.holders[kind] for a in attributes)
                assert any(flow.split == "train" for flow in cell), (kind, role, principle)


def test_training_draws_flows_from_nearly_all_cells():
    def cells(items):
        for flow in material(items)["flows"]:
            _, role, attribute, principle = flow.split("|")
            yield WORLD.type_of(attribute), role, principle

    seen, probed = set(cells(make_items(WORLD, "norms", "train", n=8000))), set(cells(embedded("norms")))
    assert len(probed - seen) < 0.03 * len(probed)


def test_one_fifth_is_held_out():
    share = sum(split_of(str(n)) == "probe" for n in range(5000)) / 5000
    assert 0.18 < share < 0.22


# ------------------------------------------------------------------------------------------------ bad files


def _changed(tmp_path: Path, old: str, new: str) -> Path:
    text = SOURCE.read_text(encoding="utf-8")
    assert old in text
    path = tmp_path / "world.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        (
            "allowed: [health, contact], forbidden: [finance",
            "allowed: [health], forbidden: [health",
            "impossible norm.*'health' to 'doctor'",
        ),
        (
            "allowed: [health, contact]",
            "allowed: [helth, contact]",
            "'doctor' names the unknown type 'helth'.*'health'",
        ),
        ("name: Lucia Marando", "name: Odo Winterfeld", "person 'Odo Winterfeld' stands there twice"),
        ("Ada Adrian", "Ada Ada Adrian", "first name 'Ada' stands there twice"),
        ("town: Halvora", "town: Halvara", "unknown town.*'Halvora'"),
        ("public_types: [legal", "public_types: [leagl", "unknown type 'leagl'.*'legal'"),
        ("  landlord:\n    {duty", "  landlord:\n    {dutty", "unknown key 'dutty'.*'duty'"),
        ("public_types:", "publik_types:", "unknown key 'publik_types'"),
        ("types:\n", "types: {\n", "not valid YAML"),
        ("  pharmacist:\n", "  doctor:\n", "the key 'doctor' is there twice"),
        ("{duty: true, allowed: [health, contact]", "{allowed: [health, contact]", "'doctor' has no duty"),
        ("purposes: [fill the prescription, check the order, prepare the medicine]", "purposes: []", "no purposes"),
        (", town: Halvora", "", "unknown town"),
    ],
)
def test_a_bad_world_file_is_refused_by_name(tmp_path, old, new, named):
    with pytest.raises(DataError, match=named):
        read_world(_changed(tmp_path, old, new))


def test_a_type_that_nobody_may_learn_is_an_impossible_norm(tmp_path):
    text = SOURCE.read_text(encoding="utf-8").replace("allowed: [legal, finance]", "allowed: [finance]")
    text = text.replace("allowed: [legal, identity]", "allowed: [identity]")
    path = tmp_path / "world.yaml"
    path.write_text(text.replace("allowed: [identity, legal]", "allowed: [identity]"), encoding="utf-8")
    with pytest.raises(DataError, match="impossible norm: 'legal' is allowed to nobody"):
        read_world(path)


def test_a_missing_world_file_and_an_act_without_variety_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        read_world(tmp_path / "none.yaml")
    spoken = tmp_path / "language.yaml"
    spoken.write_text("lone act: ['[only one] way']\n")
    with pytest.raises(DataError, match="'lone act' has no phrasing to hold out"):
        read_world(SOURCE, spoken)


def test_unknown_words_in_a_judgement_are_named():
    with pytest.raises(DataError, match=r"unknown type 'helth'.*'health'"):
        WORLD.judge("helth", "doctor")
    with pytest.raises(DataError, match=r"unknown recipient 'docter'.*'doctor'"):
        WORLD.judge("health", "docter")
    with pytest.raises(DataError, match="unknown principle"):
        WORLD.judge("health", "doctor", "consnt")


def test_a_slot_that_nobody_fills_is_named():
    with pytest.raises(DataError, match="slot 'x'"):
        fill("{x}", {})


def test_a_mirror_never_equals_its_flow():
    rng = Random(3)
    for _ in range(50):
        flow = flows.draw_flow(rng, WORLD, "train", "forbidden")
        for field in ("principle", "role", "attribute"):
            for mirror in flows.mirrors(WORLD, flow, field):
                changed = [f.name for f in dataclasses.fields(flow) if getattr(flow, f.name) != getattr(mirror, f.name)]
                assert changed == [field] and mirror.verdict(WORLD) == "allowed"
