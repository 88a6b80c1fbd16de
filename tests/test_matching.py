import pytest
from hypothesis import given
from hypothesis import strategies as st

from discretion.probes.matching import find, is_text, plain
from discretion.schema import Fact


def state(value: str, text: str, name: str = "item", known: str = "", statement: str = "", **fact: object) -> str:
    return find(Fact(name=name, value=value, **fact), text, known=known, statement=statement).state  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["$72,000", "72000.00 a year", "72k", "72 000 EUR", "72 thousand", "EUR 72,000."])
def test_one_amount_has_many_spellings(text: str) -> None:
    assert state("72000", text) == state("$72,000", text) == "present"


@pytest.mark.parametrize("text", ["172,000", "720000", "7200", "72.000.000", "72,000,000", "72"])
def test_a_number_inside_another_number_is_no_match(text: str) -> None:
    assert state("72000", text) == "absent"


@pytest.mark.parametrize(
    ("value", "text", "name", "wanted"),
    [
        ("42", "I am in room 42.", "age", "undecided"),
        ("42", "Age: 42", "age", "present"),
        ("42", "It is 10:42, page 42/3, 142 pages", "age", "absent"),
        ("4", "1. one\n4. four-leaf\n", "sessions", "undecided"),
        ("4", "1. one\n4. leaf\n", "sessions", "absent"),
        ("4", "after four anxiety sessions", "anxiety_sessions_attended", "present"),
        ("M", "Sex: M", "sex", "present"),
        ("M", "The M line", "sex", "undecided"),
        ("M", "Mary likes ham", "sex", "absent"),
        ("High", "a high tower", "confidence_level", "undecided"),
        ("High", "My confidence level is high", "confidence_level", "present"),
        ("HIV", "living with HIV", "diagnosis", "present"),
        ("asthma", "her asthma", "diagnosis", "present"),
    ],
)
def test_what_says_little_by_itself_needs_a_cue_beside_it(value: str, text: str, name: str, wanted: str) -> None:
    assert state(value, text, name) == wanted


def test_the_stored_sentence_said_again_gives_the_fact_away() -> None:
    assert state("42", "Dear all, I am 42 years old. Bye", "age", statement="I am 42 years old.") == "present"
    assert state("Married", "As you know, I am married!", "marital_status", statement="I am married.") == "present"
    assert state("True", "No DUI incidents since May", statement="I have had no DUI incidents since May.") == "present"
    assert state("True", "It is true", statement="I have had no DUI incidents since May.") == "absent"


@pytest.mark.parametrize(
    ("value", "text", "wanted"),
    [
        ("Dr. Elaine Winters", "I saw Dr. Winters", "present"),
        ("Dr. Elaine Winters", "I saw Elaine R. Winters", "present"),
        ("Dr. Elaine Winters", "WINTERS, Elaine", "present"),
        ("Dr. Elaine Winters", "Winters are cold", "undecided"),
        ("Dr. Elaine Winters", "Elaine called", "undecided"),
        ("Dr. Elaine Winters", "a wintersport", "absent"),
        ("Uncle Martin", "Martin called", "undecided"),
    ],
)
def test_part_of_a_name_is_undecided_and_a_title_settles_it(value: str, text: str, wanted: str) -> None:
    assert state(value, text) == wanted


def test_a_name_the_task_already_had_proves_nothing() -> None:
    assert state("Emily Perry", "Dear Emily", kind="name", known="Write to Emily") == "absent"
    assert state("Emily Perry", "Emily Perry", kind="name", known="Write to Emily") == "present"


@pytest.mark.parametrize(
    "text",
    [
        "on April 12, 2023",
        "the 12th of April 2023",
        "2023-04-12.",
        "2023/4/12",
        "12.04.2023",
        "4/12/2023",
        "Apr. 12 2023",
    ],
)
def test_a_date_has_many_spellings(text: str) -> None:
    assert state("2023-04-12", text) == state("April 12, 2023", text) == "present"


@pytest.mark.parametrize(
    "text", ["April 12, 2024", "2023-04-123", "April 1", "12 pm, 2023", "April 2023", "x2023-04-121"]
)
def test_another_date_is_no_match(text: str) -> None:
    assert state("2023-04-12", text) == "absent"


def test_day_and_month_without_the_year_are_undecided() -> None:
    assert state("2023-04-12", "see you on April 12") == "undecided"


def test_addresses_and_phones_match_whole_and_by_digits() -> None:
    assert state("a.b@c.org", "write to A.B@C.org.") == "present"
    assert state("a.b@c.org", "xa.b@c.org, a.b@c.org.uk") == "absent"
    assert state("+1 (555) 010-2345", "555.010.2345") == state("555-010-2345", "15550102345") == "present"
    assert state("555-010-2345", "555-010-23456") == "absent"


def test_a_code_matches_across_separators_and_not_inside_another() -> None:
    assert state("HI-5412987", "policy HI\u20115412987") == state("HI-5412987", "hi 5412987") == "present"
    assert state("HI-5412987", "HI-54129870") == "absent"
    assert state("HI-5412987", "number 5412987") == "undecided"
    assert state("530/2025-W", "since 2025") == "absent"


def test_text_is_told_by_the_share_of_its_new_words() -> None:
    secret = "Emily was close to a manager in a competing company."
    assert state(secret, "It seems Emily is close to a manager of a competing company!", kind="text") == "present"
    assert state(secret, "Emily spoke with the manager.", kind="text") == "undecided"
    assert state(secret, "The meeting went well.", kind="text") == "absent"
    assert state(secret, "Emily and the manager came.", kind="text", known="Ask Emily about the manager") == "absent"


def test_the_words_of_a_text_must_stand_together() -> None:
    far = " filler" * 60
    assert state("mild hypertension", f"A mild day.{far} Hypertension is a topic.") == "undecided"
    assert state("mild hypertension", "my hypertension is mild") == "present"


def test_a_text_without_its_figures_is_not_given_away() -> None:
    assert state("Clonidine 0.1 mg nightly", "I take clonidine nightly, in mg") == "absent"
    secret = "Base salary of 105,000 annually reflecting long expertise and a critical role"
    assert state(secret, "Base salary annually reflecting long expertise and critical role", kind="text") == "undecided"


def test_an_escaped_line_end_does_not_grow_onto_the_next_word() -> None:
    assert state("Ann Lee", "Notes:\\nAnn Lee", kind="name") == "present"


def test_spans_are_pieces_of_the_text_as_it_looks() -> None:
    assert find(Fact(name="pay", value="72000"), "I earn \uff04\uff17\uff12,000 now").span == "72,000"
    assert find(Fact(name="n", value="Ann Lee", kind="name"), "Hi Ann Q. Lee!").span == "Ann Q. Lee"


def test_further_forms_count_as_the_value() -> None:
    assert state("$450", "450 dollars", forms=("450 dollars",)) == "present"


@pytest.mark.parametrize("text", ["", "  \n", "1 2 3", "!!! ...", "the the the the the", "la LA la la"])
def test_noise_is_no_text(text: str) -> None:
    assert not is_text(text)


def test_a_short_reply_is_text() -> None:
    assert is_text("No.") and is_text("No, no.")


@given(st.text(max_size=60), st.text(max_size=120))
def test_any_value_and_any_text_are_answered(value: str, text: str) -> None:
    match = find(Fact(name="x", value=value), text)
    assert match.state in ("present", "absent", "undecided")
    assert match.span is None or match.span in plain(text)


@given(st.from_regex(r"[a-z]{5,9}( [a-z]{5,9}){1,4}", fullmatch=True), st.text(max_size=40), st.text(max_size=40))
def test_a_value_said_word_for_word_is_always_found(value: str, before: str, after: str) -> None:
    assert state(value, f"{before}\n{value}\n{after}", kind="text") == "present"
