"""Identifiers replaced: of the same kind, the same for the same value, and back again only with the key."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from discretion.data.pii import Given, find
from discretion.data.surrogates import Key, read_key, replace, restore, write_key
from discretion.errors import DataError
from tests.lookalikes import FALSE, TRUE

SECRET = b"0123456789abcdef0123456789abcdef"


def chat(*contents):
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[n % 2], "content": content} for n, content in enumerate(contents)]}


def contents(rows):
    return [message["content"] for row in rows for message in row["messages"]]


ROWS = [
    chat(
        "Dear Anna Keller, mail anna@acme-corp.com or call (415) 655-2671.",
        "Thanks, I will write to anna@acme-corp.com.",
    ),
    chat("Is Mr Keller there? His card is 4111 1111 1111 1111.", "Keller was born on 12 May 1986 in any case."),
]


@pytest.mark.parametrize(("text", "kind", "value"), TRUE, ids=[f"{kind}-{n}" for n, (_, kind, _) in enumerate(TRUE)])
def test_a_surrogate_is_of_the_same_kind_at_the_same_place(text, kind, value):
    (row,), key = replace([chat(text)], secret=SECRET)
    (new,) = contents([row])
    assert value not in new
    start = text.index(value)
    assert any(span.type == kind and span.start == start for span in find(new)), new
    assert restore([row], key) == [chat(text)]


def test_one_value_has_one_surrogate_and_a_surname_stays_a_surname():
    rows, _ = replace(ROWS, secret=SECRET)
    first, second, third, fourth = contents(rows)
    mail = re.search(r"\S+@example\.\w+", first).group()
    assert mail in second
    _, surname = re.search(r"Dear (\w+) (\w+),", first).groups()
    assert f"Mr {surname} " in third
    assert fourth.startswith(surname)
    assert "acme" not in json.dumps(rows)


def test_the_same_secret_gives_the_same_rows_and_another_gives_others():
    assert replace(ROWS, secret=SECRET)[0] == replace(ROWS, secret=SECRET)[0]
    assert replace(ROWS, secret=SECRET)[0] != replace(ROWS, secret=b"another")[0]
    assert replace(ROWS)[0] != replace(ROWS)[0]


def test_conversations_cannot_be_linked_in_conversation_scope():
    rows, key = replace([chat("Mr Keller"), chat("Mr Keller")], scope="conversation", secret=SECRET)
    one, two = contents(rows)
    assert one != two
    assert contents(restore(rows, key)) == ["Mr Keller", "Mr Keller"]


def test_placeholders_are_numbered_by_type_and_go_round_what_is_there():
    rows, key = replace([chat("[PERSON_1] met Mr Keller and Ms Ode; Keller left")], style="placeholder")
    assert contents(rows) == ["[PERSON_1] met Mr [PERSON_2] and Ms [PERSON_3]; [PERSON_2] left"]
    assert contents(restore(rows, key)) == ["[PERSON_1] met Mr Keller and Ms Ode; Keller left"]


def test_names_of_speakers_and_texts_at_any_depth_are_replaced_and_roles_are_not():
    row = {
        "messages": [
            {
                "role": "user",
                "name": "Keller",
                "content": [{"type": "text", "text": "it is keller, at x@acme-corp.com"}],
            },
            {"role": "tool", "name": "search", "content": "none"},
        ],
        "n": 3,
    }
    (new,), key = replace([row], secret=SECRET)
    assert "eller" not in json.dumps(new)
    assert "acme" not in json.dumps(new)
    assert [message["role"] for message in new["messages"]] == ["user", "tool"]
    assert (new["messages"][1]["name"], new["n"]) == ("search", 3)
    assert restore([new], key) == [row]


def test_half_a_word_is_never_replaced():
    rows, key = replace([chat("ab123cd and 123")], Given(patterns={"CODE": r"123"}), secret=SECRET)
    (text,) = contents(rows)
    assert "123" not in text
    assert contents(restore(rows, key)) == ["ab123cd and 123"]


def test_what_leads_back_stands_in_the_key_alone(tmp_path):
    rows, key = replace(ROWS, secret=SECRET)
    assert contents(restore(rows, Key(SECRET))) == contents(rows)
    assert "Keller" not in repr(key)
    assert SECRET.decode() not in repr(key)
    path = tmp_path / "key.json"
    write_key(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    assert restore(rows, read_key(path)) == ROWS
    with pytest.raises(DataError, match="there is a file already"):
        write_key(path, key)


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path):
    path = tmp_path / "key.json"
    write_key(path, Key(SECRET))
    path.chmod(0o644)
    with pytest.raises(DataError, match="chmod 600"):
        read_key(path)
    path.chmod(0o600)
    path.write_text("[1]")
    with pytest.raises(DataError, match="no key"):
        read_key(path)
    with pytest.raises(DataError, match="cannot be read"):
        read_key(tmp_path / "absent.json")


def test_a_thousand_values_of_one_kind_get_a_thousand_surrogates():
    rows = [
        chat(f"call 415-655-{n:04d}, mail user{n}@acme-corp.com, on {n % 28 + 1} May {1950 + n % 60}")
        for n in range(1000)
    ]
    new, key = replace(rows, secret=SECRET)
    assert restore(new, key) == rows
    assert len({re.search(r"\S+@example\.\w+", text).group() for text in contents(new)}) == 1000


def test_a_kind_without_room_gets_longer_surrogates():
    rows = [chat(" ".join(f"k{n}" for n in range(10)))]
    new, key = replace(rows, Given(patterns={"CODE": r"k\d"}), secret=SECRET)
    assert restore(new, key) == rows
    assert not set(contents(new)[0].split()) & set(contents(rows)[0].split())


def test_years_that_stand_elsewhere_in_the_data_are_no_surrogates():
    rows = [chat(f"He was born in {1960 + n} and moved in {1962 + n}.") for n in range(17)]
    for secret in (SECRET, b"another", b"a third"):
        new, key = replace(rows, secret=secret)
        assert restore(new, key) == rows
        assert not re.search(r"born in 19[67]\d and", new[0]["messages"][0]["content"])


def test_a_year_without_a_free_one_near_it_gets_a_placeholder_and_the_rest_keeps_its_shape():
    rows = [chat("Mr Keller was born in 1985. In any year: " + " ".join(map(str, range(1940, 2040))))]
    new, key = replace(rows, secret=SECRET)
    (text,) = contents(new)
    assert "was born in [DATE_TIME_1]. In" in text and "[PERSON" not in text and "Keller" not in text
    assert restore(new, key) == rows


def test_a_value_whose_surrogates_all_stand_in_the_data_gets_a_placeholder_after_the_proof():
    there = " ".join(f"{letter} {digit}," for letter in "abcdefghjklmnprstuvwxyz" for digit in range(10))
    rows = [chat("code k 3", "Mr Keller: " + there)]
    new, key = replace(rows, Given(patterns={"CODE": r"(?<=code )\w \d"}), secret=SECRET)
    assert contents(new)[0] == "code [CODE_1]" and "[PERSON" not in contents(new)[1]
    assert restore(new, key) == rows


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from([text for text, _, _ in TRUE] + FALSE + ["Anna", "\n", "é_", "[PERSON_1]"])),
        max_size=4,
    ),
    st.sampled_from(["surrogate", "placeholder"]),
    st.sampled_from(["dataset", "conversation"]),
)
def test_replaced_rows_come_back_exactly(texts, style, scope):
    rows = [chat(" ".join(parts)) for parts in texts]
    new, key = replace(rows, style=style, scope=scope, secret=SECRET)
    assert restore(new, key) == rows
    assert restore(new[::-1], key) == rows[::-1]
