"""Identifiers: what is found, what is not, and how the detector is measured against labelled files."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discretion import cli
from discretion.data import checksums
from discretion.data.labels import Labelled, agree, check, read
from discretion.data.pii import Given, Span, find, find_many
from discretion.errors import DataError

DATA = Path(__file__).parents[2] / "shared" / "data"


def found(text: str, known: Given | None = None) -> list[tuple[str, str]]:
    return [(span.type, text[span.start : span.end]) for span in find(text, known or Given())]


TRUE = [
    ("Write to anna.k+box@mail.example.org today", "EMAIL_ADDRESS", "anna.k+box@mail.example.org"),
    ("see https://www.example.com/a?b=1.", "URL", "https://www.example.com/a?b=1"),
    ("our site is shop.example.com.", "URL", "shop.example.com"),
    ("from 203.0.113.7 it came", "IP_ADDRESS", "203.0.113.7"),
    ("host 2001:db8::17 is down", "IP_ADDRESS", "2001:db8::17"),
    ("card 00:1b:44:11:3a:b7 here", "MAC_ADDRESS", "00:1b:44:11:3a:b7"),
    ("id 123e4567-e89b-12d3-a456-426614174000 ok", "UUID", "123e4567-e89b-12d3-a456-426614174000"),
    ("pay with 4111 1111 1111 1111 12/27 please", "CREDIT_CARD", "4111 1111 1111 1111"),
    ("pay with 378282246310005.", "CREDIT_CARD", "378282246310005"),
    ("to DE89 3704 0044 0532 0130 00 by Friday", "IBAN_CODE", "DE89 3704 0044 0532 0130 00"),
    ("to gb82west12345698765432 now", "IBAN_CODE", "gb82west12345698765432"),
    ("SSN 536-22-8726", "US_SSN", "536-22-8726"),
    ("ITIN 912-70-1234", "US_ITIN", "912-70-1234"),
    ("NHS number 943 476 5919", "UK_NHS", "943 476 5919"),
    ("insured as AB 12 34 56 C since", "UK_NINO", "AB 12 34 56 C"),
    ("NIF 12345678Z here", "ES_NIF", "12345678Z"),
    ("AHV 756.9217.0769.85", "CH_AHV", "756.9217.0769.85"),
    ("PESEL: 44051401359", "PL_PESEL", "44051401359"),
    ("Aadhaar 2341 2341 2346", "IN_AADHAAR", "2341 2341 2346"),
    ("licence BB1388568 expired", "MEDICAL_LICENSE", "BB1388568"),
    ("passport 963584728", "US_PASSPORT", "963584728"),
    ("call me at (415) 555-0132 x17 now", "PHONE_NUMBER", "(415) 555-0132 x17"),
    ("+44 20 7946 0018", "PHONE_NUMBER", "+44 20 7946 0018"),
    ("phone: 5550132", "PHONE_NUMBER", "5550132"),
    ("born on 12/27/1986 in", "DATE_TIME", "12/27/1986"),
    ("born on 3rd of March 1975 in", "DATE_TIME", "3rd of March 1975"),
    ("on 1998-06-28 14:48:14 she", "DATE_TIME", "1998-06-28 14:48:14"),
    ("since May 5, 2011 he", "DATE_TIME", "May 5, 2011"),
    ("she lives at 12 Old Mill Road, Apt 4 now", "LOCATION", "12 Old Mill Road, Apt 4"),
    ("er wohnt in der Lindenstraße 14", "LOCATION", "Lindenstraße 14"),
    ("post to SW1A 1AA please", "LOCATION", "SW1A 1AA"),
    ("your booking reference is KX4-99213.", "ID", "KX4-99213"),
    ("application no. 18403/91 was", "ID", "18403/91"),
    ("Order #4471902 is late", "ID", "4471902"),
    ("as Mrs Anna van der Berg said", "PERSON", "Anna van der Berg"),
    ("Dear Priya,\nthank you", "PERSON", "Priya"),
    ("Kind regards,\nJosé O'Neill\nSales", "PERSON", "José O'Neill"),
    ("From: Li Wei\nTo: the team", "PERSON", "Li Wei"),
    ("Hello, my name is Tomasz Kowalczyk and", "PERSON", "Tomasz Kowalczyk"),
]


@pytest.mark.parametrize(("text", "kind", "value"), TRUE, ids=[f"{kind}-{n}" for n, (_, kind, _) in enumerate(TRUE)])
def test_an_identifier_is_found_whole_and_alone(text, kind, value):
    assert (kind, value) in found(text)
    assert [other for other in found(text) if other[0] == kind] == [(kind, value)]


FALSE = [
    "Upgrade from version 10.0.19041.1234 to v2.4.19 or release 1.12.103.7.",
    "The book is ISBN 978-3-16-148410-0, also as 9780306406157.",
    "Trace 1234567890123456 and span 00000000000000000042 were dropped.",
    "We sold 1 250 000 000 units, 3,141,592 more than in 2023, up 12.5%.",
    "Between 1998-2003 and 2010-2014 the rate was 3.14159265.",
    "Chapter 12, section 4.2.1, page 1017, figure 3-4-5.",
    "It may rain; march on; will you mark the bill?",
    "The ratio was 16:9 at 1920x1080, run 12:30:45 long.",
    "Use int::from_str and std::vector<int>, or a[1:2:3].",
    "The hash is d41d8cd98f00b204e9800998ecf8427e and the commit 3ab31cf.",
    "Dear Sir or Madam,\nplease find attached the report.",
    "Dear Customer,\nthank you.\nKind regards,\nThe Support Team",
    "Note: this is important.\nWarning: do not touch.\nNote: really.",
    "Question: What is 7 times 6?\nAnswer: 42",
    "It costs $1200.50 or €99 and weighs 12 kg; call it 5 of 7.",
    "Room 12 of the Court held 1 of the Rules of Court.",
    "Model GPT-4-0613 and part no. 8812-4471-20 are unrelated.",
    "file.tar.gz, main.rs, index.html and e.g. this i.e. that.",
    "Lottery: 4 8 15 16 23 42 and 1234-5678-9012.",
    "card 4111 1111 1111 1112 has a wrong check digit.",
    "account of DE00 3704 0044 0532 0130 00 is no account.",
    "Thanks\nagain for everything, and hello world.",
]


@pytest.mark.parametrize("text", FALSE, ids=range(len(FALSE)))
def test_what_only_looks_like_an_identifier_is_left_alone(text):
    assert found(text) == []


def test_given_names_and_patterns_are_found_and_win():
    known = Given(names=("ada lovelace", "Bo"), patterns={"BOOKING": r"\bBK-\d{6}\b"})
    text = "Ada Lovelace (Bo, not Bob) has BK-123456, phone 5550132"
    assert found(text, known) == [
        ("PERSON", "Ada Lovelace"),
        ("PERSON", "Bo"),
        ("BOOKING", "BK-123456"),
        ("PHONE_NUMBER", "5550132"),
    ]


def test_a_broken_pattern_is_named():
    with pytest.raises(DataError, match="pattern BOOKING: not a regular expression"):
        find("x", Given(patterns={"BOOKING": "("}))


def test_a_surname_is_found_again_without_its_title():
    assert found("Mr Redfearn left. Later Redfearn came back.") == [("PERSON", "Redfearn"), ("PERSON", "Redfearn")]


def test_speakers_of_a_dialogue_are_people_and_fields_of_a_form_are_not():
    assert found("Marta: hello there\nIan: good day\nMarta: bye\nIan: bye\nZip: none") == [
        ("PERSON", "Marta"), ("PERSON", "Ian"), ("PERSON", "Marta"), ("PERSON", "Ian"),
    ]  # fmt: skip


def test_a_tagger_is_asked_once_per_distinct_text_and_yields_to_structure():
    asked = []

    def tagger(texts):
        asked.append(list(texts))
        return [[Span(0, 5, "PERSON"), Span(9, 20, "LOCATION")] for _ in texts]

    text = "Paolo at 203.0.113.77 now"
    assert find_many([text, text], Given(tagger=tagger)) == [(Span(0, 5, "PERSON"), Span(9, 21, "IP_ADDRESS"))] * 2
    assert asked == [[text]]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from([text for text, _, _ in TRUE] + FALSE + ["+", "(", " 12 ", "\n", "é", "0" * 40, "Dr. "]))
)
def test_spans_are_in_order_inside_the_text_and_never_overlap(parts):
    text = "".join(parts)
    end = 0
    for span in find(text):
        assert end <= span.start < span.end <= len(text)
        end = span.end


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=80))
def test_any_text_can_be_searched(text):
    find(text)


@pytest.mark.parametrize(
    ("holds", "good"),
    [
        (checksums.card, "4111111111111111"), (checksums.card, "5555555555554444"), (checksums.nhs, "9434765919"),
        (checksums.pesel, "44051401359"), (checksums.aadhaar, "234123412346"), (checksums.ahv, "7569217076985"),
        (checksums.isbn, "9783161484100"), (checksums.luhn, "79927398713"),
        (lambda v: checksums.iban_remainder(v) == 1, "GB82WEST12345698765432"),
    ],
)  # fmt: skip
def test_every_wrong_digit_at_the_end_is_noticed(holds, good):
    assert holds(good)
    assert not any(holds(good[:-1] + wrong) for wrong in "0123456789" if wrong != good[-1])


# ------------------------------------------------------------------------------------------------ measured


def test_agreement_is_one_to_one_by_type_and_half_of_the_longer_span():
    true = [Span(0, 10, "PERSON"), Span(20, 30, "PERSON")]
    assert agree([Span(0, 5, "PERSON")], true) == 1
    assert agree([Span(0, 4, "PERSON")], true) == 0
    assert agree([Span(0, 30, "PERSON")], true) == 0
    assert agree([Span(0, 10, "LOCATION")], true) == 0
    assert agree([Span(0, 10, "PERSON"), Span(1, 10, "PERSON")], true) == 1
    assert agree([Span(0, 9, "PERSON"), Span(20, 30, "PERSON")], true, exact=True) == 1


def test_figures_per_type_are_counted_by_hand():
    rows = [Labelled("abcdefghij", (Span(0, 4, "PERSON"), Span(5, 9, "PERSON"), Span(9, 10, "ORGANIZATION")), 0)]
    result = check(
        rows, lambda texts: [[Span(0, 3, "PERSON"), Span(4, 5, "PERSON"), Span(9, 10, "URL")] for _ in texts]
    )
    assert result["types"]["PERSON"] == {
        "precision": 0.5, "recall": 0.5, "f1": 0.5, "exact_f1": 0.0, "n": 2, "found": 2,
    }  # fmt: skip
    assert result["types"]["URL"]["recall"] is None
    assert result["types"]["URL"]["precision"] == 0
    assert result["unmatched_types"] == {"ORGANIZATION": 1}


def labelled(tmp_path, **changes):
    label = {"entity_type": "EMAIL_ADDRESS", "entity_value": "x@example.com", "start_position": 4, "end_position": 17}
    path = tmp_path / "labels.json"
    path.write_text(json.dumps([{"full_text": "mail x@example.com", "spans": [label | changes]}]))
    return path


def test_a_label_a_few_characters_off_is_moved_and_counted(tmp_path):
    (row,) = read(labelled(tmp_path))
    assert row.spans == (Span(5, 18, "EMAIL_ADDRESS"),)
    assert check([row])["labels_moved"] == 1
    assert check([row])["types"]["EMAIL_ADDRESS"]["exact_f1"] == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"start_position": 0, "end_position": 4}, "is not the label's 'entity_value'"),
        ({"end_position": 400}, "outside a text of 18 characters"),
        ({"end_position": 3}, "outside a text"),
        ({"start_position": "4"}, "'start_position' must be a whole number, found str"),
        ({"entity_type": None}, "'entity_type' must be a text"),
    ],
)
def test_a_wrong_label_is_named_by_its_place_and_not_by_its_text(tmp_path, changes, says):
    with pytest.raises(DataError) as error:
        read(labelled(tmp_path, **changes))
    assert "labels.json:1, label 1" in str(error.value)
    assert says in str(error.value)
    assert "example" not in str(error.value).replace(str(tmp_path), "")


def test_a_row_without_labels_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"text": "hello"}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl:1: no labelled text"):
        read(path)


@pytest.fixture
def typed(monkeypatch, capsys):
    keep = signal.getsignal(signal.SIGTERM)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["discretion", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        streams = capsys.readouterr()
        return stop.value.code or 0, streams.out, streams.err

    yield run
    signal.signal(signal.SIGTERM, keep)


def test_pii_check_prints_figures_per_type_as_json(typed, tmp_path):
    code, out, _ = typed("pii", "check", "--labels", labelled(tmp_path), "--json")
    figures = json.loads(out)
    assert code == 0
    assert figures["types"]["EMAIL_ADDRESS"] == {
        "precision": 1.0, "recall": 1.0, "f1": 1.0, "exact_f1": 1.0, "n": 1, "found": 1,
    }  # fmt: skip
    assert figures["unmatched_types"] == {}


def test_pii_check_of_a_broken_file_is_one_line_and_exit_code_two(typed, tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"full_text": "x", "spans": [\n')
    code, out, err = typed("pii", "check", "--labels", path, "--json")
    assert (code, out) == (2, "")
    assert err.startswith(f"discretion: {path}:1: broken JSON")
    assert err.count("\n") == 1


@pytest.mark.skipif(not DATA.is_dir(), reason="the public label files are not there")
@pytest.mark.parametrize(
    ("file", "least"),
    [
        (
            "presidio_research/generated_small.json",
            {"CREDIT_CARD": 1.0, "PHONE_NUMBER": 0.9, "EMAIL_ADDRESS": 1.0, "US_SSN": 1.0},
        ),
        ("tab/entity_tab_first_40.jsonl", {"DATE_TIME": 0.88, "PERSON": 0.93, "ID": 0.85}),
    ],
)
def test_public_label_files_are_read_as_they_are_and_the_documented_figures_hold(file, least):
    figures = check(read(DATA / file))
    assert {kind: figures["types"][kind]["f1"] >= f1 for kind, f1 in least.items()} == dict.fromkeys(least, True)
