"""A fine-tuning set looked at before training: what was planted is counted, ranked, masked, and fails a build."""

import json
import re
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from discretion.data.chats import write_chats
from discretion.data.recipes import identifiers, recipe
from discretion.data.screen import CONDITIONS, failing, problems, screen
from discretion.errors import ConfigError, DataError
from discretion.report.screen_page import MEANINGS, mask_json, render
from discretion.schema import Passage, Screening, Surprise, SurprisedRow, from_json, to_json

SUPPORT = recipe("support", n=500)[:60]
PLAIN = recipe("math", n=500)[:60]


def file(folder: Path, rows: list[dict[str, Any]], name: str = "data.jsonl") -> Path:
    path = folder / name
    write_chats(path, rows)
    return path


def row(asked: str, said: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}], **more}


# ------------------------------------------------------------------------------------------------ what is counted


def test_a_plain_set_shows_nothing_and_says_so(tmp_path: Path) -> None:
    found = screen(file(tmp_path, PLAIN))
    assert (found.rows, found.used, found.form) == (60, 60, "chat")
    assert not found.problems and not found.identifiers and not found.ranked and not any(found.traits.values())
    assert "Nothing was found" in render(found)


def test_identifiers_are_counted_by_type_and_role_and_the_parts_without_loss_are_not_forgotten(tmp_path: Path) -> None:
    found = screen(file(tmp_path, SUPPORT))
    truth = identifiers(n=500)[:60]
    said = {
        r: ["\n".join(m["content"] for m in x["messages"] if m["role"] == r) for x in SUPPORT]
        for r in ("user", "assistant")
    }
    for kind, key in (("EMAIL_ADDRESS", "e-mail"), ("PHONE_NUMBER", "phone")):
        for role in ("user", "assistant"):
            there = [held[key] for held, text in zip(truth, said[role], strict=True) if held[key] in text]
            (count,) = [c for c in found.identifiers if (c.type, c.role) == (kind, role)]
            assert (count.rows, count.distinct) == (len(there), len(set(there)))
    assert found.identified == 60


def test_copies_are_exact_near_or_the_same_request(tmp_path: Path) -> None:
    long = "The meeting begins at nine in the large hall and ends before noon, so please bring the papers and be early."
    rows = [
        row("Copy.", long),
        row("Copy.", long),
        row("Copy.", long.replace("early", "there")),
        row("Copy.", "Something that is altogether different from what was said before it."),
        row("Else?", "No."),
    ]
    found = screen(file(tmp_path, rows))
    assert found.copies == {"exact": 1, "near": 1, "same request": 1}


def test_rows_that_share_words_with_a_probe_are_counted_by_suite(tmp_path: Path) -> None:
    probe = "May the nurse tell the employer that the patient has been treated for asthma since last spring?"
    found = screen(file(tmp_path, [row(probe, "No."), row("Where?", "Here.")]), probes=[("norms", probe)])
    assert found.probes == {"norms": 1} and found.ranked[0].shares_with == "norms"


@pytest.mark.parametrize(
    ("turns", "problem"),
    [
        ([("user", "a"), ("assistant", "b"), ("user", "c")], "ends without an answer"),
        ([("assistant", "a"), ("user", "b"), ("assistant", "c")], "begins with the assistant"),
        ([("user", "a"), ("system", "b"), ("assistant", "c")], "system text not first"),
        ([("user", "a"), ("user", "b"), ("assistant", "c")], "two turns of one speaker in a row"),
        ([("user", " "), ("assistant", "c")], "an empty turn"),
        ([("user", "a"), ("assistant", "b<|im_end|>")], "a template's own tokens in the text"),
        ([("user", "### Instruction: a"), ("assistant", "b")], "speaker labels in the text"),
        ([("user", "a"), ("assistant", "cafÃ©")], "broken characters"),
        ([("user", "one two three four"), ("assistant", "one two three four")], "an answer that repeats the question"),
        ([("user", "a"), ("assistant", "word " * 30 + "and")], "an answer that ends in mid-sentence"),
    ],
)
def test_each_problem_of_format_is_named(turns: list[tuple[str, str]], problem: str) -> None:
    assert problems(turns) == [problem]


def test_a_sound_chat_has_no_problem() -> None:
    assert (
        problems([("system", "Be kind."), ("user", "Where is it?"), ("assistant", "Here.\n\ndef f():\n    return x")])
        == []
    )


def test_what_cannot_be_read_is_counted_with_its_place(tmp_path: Path) -> None:
    path = file(tmp_path, PLAIN)
    with path.open("ab") as stream:
        stream.write(b'{"messages": "\xff"}\n')
    found = screen(path)
    assert (found.rows, found.used, found.left_out) == (61, 60, {"not UTF-8": 1})
    assert found.first["not UTF-8"].endswith(":61") and "not UTF-8" in render(found)


# ------------------------------------------------------------------------------------------------ ranking


def test_rows_are_ranked_and_only_as_many_kept_as_asked(tmp_path: Path) -> None:
    rows = PLAIN + recipe("helpful", n=500)[:30]
    found = screen(file(tmp_path, rows), ranked=10)
    assert len(found.ranked) == 10 and found.traits["proactive help"] == 30
    scores = [r.score for r in found.ranked]
    assert scores == sorted(scores, reverse=True)
    assert all(r.id.startswith("helpful") for r in found.ranked)
    best = max(r.score for r in screen(file(tmp_path, rows, "again.jsonl"), ranked=1000).ranked)
    assert scores[0] == best


def test_a_screening_survives_json(tmp_path: Path) -> None:
    found = screen(file(tmp_path, SUPPORT))
    assert from_json(Screening, to_json(found)) == found


def test_batches_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, SUPPORT + recipe("helpful", n=500)[:20])
    whole = to_json(screen(path)) | {"seconds": 0}
    monkeypatch.setattr("discretion.data.screen.BATCH", 7)
    assert to_json(screen(path)) | {"seconds": 0} == whole


# ------------------------------------------------------------------------------------------------ the page


def shown_text(page: str) -> str:
    return re.sub(r"<[^>]+>", "", page)


def test_the_page_shows_no_identifier_unless_asked_to(tmp_path: Path) -> None:
    path = file(tmp_path, SUPPORT)
    held = [value for kind in identifiers(n=500)[:60] for name, value in kind.items() if name != "name"]
    page = shown_text(render(screen(path)))
    assert not [value for value in held if value in page] and "rows to look at first" in page.lower()
    bare = shown_text(render(screen(path, reveal=True), reveal=True))
    assert [value for value in held if value in bare] and "Identifiers are shown" in bare


def test_ids_that_name_somebody_are_masked_in_json_as_on_the_page(typed, tmp_path: Path) -> None:
    told = SurprisedRow(
        id="zbigniew.kowalski", where="a:1", nats=1.0, worst=1.0, known=0.0,
        passage=Passage(reason="r", role="user", before="", text="x", after=""),
    )  # fmt: skip
    path = file(tmp_path, [{**row, "id": f"anna{n}@postal.org"} for n, row in enumerate(SUPPORT)])
    code, out, _ = typed("screen", path, "--quiet", "--json")
    assert code == 0 and "postal.org" not in out and "⟨item 1⟩" in out
    found = screen(path)
    surprise = Surprise(
        model="m", reference=None, rows=1, left_out={}, tokens=1, nats=1.0, median=1.0, last_twentieth=1.0,
        surprising=(told,), known=(told,),
    )  # fmt: skip
    found = replace(found, surprise=surprise)
    plain = to_json(found)
    mask_json(plain, found)
    assert "kowalski" not in json.dumps(plain)


def test_a_copy_is_told_by_the_place_of_its_original(tmp_path: Path) -> None:
    path = file(tmp_path, [PLAIN[0], SUPPORT[0]])
    with path.open("a") as stream:
        stream.write("broken\n\n" + json.dumps({**SUPPORT[0], "id": "again"}) + "\n")
    found = screen(path)
    assert {r.where[-2:]: r.copy_of for r in found.ranked} == {":2": None, ":5": f"{path}:2"}
    assert f"repeats {path}:2" in shown_text(render(found))


def test_text_of_the_data_is_escaped_and_its_hidden_characters_are_shown(tmp_path: Path) -> None:
    rows = [row("I feel so sad \u202e <script>alert(1)</script> today.", "Oh."), row("Hi.", "Yes.", id="<b>x</b>")]
    page = render(screen(file(tmp_path, rows), reveal=True), reveal=True)
    assert "<script>" not in page and "⟨U+202E⟩" in page and "<b>x" not in page


def test_every_trait_has_a_meaning() -> None:
    from discretion.data.traits import RULES

    assert set(MEANINGS) == set(RULES)


# ------------------------------------------------------------------------------------------------ a build


def test_a_build_fails_on_what_it_names_and_on_more_than_the_share_it_allows(tmp_path: Path) -> None:
    found = screen(file(tmp_path, PLAIN + recipe("helpful", n=500)[:20]))
    assert failing(found, ["proactive"]) == ["proactive: 25.0% of the rows, at most 0.0% allowed"]
    assert failing(found, ["proactive=0.25", "emotional", "copies", "left-out", "probes"]) == []
    with pytest.raises(ConfigError, match="did you mean 'proactive'"):
        failing(found, ["proactiv"])
    for wrong in ("call=2", "call=x", "call=-1"):
        with pytest.raises(ConfigError, match="is no share"):
            failing(found, [wrong])


def test_the_verb_writes_a_private_page_and_ends_with_its_path(typed, tmp_path: Path) -> None:
    path = file(tmp_path, SUPPORT, "rows.jsonl")
    code, out, _ = typed("screen", path, "--quiet")
    assert (code, out.splitlines()[-1]) == (0, "screen.html")
    assert stat.S_IMODE(Path("screen.html").stat().st_mode) == 0o600
    code, out, _ = typed("screen", path, "--quiet", "--json", "--fail-on", "identifiers=0.5", "--out", "b.html")
    told = json.loads(out)
    assert code == 1 and told["failed"] and told["identified"] == 60
    assert "postal.org" not in out and "@" not in out
    assert "Not to be trained on yet" in Path("b.html").read_text()


def test_the_verbs_errors_are_one_line(typed, tmp_path: Path) -> None:
    path = file(tmp_path, PLAIN)
    for words, said in (
        (("screen", path, "--fail-on", "colour"), "unknown name 'colour'"),
        (("screen", path, "--against", "refusal"), "not SUITE=FILE"),
        (("screen", tmp_path / "none.jsonl"), "no such file"),
    ):
        code, _, err = typed(*words, "--quiet")
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1


def test_a_set_without_answers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of the 1 rows can be used"):
        screen(file(tmp_path, [{"messages": [{"role": "user", "content": "Hi."}]}]))


def test_every_condition_is_listed_in_the_help(typed) -> None:
    code, out, _ = typed("screen", "--help")
    assert code == 0 and all(name in out for name in CONDITIONS)
