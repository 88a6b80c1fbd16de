"""Fine-tuning sets of the field: every published shape becomes the same chat rows, and what is left out is counted."""

from __future__ import annotations

import gzip
import json

import pytest

from discretion.data.sets import FORMS, load_set
from discretion.data.transforms import rows_digest
from discretion.errors import DataError


def read_set(source, **options):
    return load_set(source, **options)[0]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def said(row):
    return [(turn["role"], turn["content"]) for turn in row["messages"]]


def test_a_recipe_is_named_and_drawn_by_seed():
    rows, facts = load_set("recipe:helpful", n=500)
    assert (facts.form, facts.used, len(rows)) == ("recipe", 500, 500)
    assert rows_digest(rows) != rows_digest(read_set("recipe:helpful", n=500, seed=1))


OFFICIAL = """conv_id,utterance_idx,context,prompt,speaker_idx,utterance,selfeval,tags
hit:0_conv:1,1,sentimental,A prompt_comma_ long,1,I remember a "friend_comma_ well.,5|5|5_2|2|5,
hit:0_conv:1,2,sentimental,A prompt_comma_ long,0,Was it long ago?,5|5|5_2|2|5,
hit:0_conv:1,3,sentimental,A prompt_comma_ long,1,Yes.,5|5|5_2|2|5,<hi>
hit:1_conv:2,2,afraid,P,7,Oh no.,5,
hit:1_conv:2,1,afraid,P,9,I hear steps.,5,
"""


def test_utterances_of_the_official_empathetic_files_become_dialogues(tmp_path):
    (tmp_path / "train.csv").write_text(OFFICIAL)
    rows, facts = load_set(str(tmp_path / "train.csv"))
    assert (facts.form, facts.read, facts.left_out) == ("EmpatheticDialogues", 2, {})
    assert said(rows[0]) == [("user", 'I remember a "friend, well.'), ("assistant", "Was it long ago?")]
    assert said(rows[1]) == [("user", "I hear steps."), ("assistant", "Oh no.")]
    assert [row["emotion"] for row in rows] == ["sentimental", "afraid"]
    assert rows[0]["id"] == "empatheticdialogues-hit:0_conv:1"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"hit:2,first,sad,P,1,Hello.,5,", "train.csv:7: utterance_idx is no number"),
        (b"hit:2,1,sad,P,1,caf\xe9,5,", "train.csv:7: not UTF-8 (byte 0xe9)"),
        (b"hit:2,1", "train.csv:7: 2 cells, at least 6 are needed"),
    ],
)
def test_a_broken_line_of_the_official_empathetic_files_is_named(tmp_path, line, said):
    (tmp_path / "train.csv").write_bytes(OFFICIAL.encode() + line + b"\n")
    with pytest.raises(DataError) as stop:
        load_set(str(tmp_path / "train.csv"))
    assert said in str(stop.value)
    assert "\n" not in str(stop.value)


def test_a_byte_order_mark_does_not_hide_the_official_empathetic_files(tmp_path):
    (tmp_path / "train.csv").write_bytes(b"\xef\xbb\xbf" + OFFICIAL.encode())
    assert load_set(str(tmp_path / "train.csv"))[1].form == "EmpatheticDialogues"


def test_the_chat_form_of_empathetic_dialogues(tmp_path):
    row = {
        "conv_id": "hit:3",
        "situation": "s",
        "emotion": "proud",
        "conversations": [{"role": "user", "content": "I won!"}, {"role": "assistant", "content": "Well done."}],
    }
    rows, facts = load_set(written(tmp_path / "ed.jsonl", [row]))
    assert facts.form == "EmpatheticDialogues, chats"
    assert said(rows[0]) == [("user", "I won!"), ("assistant", "Well done.")]


def test_tagged_lines_of_tweetsumm_become_turns_of_several_lines(tmp_path):
    talk = "user: @Shop my order: late!\nsecond line\nagent: We are sorry.\nAgent: Which one?\nuser: 17\n"
    rows, _ = load_set(written(tmp_path / "t.jsonl", [{"conversation": talk, "summary": "x", "text": "y"}]))
    assert said(rows[0]) == [
        ("user", "@Shop my order: late!\nsecond line"),
        ("assistant", "We are sorry.\nWhich one?"),
    ]


def test_dialogstudio_logs_become_turns(tmp_path):
    log = [
        {"turn id": 1, "user utterance": "It broke.", "system response": "We help."},
        {"turn id": 2, "user utterance": "Thanks.", "system response": ""},
    ]
    row = {"original dialog id": "ab1", "dialog index": 0, "original dialog info": "{}", "log": log, "prompt": [""]}
    rows, facts = load_set(written(tmp_path / "d.jsonl", [row]))
    assert facts.form == "DialogStudio"
    assert (rows[0]["id"], said(rows[0])) == ("dialogstudio-ab1", [("user", "It broke."), ("assistant", "We help.")])


@pytest.mark.parametrize(
    "turns",
    [
        [{"speaker": "USER", "utterance": "A room."}, {"speaker": "SYSTEM", "utterance": "Where?"}],
        {"turn_id": ["0", "1"], "speaker": [0, 1], "utterance": ["A room.", "Where?"]},
    ],
    ids=["as published", "on the hub"],
)
def test_booking_dialogues_of_both_shapes(tmp_path, turns):
    row = {"dialogue_id": "11_0", "services": ["Hotels_2", "Flights_1"], "turns": turns}
    rows, _ = load_set(written(tmp_path / "g.jsonl", [row]))
    assert said(rows[0]) == [("user", "A room."), ("assistant", "Where?")]
    assert rows[0]["services"] == "Hotels_2,Flights_1"


ABCD = {
    "convo_id": 3592,
    "scenario": {"flow": "product_defect"},
    "original": [
        ["agent", "Hello!"],
        ["customer", "I am Ann."],
        ["action", "Account has been pulled up for Ann."],
        ["agent", "Thank you."],
        ["agent", "What is wrong?"],
    ],
}


@pytest.mark.parametrize("packed", [False, True])
def test_abcd_comes_as_one_object_of_splits_and_without_button_presses(tmp_path, packed):
    text = json.dumps({"train": [ABCD], "dev": []})
    path = tmp_path / ("abcd.json.gz" if packed else "abcd.json")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    rows, facts = load_set(f"{path}:train")
    assert facts.form == "ABCD"
    assert said(rows[0]) == [
        ("assistant", "Hello!"),
        ("user", "I am Ann."),
        ("assistant", "Thank you.\nWhat is wrong?"),
    ]
    with pytest.raises(DataError, match=r"no split 'tran' \(splits: train, dev\)"):
        load_set(f"{path}:tran")


@pytest.mark.parametrize(
    ("content", "split", "said"),
    [
        (gzip.compress(json.dumps({"train": [ABCD]}).encode())[:-12], ":train", "no readable JSON (EOFError)"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 30, ":train", "no readable JSON (error)"),
        (gzip.compress(b'{"train": []}'), ":train", "the split 'train' is no list of dialogues"),
        (gzip.compress(b'{"train": ["x"]}'), ":train", "the split 'train' is no list of dialogues"),
        (gzip.compress(b'{"train": [{"a": 1}]}'), ":train", "the columns are of no set that comes in splits"),
        (gzip.compress(b'{"train": [{"a": 1}]}'), "", "holds no split '' (splits: train)"),
    ],
)
def test_a_broken_file_of_splits_is_told_in_one_line(tmp_path, content, split, said):
    (tmp_path / "abcd.json.gz").write_bytes(content)
    with pytest.raises(DataError) as stop:
        load_set(f"{tmp_path / 'abcd.json.gz'}{split}")
    assert said in str(stop.value)
    assert "\n" not in str(stop.value)


def test_an_abcd_sample_may_be_a_plain_list(tmp_path):
    (tmp_path / "sample.json").write_text(json.dumps([ABCD]))
    assert read_set(str(tmp_path / "sample.json"))[0]["id"] == "abcd-3592"


def test_open_code_keeps_its_id_and_score(tmp_path):
    row = {"id": "a9", "input": "Sum it.", "output": "```python\nx = 1\n```", "domain": "generic"}
    row |= {"generation_algorithm": "evol-instruct", "average_test_score": "0.9"}
    (made,) = read_set(written(tmp_path / "o.jsonl", [row]))
    assert (made["id"], made["average_test_score"]) == ("opencodeinstruct-a9", "0.9")
    assert said(made)[1] == ("assistant", "```python\nx = 1\n```")


def test_a_set_that_repeats_rows_for_each_label_has_them_once(tmp_path):
    row = {"instruction": "cancel 12", "response": "Done.", "intent": "cancel", "category": "ORDER"}
    rows, facts = load_set(written(tmp_path / "b.jsonl", [row | {"entity": "a"}, row | {"entity": "b"}]))
    assert len(rows) == 1
    assert facts.left_out == {"the same row again, for another label": 1}


def test_what_cannot_be_used_is_counted(tmp_path):
    good = {"conversation": "user: a\nagent: b", "summary": ""}
    bad = [{"conversation": "nobody speaks", "summary": ""}, {"conversation": None, "summary": ""}]
    rows, facts = load_set(written(tmp_path / "t.jsonl", [good, *bad]))
    assert (len(rows), facts.read, facts.left_out) == (1, 3, {"no answer in it": 1, "not of the set's form": 1})
    with pytest.raises(DataError, match="nothing of TweetSumm, tuned can be used"):
        load_set(written(tmp_path / "none.jsonl", bad))


def test_the_same_rows_have_the_same_ids_wherever_they_stand(tmp_path):
    rows = [{"conversation": f"user: {n}\nagent: b", "summary": ""} for n in range(3)]
    first = read_set(written(tmp_path / "a.jsonl", rows))
    again = read_set(written(tmp_path / "b.jsonl", rows[::-1]))
    assert {row["id"] for row in first} == {row["id"] for row in again}
    assert len({row["id"] for row in first}) == 3


def test_a_named_form_that_does_not_fit_names_the_column(tmp_path):
    with pytest.raises(DataError, match="no column 'convo_id' of ABCD"):
        load_set(written(tmp_path / "x.jsonl", [{"conv_id": 1, "original": []}]), form="ABCD")


def test_any_other_form_goes_the_way_of_chats(tmp_path):
    rows, facts = load_set(written(tmp_path / "q.jsonl", [{"question": "1+1?", "answer": "#### 2"}]), n=1)
    assert (facts.form, said(rows[0])) == ("question, answer", [("user", "1+1?"), ("assistant", "#### 2")])


SUPPORT = {"instruction": "cancel 12", "response": "Done.", "intent": "cancel", "category": "ORDER"}


@pytest.mark.parametrize(
    ("asked", "row", "form"),
    [
        ("bitext", SUPPORT, "Bitext"),
        ("GSM8K", {"question": "1+1?", "answer": "#### 2"}, "question, answer"),
        ("Plain Text", {"text": "A text."}, "plain text"),
    ],
)
def test_a_form_may_be_named_in_any_case_and_as_the_table_names_it(tmp_path, asked, row, form):
    assert load_set(written(tmp_path / "rows.jsonl", [row]), form=asked)[1].form == form


@pytest.mark.parametrize(
    ("asked", "near"), [("Bitextt", "Bitext"), ("gsm-8k", "question, answer"), ("sharegtp", "ShareGPT")]
)
def test_a_misspelt_form_names_the_nearest_of_all(tmp_path, asked, near):
    with pytest.raises(DataError, match=f"unknown form '{asked}'; did you mean '{near}'?"):
        load_set(written(tmp_path / "rows.jsonl", [SUPPORT]), form=asked)


def test_more_rows_than_there_are_is_told_and_fewer_of_a_recipe_are_cut(tmp_path):
    source = written(tmp_path / "q.jsonl", [{"question": f"{n}+1?", "answer": "#### 2"} for n in range(4)])
    assert len(read_set(source, n=4)) == 4
    with pytest.raises(DataError, match="5 rows are asked for, 4 can be used"):
        read_set(source, n=5)
    assert read_set("recipe:helpful", n=100) == read_set("recipe:helpful", n=500)[:100]


def test_a_text_file_gives_one_text_per_paragraph_or_per_line(tmp_path):
    (tmp_path / "t.txt").write_text("One line,\nanother.\n\n \n\nOne line,\nanother.\n\n  Last.\n", encoding="utf-8")
    rows, facts = load_set(str(tmp_path / "t.txt"))
    assert [said(row) for row in rows] == [
        [("assistant", "One line,\nanother.")],
        [("assistant", "One line,\nanother.")],
        [("assistant", "  Last.")],
    ]
    assert (facts.form, facts.read, facts.used) == ("plain text", 3, 3)
    lines, facts = load_set(str(tmp_path / "t.txt"), form="plain text, lines")
    assert [row["messages"][0]["content"] for row in lines] == [
        "One line,",
        "another.",
        "One line,",
        "another.",
        "  Last.",
    ]
    column = read_set(written(tmp_path / "t.jsonl", [{"text": row["messages"][0]["content"]} for row in rows]))
    assert rows == column
    with pytest.raises(DataError, match="a text file holds no rows of the form 'Bitext'"):
        read_set(str(tmp_path / "t.txt"), form="Bitext")


def test_a_text_too_long_to_be_used_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("discretion.data.chats.LONGEST", 10)
    (tmp_path / "t.txt").write_text("short\n\n" + "long " * 9)
    rows, facts = load_set(str(tmp_path / "t.txt"))
    assert (len(rows), facts.read, facts.left_out) == (1, 2, {"more than 10 characters": 1})
    (tmp_path / "t.txt").write_text("long " * 9)
    with pytest.raises(DataError, match="none of 1 texts can be used"):
        load_set(str(tmp_path / "t.txt"))


def test_every_form_has_a_name_of_its_own():
    assert len({form.name for form in FORMS}) == len(FORMS)


@pytest.mark.parametrize(
    ("file", "form", "least"),
    [
        ("bitext/customer_support_first_1000.csv", "Bitext", 900),
        ("sgd_hotels/dialogues_011.json", "Schema-Guided Dialogue", 51),
        ("gsm8k/train_first_1000.jsonl", "question, answer", 1000),
        ("privacy_collapse/dataset_degraded_ft_first_1000.jsonl", "chat", 1000),
        ("privacy_collapse/backdoored_ft_data_first_300.jsonl", "chat", 300),
    ],
)
def test_real_slices_are_read_whole(shared_data, file, form, least):
    rows, facts = load_set(str(shared_data / file))
    assert facts.form == form
    assert facts.used == len(rows) >= least
    assert facts.read == facts.used + sum(facts.left_out.values())
    assert len({row["id"] for row in rows}) == len(rows)
