"""Masking: what identifies is masked whatever its disguise, ordinary text stays readable."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discretion.report.masking import Masker, shorten_home, shown, visible


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("write to anna.k@example.org now", "write to ⟨e-mail 1⟩ now"),
        ("write to anna [at] example [dot] org", "write to ⟨e-mail 1⟩"),
        ("see https://x.example.com/a?b=c", "see ⟨link 1⟩"),
        ("see clinic.example.com today", "see ⟨link 1⟩ today"),
        ("call +48 601-234-567.", "call ⟨phone number 1⟩."),
        ("call (212) 555-0147", "call ⟨phone number 1⟩"),
        ("card 4111 1111 1111 1111", "card ⟨card number 1⟩"),
        ("to DE89 3704 0044 0532 0130 00", "to ⟨bank account 1⟩"),
        ("from 192.168.10.4 and 2001:db8::1", "from ⟨network address 1⟩ and ⟨network address 2⟩"),
        ("born on 3 March 2024", "born on ⟨date 1⟩"),
        ("born May 5, 1987 or 1987-05-05 or 5/5/87", "born ⟨date 1⟩ or ⟨date 2⟩ or ⟨date 3⟩"),
        ("earns $84,500 or 85k or 84 500 euros", "earns ⟨amount 1⟩ or ⟨amount 2⟩ or ⟨amount 3⟩"),
        ("at 12 Willow Lane,", "at ⟨address 1⟩,"),
        ("in der Hauptstraße 12", "in der ⟨address 1⟩"),
        ("record MRN-20417 and AB12CD", "record ⟨record id 1⟩ and ⟨record id 2⟩"),
        ("the code is 4821", "the code is ⟨number 1⟩"),
        ("policy 99887", "policy ⟨number 1⟩"),
        ("file /home/anna/notes.txt", "file ⟨path 1⟩"),
        ("ask @anna_k", "ask ⟨handle 1⟩"),
        ("Dear Dr. Maria de la Cruz, thank you", "Dear Dr. ⟨full name 1⟩, thank you"),
        ("I met J. R. Smith and O'Brien-Ortiz", "I met ⟨full name 1⟩ and ⟨name 1⟩"),
        ("by JOHN SMITH", "by ⟨full name 1⟩"),
        ("von 李小龙 gesagt", "von ⟨name 1⟩ gesagt"),
        ("Анна Иванова said", "⟨full name 1⟩ said"),
    ],
)
def test_what_identifies_is_masked_with_its_kind(text: str, masked: str) -> None:
    assert Masker()(text) == masked


@pytest.mark.parametrize(
    "text",
    [
        "I can't share that. Please ask the hospital.",
        "Unfortunately, the patient did not consent.",
        "appropriate by +0.53 nats",
        "Yes. At 14:30, about 80 % of the 12 people agreed.",
        '{"to": "", "body": "The meeting is on Monday."}',
    ],
)
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert Masker([text])(text) == text


@pytest.mark.parametrize(
    "disguised",
    [
        "anna\u200b.k@exam\u200bple.org",
        "ａｎｎａ．ｋ＠ｅｘａｍｐｌｅ．ｏｒｇ",
        "anna.k\u2060@example.org",
        "ANNA.K@EXAMPLE.ORG",
    ],
)
def test_hidden_characters_and_other_forms_hide_no_identifier(disguised: str) -> None:
    mask = Masker()
    assert mask("anna.k@example.org") == mask(disguised) == "⟨e-mail 1⟩"


def test_the_same_value_keeps_its_number_and_another_gets_the_next() -> None:
    mask = Masker()
    assert mask("Anna Kowalska wrote to Jan Nowak") == "⟨full name 1⟩ wrote to ⟨full name 2⟩"
    assert mask("then Jan  Nowak answered Eva") == "then ⟨full name 2⟩ answered ⟨name 1⟩"


def test_a_name_seen_with_a_capital_is_masked_in_small_letters_elsewhere() -> None:
    texts = ["we told Anna Kowalska", "anna kowalska was told"]
    assert Masker(texts)(texts[1]) == "⟨name 1⟩ ⟨name 2⟩ was told"
    assert Masker()(texts[1]) == texts[1]


def test_a_name_that_is_a_word_does_not_blacken_the_word() -> None:
    texts = ["we told Will Price", "it will cost the price of two"]
    assert Masker(texts)(texts[0]) == "we told ⟨full name 1⟩"
    assert Masker(texts)(texts[1]) == texts[1]


def test_item_ids_are_shown_only_when_they_cannot_name_anybody() -> None:
    mask = Masker()
    for plain in ("norms-0012", "cimemories/3/2", "agentic:12", "privacylens 7 seed"):
        assert mask.item(plain) == plain
    assert mask.item("main3:jonas-weber") == "⟨item 1⟩"
    assert mask.item("case 601234567") == "⟨item 2⟩"
    assert mask.item("main3:jonas-weber") == "⟨item 1⟩"


def test_what_cannot_be_seen_is_written_out() -> None:
    assert visible("a\u202eb\u200bc\x00d\ufeff") == "a⟨U+202E⟩b⟨U+200B⟩c⟨U+0000⟩d⟨U+FEFF⟩"
    assert visible("line\nnext\ttab é 漢 👍🏽") == "line\nnext\ttab é 漢 👍🏽"


def test_marks_are_told_apart_from_the_text() -> None:
    assert [piece.mark for piece in Masker().pieces("to a@b.org \u202e")] == [False, True, False, True]


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("/home/anna/models/x", "~/models/x"),
        ("/Users/anna/x", "~/x"),
        ("/root/models", "~/models"),
        (r"C:\Users\anna\x", r"~\x"),
        ("agentic=/home/anna/f.json", "agentic=~/f.json"),
        ("meta/root-cause", "meta/root-cause"),
    ],
)
def test_home_folders_lose_their_owners_name(path: str, short: str) -> None:
    assert shorten_home(path) == short


@given(st.text())
def test_whatever_is_masked_no_hidden_character_is_left_and_nothing_is_made_up(text: str) -> None:
    masked = Masker([text]).pieces(text)
    assert visible("".join(p.text for p in masked)) == "".join(p.text for p in masked)
    left = [p.text for p in masked if not p.mark]
    assert all(part in text for part in left)


@given(st.text())
def test_text_that_is_not_masked_comes_out_whole(text: str) -> None:
    assert "".join(p.text for p in shown(text) if not p.mark) == "".join(c for c in text if visible(c) == c)


def test_labelled_identifiers_of_a_public_file_are_masked(shared_data: Path) -> None:
    rows = json.loads((shared_data / "presidio_research" / "generated_small.json").read_text(encoding="utf-8"))
    asked: Counter[str] = Counter()
    masked: Counter[str] = Counter()
    for row in rows:
        left = "\0".join(p.text for p in Masker([row["full_text"]]).pieces(row["full_text"]) if not p.mark)
        for span in row["spans"]:
            asked[span["entity_type"]] += 1
            masked[span["entity_type"]] += span["entity_value"] not in left
    patterned = {"CREDIT_CARD", "DATE_TIME", "DOMAIN_NAME", "EMAIL_ADDRESS", "IP_ADDRESS", "PHONE_NUMBER", "US_SSN"}
    assert {kind for kind in patterned if masked[kind] < asked[kind]} == set()
    # What is missed of names is written in small letters throughout.
    assert masked["PERSON"] >= 50 and asked["PERSON"] == 55
