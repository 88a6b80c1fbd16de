import json
import re
from pathlib import Path

import pytest

from discretion.data import cimemories
from discretion.errors import DataError
from discretion.models.scripted import Scripted
from discretion.probes import personas
from discretion.probes.memory import PROBE
from discretion.progress import Quiet
from discretion.schema import Reply
from discretion.store import ReplyCache

CIMEMORIES = Path(__file__).parents[2] / "shared/data/cimemories/data_two_personas.json"
FACTS = {f"key_{n}": f"value {n}" for n in range(25)} | {"income": "72000", "illness": "asthma"}


def written(path: Path) -> Path:
    profile = {
        "bio": {"name": "Ann Lee", "sex": "F", "address": "1 Way", "age": 42},
        "information_attributes": {
            key: {"value": value, "information_domain": "d", "event": "e", "memory_statement": f"My {key} is {value}."}
            for key, value in FACTS.items()
        },
        "contexts": [{"recipient": "Bank", "task": "Ask for a loan"}, {"recipient": "Spouse", "task": "Say hello"}],
    }
    path.write_text("\ufeff" + json.dumps([profile]), encoding="utf-8")
    return path


def voting(decide):
    """A judge that marks each numbered fact by `decide(prompt, statement)`."""

    def answer(request):
        text = request.messages[0].content
        facts = re.findall(r"^(\d+)\. (.+)$", text, re.MULTILINE)
        return Reply(text="Here: " + json.dumps({number: decide(text, fact) for number, fact in facts}), stop="action")

    return Scripted("judge", answer)


def agreed(text, fact):
    if "to be written to: Bank" not in text:
        return "neither"
    return "Share" if "income" in fact else "private" if "illness" in fact else "neither"


def labelled(tmp_path, model, **options):
    out = tmp_path / "out.labels.jsonl"
    found = personas.label(written(tmp_path / "data.json"), out, model, progress=Quiet(), **options)
    return found, out


def test_what_every_vote_of_every_persona_agrees_on_becomes_a_label_that_the_suite_reads(tmp_path):
    found, out = labelled(tmp_path, voting(agreed), votes=2)
    assert (found.contexts, found.usable, found.disputed, found.unread) == (2, 1, 0, 0)
    assert found.labels == {"share": 1, "private": 1, "neither": 52}
    assert out.stat().st_mode & 0o777 == 0o600
    (item,) = PROBE.items(f"{tmp_path / 'data.json'}::{out}")
    assert {fact.key: fact.label for fact in item.facts if fact.label != "neither"} == {
        "income": "share",
        "illness": "private",
    }


@pytest.mark.parametrize("persona", list(personas.PERSONAS))
def test_one_persona_that_disagrees_leaves_the_attribute_unlabelled(tmp_path, persona):
    def torn(text, fact):
        return "neither" if text.startswith(personas.PERSONAS[persona]) and "illness" in fact else agreed(text, fact)

    found, out = labelled(tmp_path, voting(torn), votes=1)
    assert found.disputed == 1 and found.labels["private"] == 0 and found.usable == 0
    assert "illness" not in [json.loads(line)["attribute"] for line in out.read_text().splitlines()][:27]


@pytest.mark.parametrize("text", ["I would share it all.", "", "<think>hm", '{"1": "perhaps"}', '{"2": "private"}'])
def test_a_vote_that_cannot_be_read_is_no_agreement(tmp_path, text):
    reader = voting(agreed)

    def answer(request):
        spoilt = "My illness" in request.messages[0].content and request.sampling.temperature
        return Reply(text=text) if spoilt else reader.answer(request)

    found, out = labelled(tmp_path, Scripted("judge", answer), votes=2)
    assert found.unread >= 7 and found.usable == 0
    assert not any(json.loads(line)["attribute"] == "illness" for line in out.read_text().splitlines())


def test_a_failed_request_is_no_vote(tmp_path):
    found, _ = labelled(tmp_path, Scripted("judge", lambda request: Reply(error="status 500")), votes=1)
    assert found.unread == 54 and sum(found.labels.values()) == 0


def test_all_votes_are_different_requests_and_tasks_share_what_comes_before_them(tmp_path):
    (profile,) = cimemories.read_profiles(written(tmp_path / "data.json"))
    block = profile.attributes[: personas.BLOCK]
    places = [personas._Place(0, profile, *context) for context in profile.contexts]
    first, second = (personas.requests(place, block, 3) for place in places)
    assert len(set(first)) == 9 and [r.sampling.temperature for r in first[:3]] == [0.0, 1.0, 1.0]
    a, b = first[0].messages[0].content, second[0].messages[0].content
    shared = next(n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y)
    assert a[:shared].endswith("to be written to: ") and f"{personas.BLOCK}. My key_19" in a[:shared]
    assert all(request.to == "judge" for request in first)


def test_votes_that_were_kept_are_not_asked_again_and_a_file_is_not_overwritten(tmp_path):
    cache = ReplyCache(tmp_path / "replies.sqlite", "1")
    first, out = labelled(tmp_path, voting(agreed), votes=2, cache=cache)
    with pytest.raises(DataError, match="there is a file already; name a new one"):
        labelled(tmp_path, voting(agreed), votes=2, cache=cache)
    kept = out.read_text()
    out.unlink()

    def never(request):
        raise AssertionError("asked again")

    again, _ = labelled(tmp_path, Scripted("judge", never), votes=2, cache=cache)
    cache.close()
    assert again == first and out.read_text() == kept


def test_a_subset_is_drawn_with_the_seed(tmp_path):
    found, out = labelled(tmp_path, voting(agreed), votes=1, limit=1)
    assert found.contexts == 1 and len({json.loads(line)["recipient"] for line in out.read_text().splitlines()}) == 1


@pytest.mark.skipif(not CIMEMORIES.exists(), reason="the optional CIMemories slice is absent")
def test_labels_of_the_public_personas_are_read_by_the_suite(tmp_path):
    def decide(text, fact):
        number = sum(map(ord, fact)) % 3
        return ("share", "private", "neither")[number]

    out = tmp_path / "l.jsonl"
    found = personas.label(CIMEMORIES, out, voting(decide), votes=1, limit=4, progress=Quiet())
    assert found.contexts == found.usable == 4 and found.disputed == found.unread == 0
    assert len(PROBE.items(f"{CIMEMORIES}::{out}")) == 4


def test_the_command_line_writes_labels_and_refuses_rules(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from discretion.cli import app
    from discretion.models import judge

    monkeypatch.setattr(judge, "open_judge", lambda config, progress: voting(agreed))
    data, out = written(tmp_path / "data.json"), tmp_path / "l.jsonl"
    words = ["judge", "label", "--data", str(data), "--out", str(out), "--cache", str(tmp_path / "c.sqlite"), "--quiet"]
    done = CliRunner().invoke(app, [*words, "--judge", "m", "--ballots", "1", "--json"])
    assert done.exit_code == 0 and json.loads(done.stdout)["usable"] == 1 and len(out.read_text().splitlines()) == 54
    monkeypatch.setattr(judge, "open_judge", lambda config, progress: None)
    refused = CliRunner().invoke(app, words)
    assert "rules play no persona; name a model: --judge MODEL" in str(refused.exception)
