import json
import stat
from datetime import date
from pathlib import Path

import pytest

from discretion.data.chats import LONGEST, load_chats, read_chats, write_all, write_chats
from discretion.errors import DataError

ASKED = {"role": "user", "content": "Where?"}
SAID = {"role": "assistant", "content": "Here."}
SYSTEM = {"role": "system", "content": "Be brief."}


def written(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


FORMS = [
    ("chat", {"messages": [SYSTEM, ASKED, SAID]}, [SYSTEM, ASKED, SAID]),
    ("prompt, completion", {"prompt": "Where?", "completion": "Here."}, [ASKED, SAID]),
    ("prompt, completion", {"prompt": [SYSTEM, ASKED], "completion": [SAID]}, [SYSTEM, ASKED, SAID]),
    ("Alpaca", {"instruction": "Add.", "input": "1, 2", "output": "3"}, [("user", "Add.\n\n1, 2"), ("assistant", "3")]),
    ("Alpaca", {"instruction": "Where?", "output": "Here.", "history": [["a", "b"]], "system": "Be brief."},
     [SYSTEM, ("user", "a"), ("assistant", "b"), ASKED, SAID]),
    ("Dolly", {"instruction": "Where?", "context": "A passage.", "response": "Here.", "category": "qa"},
     [("user", "Where?\n\nA passage."), SAID]),
    ("instruction, response", {"instruction": "Where?", "context": "a trade", "intent": "x", "response": "Here."},
     [ASKED, SAID]),
    ("question, answer", {"question": "Where?", "answer": "Here."}, [ASKED, SAID]),
    ("ShareGPT", {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}],
                  "system": "Be brief."}, [SYSTEM, ASKED, SAID]),
    ("preference, chosen side", {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}, [ASKED, SAID]),
    ("preference, chosen side", {"prompt": "Where?", "chosen": [ASKED, SAID], "rejected": [ASKED]}, [ASKED, SAID]),
    ("preference, chosen side", {"chosen": "\n\nHuman: Where?\n\nAssistant: Here.", "rejected": "x"}, [ASKED, SAID]),
    ("Schema-Guided Dialogue", {"dialogue_id": "1", "turns": [{"speaker": "USER", "utterance": "Where?"},
                                                              {"speaker": "SYSTEM", "utterance": "Here."}]},
     [ASKED, SAID]),
    ("plain text", {"text": "Here."}, [SAID]),
]  # fmt: skip


@pytest.mark.parametrize(("form", "row", "turns"), FORMS, ids=[f"{n}-{form}" for n, (form, *_) in enumerate(FORMS)])
def test_each_form_is_named_and_read_as_turns(tmp_path: Path, form: str, row: object, turns: list[object]) -> None:
    rows, chats = load_chats(written(tmp_path / "a.jsonl", row))
    assert chats.form == form
    assert rows[0]["messages"] == [t if isinstance(t, dict) else {"role": t[0], "content": t[1]} for t in turns]


def test_columns_of_two_forms_are_named_and_the_one_asked_for_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"messages": [ASKED, SAID], "text": "<s>Where? Here."})
    _, chats = load_chats(path)
    assert (chats.form, chats.also) == ("chat", ("plain text",))
    rows, chats = load_chats(path, form="plain text")
    assert rows[0]["messages"][0]["content"] == "<s>Where? Here."


def test_text_parts_and_tool_calls_become_text(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "send", "arguments": '{"to": "Ann"}'}}
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "Whe"}, {"type": "text", "text": "re?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "sent"},
    ]
    rows, _ = load_chats(written(tmp_path / "a.jsonl", {"messages": turns}))
    asked, called, answered = rows[0]["messages"]
    assert asked == ASKED and answered == {"role": "tool", "content": "sent"}
    assert json.loads(called["content"]) == {"name": "send", "arguments": '{"to": "Ann"}'}


def test_rows_that_cannot_be_used_are_counted_with_their_reason_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good = json.dumps({"messages": [ASKED, SAID]}).encode()
    bad = [
        b'{"messages": "\xff"}',
        b'{"messages": ',
        b"[1]",
        json.dumps({"messages": [ASKED]}).encode(),
        json.dumps({"messages": []}).encode(),
        json.dumps({"messages": [ASKED, {"role": "assistant", "content": " "}]}).encode(),
        json.dumps({"messages": [{"role": "wizard", "content": "x"}, SAID]}).encode(),
        json.dumps({"messages": [ASKED, {"role": "assistant", "content": "x" * LONGEST}]}).encode(),
        json.dumps({"text": "x"}).encode(),
    ]
    path.write_bytes(b"\n".join([good, *bad, good]))
    rows, chats = load_chats(path)
    assert [len(rows), chats.used, chats.read] == [2, 2, 11]
    assert chats.left_out == {
        "not UTF-8": 1,
        "broken JSON": 1,
        "no JSON object": 1,
        "no assistant turn": 1,
        "no turns": 1,
        "nothing in the assistant's turns": 1,
        "a message of an unknown role": 1,
        "more than 1,000,000 characters": 1,
        "columns that are not those of the form chat": 1,
    }
    assert chats.first["not UTF-8"] == f"{path}:2"


def test_a_csv_cell_that_is_too_long_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,answer\nWhere?,Here.\nWhere?,{'x' * LONGEST}\nWho?,Me.\n")
    rows, chats = load_chats(path)
    assert len(rows) == 2 and chats.left_out == {"more than 1,000,000 characters": 1}


def test_a_set_without_any_assistant_turn_is_refused_with_the_counts(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"messages": [ASKED]}, {"messages": [ASKED]})
    with pytest.raises(DataError, match=r"none of the 2 rows can be used \(2 with no assistant turn\)"):
        load_chats(path)


def test_unknown_columns_and_unknown_form_names_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.jsonl", {"colour": "red"})
    with pytest.raises(DataError, match=r"a\.jsonl:1: no known form has the columns colour; .*known|one of: .*chat"):
        load_chats(path)
    with pytest.raises(DataError, match="did you mean 'ShareGPT'"):
        read_chats(path, form="ShareGTP")


def test_ids_are_made_of_content_and_own_ids_and_other_columns_are_kept(tmp_path: Path) -> None:
    one, other = {"messages": [ASKED, SAID]}, {"messages": [SYSTEM, ASKED, SAID]}
    rows, _ = load_chats(written(tmp_path / "a.jsonl", one, other, one, {**one, "id": "mine", "pair": 7}))
    again, _ = load_chats(written(tmp_path / "b.jsonl", other, one))
    assert [again[1]["id"], again[0]["id"]] == [row["id"] for row in rows[:2]]
    assert rows[2]["id"] == rows[0]["id"] + "~2"
    assert (rows[3]["id"], rows[3]["pair"]) == ("mine", 7)


def test_a_set_is_read_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps({"messages": [ASKED, SAID]}).encode() + b"\n" + b'{"broken": ')
    rows = iter(read_chats(path))
    assert next(rows)["messages"] == [ASKED, SAID]


def test_written_rows_are_private_come_back_equal_and_overwrite_nothing(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    rows = [{"id": "a", "messages": [ASKED, {"role": "assistant", "content": "Hiér."}]}]
    assert write_chats(path, rows) == 1
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_chats(path)[0] == rows
    with pytest.raises(DataError, match="a file already"):
        write_chats(path, rows)


def test_a_row_that_cannot_be_written_leaves_no_file_behind_nor_those_that_belong_to_it(tmp_path: Path) -> None:
    one, two = tmp_path / "one.jsonl", tmp_path / "two.jsonl"
    for wrong in ("half \ud83d", date(2026, 1, 5)):
        with pytest.raises(DataError, match=r"two\.jsonl: row 2 cannot be written as JSON"):
            write_all((one, [{"text": "x"}]), (two, [{"text": "x"}, {"text": wrong}]))
        assert not list(tmp_path.iterdir())
    two.write_text("mine")
    with pytest.raises(DataError, match="a file already"):
        write_all((one, [{"text": "x"}]), (two, [{"text": "x"}]))
    assert not one.exists() and two.read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "form", "count"),
    [
        ("privacy_collapse/dataset_degraded_ft_first_1000.jsonl", "chat", 1000),
        ("gsm8k/train_first_1000.jsonl", "question, answer", 1000),
        ("bitext/customer_support_first_1000.csv", "instruction, response", 1000),
        ("sgd_hotels/dialogues_011.json", "Schema-Guided Dialogue", 51),
    ],
)
def test_public_sets_are_read_whole(shared_data: Path, file: str, form: str, count: int) -> None:
    rows, chats = load_chats(shared_data / file)
    assert (chats.form, len(rows), chats.left_out.total()) == (form, count, 0)
