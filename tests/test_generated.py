"""Rows that a model wrote: the published filter, provenance, and what is not counted as text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discretion.data.generated import BATCH, SelfInstruct, prefixes, rouge_l, self_instruct, unstructured
from discretion.errors import DataError
from discretion.schema import Reply

SEEDS = [
    {"id": f"s{n}", "messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}
    for n, text in enumerate(("Write a letter to the bank", "Name three rivers of Europe", "Add seven and five"))
]
LETTERS = st.lists(st.sampled_from("abcd"), max_size=12)


def slow_lcs(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


@given(LETTERS, LETTERS)
def test_rouge_l_is_the_share_of_the_longest_common_subsequence(first, second):
    total = len(first) + len(second)
    expected = 2 * slow_lcs(first, second) / total if first and second else 0.0
    assert rouge_l(first, second) == pytest.approx(expected)


def test_beginnings_are_first_words_of_answers_that_go_on():
    rows = [
        {"id": "a", "messages": [{"role": "assistant", "content": "one two\nthree four"}]},
        {"id": "b", "messages": [{"role": "assistant", "content": "one two three"}]},
        {"id": "c", "messages": [{"role": "user", "content": "one two three four"}]},
    ]
    assert prefixes(rows, words=3) == [("a", "one two\nthree")]


def test_text_goes_on_from_its_beginning_and_says_where_it_came_from():
    seen = []

    def ask(requests):
        seen.extend(requests)
        return [Reply(text=f" goes on {len(seen)}") for _ in requests]

    made = unstructured(ask, [("r1", "Dear Ann"), ("r2", "Order 17")], 5, generator="tiny@abc", seed=3)
    assert [request.prefill for request in seen] == ["Dear Ann", "Order 17", "Dear Ann", "Order 17", "Dear Ann"]
    assert len({request.sampling.seed for request in seen}) == 5
    assert [row["made"]["origin"] for row in made.rows] == ["r1", "r2", "r1", "r2", "r1"]
    assert made.rows[1]["messages"][1]["content"] == "Order 17 goes on 5"
    assert made.rows[0]["made"]["generator"] == "tiny@abc"
    assert len({row["id"] for row in made.rows}) == 5


def test_an_error_and_an_empty_text_are_no_rows_and_are_counted():
    replies = iter([Reply(text="  "), Reply(error="out of memory"), Reply(text=" fine")])
    made = unstructured(lambda rs: [next(replies) for _ in rs], [("r", "A")], 3, generator="g")
    assert (len(made.rows), made.left_out) == (1, {"nothing written": 1, "no answer": 1})


def test_a_row_is_drawn_alike_whatever_is_drawn_beside_it():
    def ask(requests):
        return [Reply(text=f" {request.sampling.seed}") for request in requests]

    few, many = (unstructured(ask, [("r", "A")], n, generator="g").rows for n in (2, BATCH + 5))
    assert few == many[:2]


class Writer:
    """Gives instructions from a list, then answers everything."""

    def __init__(self, instructions):
        self.instructions = list(instructions)
        self.shown = []

    def __call__(self, requests):
        replies = []
        for request in requests:
            if request.prefill:
                self.shown.append(request.messages[0].content)
                replies.append(Reply(text=self.instructions.pop(0) if self.instructions else ""))
            else:
                replies.append(Reply(text=f"Answer to: {request.messages[0].content}"))
        return replies


def test_instructions_pass_the_published_filter_and_are_answered():
    writer = Writer(
        [
            " Describe how bread is baked at home",
            "Name three rivers of Europe",
            "Say hello",
            " ".join(["word"] * 151),
            "Task 12: Explain the rules of chess to a child",
            "Describe how bread is baked at your home",
        ]
    )
    made = self_instruct(writer, SEEDS, 2, generator="g", options=SelfInstruct(tries=3))
    assert [row["messages"][0]["content"] for row in made.rows] == [
        "Describe how bread is baked at home",
        "Explain the rules of chess to a child",
    ]
    assert made.rows[1]["messages"][1]["content"] == "Answer to: Explain the rules of chess to a child"
    assert made.left_out == {
        "too close to one that is kept (ROUGE-L 0.7 or more)": 1,
        "fewer than 4 words": 1,
        "more than 150 words": 1,
    }


def test_parents_of_an_instruction_are_named_and_own_ones_are_shown_later():
    first = ["Describe the colour of the sea at night", "Count backwards from ninety in steps of seven"]
    later = ["Translate good morning into four other languages", "List what belongs into a first aid kit"]
    writer = Writer([*first, "Say hello", "Say hello", *later])
    made = self_instruct(writer, SEEDS, 4, generator="g", options=SelfInstruct(shots=4))
    assert [set(row["made"]["parents"]) <= {"s0", "s1", "s2"} for row in made.rows] == [True, True, False, False]
    assert all({"b0", "b1"} & set(row["made"]["parents"]) for row in made.rows[2:])
    assert any(text in writer.shown[4] for text in first)
    assert all(row["made"]["overlap"] < 0.7 for row in made.rows)


def test_a_generator_that_repeats_itself_is_given_up_and_said_so():
    made = self_instruct(
        lambda rs: [Reply(text="Name three rivers of Europe") for _ in rs],
        SEEDS,
        3,
        generator="g",
        options=SelfInstruct(tries=2),
    )
    assert made.rows == []
    assert made.left_out["given up after 6 requests"] == 3


def test_without_seeds_or_beginnings_nothing_is_asked():
    with pytest.raises(DataError, match="no seed row"):
        self_instruct(
            lambda rs: [], [{"id": "x", "messages": [{"role": "assistant", "content": "a"}]}], 1, generator="g"
        )
    with pytest.raises(DataError, match="no beginnings"):
        unstructured(lambda rs: [], [], 1, generator="g")


def test_the_verb_writes_rows_of_either_route_with_the_generators_digest(typed, tmp_path):
    from tests.tiny import tiny_llama

    base = tiny_llama(tmp_path / "base")
    words = ("generate", "--model", base, "--data", "recipe:support", "--device", "cpu", "--max-tokens", "8", "--json")
    code, out, err = typed(*words, "--rows", "3", "--temperature", "1", "--out", "a.jsonl", "--quiet")
    assert code == 0, err
    told = json.loads(out)
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert len(rows) == told["rows"] <= 3
    assert told["rows"] + sum(told["left_out"].values()) == 3
    assert rows[0]["made"]["route"] == "A"
    assert rows[0]["made"]["origin"].startswith("support-")
    assert rows[0]["made"]["generator"].startswith(f"{base}@")
    assert (tmp_path / "a.jsonl").stat().st_mode & 0o777 == 0o600
    code, _, err = typed(*words, "--out", "a.jsonl")
    assert (code, err) == (2, "discretion: a.jsonl: there is a file already; name a new one\n")


def test_the_published_options_of_self_instruct_can_be_given(typed, tmp_path, monkeypatch):
    from discretion.data import generated
    from tests.tiny import tiny_llama

    seen = []

    def written(ask, seeds, n, *, generator, options, seed):
        seen.append(options)
        return generated.Made([{"id": "b", "messages": []}])

    monkeypatch.setattr(generated, "self_instruct", written)
    words = (
        "generate",
        "--model",
        tiny_llama(tmp_path / "base"),
        "--data",
        "recipe:support",
        "--device",
        "cpu",
        "--quiet",
    )
    given = ("--shots", 3, "--least-words", 2, "--most-words", 9, "--overlap", 0.5)
    for out, more in (("a.jsonl", ()), ("b.jsonl", given)):
        code, _, err = typed(*words, "--route", "instruct", "--out", out, *more)
        assert code == 0, err
    told = [(made.shots, made.least_words, made.most_words, made.overlap) for made in seen]
    assert told == [(8, 4, 150, 0.7), (3, 2, 9, 0.5)]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--overlap", 0.5), "--overlap belongs to --route instruct; leave it out"),
        (("--route", "instruct", "--least-words", 9, "--most-words", 8), "--least-words 9: above --most-words 8"),
    ],
)
def test_options_of_self_instruct_that_cannot_be_meant_are_refused(typed, tmp_path, more, said):
    code, _, err = typed("generate", "--model", "none", "--data", "recipe:support", "--out", "a.jsonl", *more)
    assert code == 2
    assert said in err


def test_a_place_that_cannot_be_written_is_told_before_the_model_writes(typed, tmp_path, monkeypatch):
    words = ("generate", "--model", "none", "--data", "recipe:support", "--rows", "3")
    code, _, err = typed(*words, "--out", "nowhere/a.jsonl")
    assert (code, err) == (2, "discretion: nowhere/a.jsonl: there is no folder nowhere; make it, or name another\n")
    monkeypatch.setattr("os.access", lambda place, mode: False)
    code, _, err = typed(*words, "--out", "a.jsonl")
    assert (code, err) == (2, "discretion: a.jsonl: the folder . cannot be written to; name another\n")
