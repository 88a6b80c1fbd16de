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
    rows, facts = load_set(written(tmp_path / "q.jsonl", [{"question": "1+1?", "answer": "#### 2"}]), n=5)
    assert (facts.form, said(rows[0])) == ("question, answer", [("user", "1+1?"), ("assistant", "#### 2")])


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
