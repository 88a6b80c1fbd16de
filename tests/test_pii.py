"""Identifiers: what is found, what is not, and how the detector is measured against labelled files."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discretion.data import checksums
from discretion.data.labels import Labelled, agree, check, read
from discretion.data.pii import Given, Span, find, find_many, spacy_tagger
from discretion.errors import DataError
from tests.lookalikes import FALSE, TRUE

DATA = Path(__file__).parents[2] / "shared" / "data"


def found(text: str, known: Given | None = None) -> list[tuple[str, str]]:
    return [(span.type, text[span.start : span.end]) for span in find(text, known or Given())]


@pytest.mark.parametrize(("text", "kind", "value"), TRUE, ids=[f"{kind}-{n}" for n, (_, kind, _) in enumerate(TRUE)])
def test_an_identifier_is_found_whole_and_alone(text, kind, value):
    assert (kind, value) in found(text)
    assert [other for other in found(text) if other[0] == kind] == [(kind, value)]


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


def test_a_spacy_pipeline_speaks_in_presidios_type_names():
    class Pipeline:
        """What is used of a loaded spaCy pipeline."""

        def pipe(self, texts):
            for text in texts:
                labels = (("Filip", "PERSON"), ("Nicosia", "GPE"), ("five", "CARDINAL"))
                starts = [(text.index(word), word, label) for word, label in labels]
                yield SimpleNamespace(
                    ents=[SimpleNamespace(start_char=at, end_char=at + len(w), label_=label) for at, w, label in starts]
                )

    known = Given(tagger=spacy_tagger(Pipeline()))
    assert found("Filip has five in Nicosia", known) == [("PERSON", "Filip"), ("LOCATION", "Nicosia")]


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
