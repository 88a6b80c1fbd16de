"""Identifiers replaced and put back on the command line."""

import json
import stat
from pathlib import Path

import pytest

from discretion.data.chats import write_chats
from discretion.data.recipes import identifiers, recipe

ROWS = recipe("support", n=500)[:20]


def test_identifiers_are_replaced_and_put_back_with_the_key(typed) -> None:
    write_chats("rows.jsonl", ROWS)
    code, out, _ = typed("pii", "replace", "rows.jsonl", "--out", "clean.jsonl", "--key", "key.json", "--json")
    assert code == 0 and json.loads(out)["rows"] == 20
    clean = Path("clean.jsonl").read_text()
    assert not [held["e-mail"] for held in identifiers(n=500)[:20] if held["e-mail"] in clean]
    assert {stat.S_IMODE(Path(name).stat().st_mode) for name in ("clean.jsonl", "key.json")} == {0o600}
    code, _, _ = typed("pii", "restore", "clean.jsonl", "--key", "key.json", "--out", "back.jsonl")
    assert code == 0 and Path("back.jsonl").read_text() == Path("rows.jsonl").read_text()


def test_names_and_patterns_of_ones_own_are_replaced_too(typed) -> None:
    write_chats("rows.jsonl", [{"text": "then Zbigniew took BK-123456 along"}])
    Path("names.txt").write_text("Zbigniew\n")
    words = ("--out", "o.jsonl", "--key", "k.json", "--style", "placeholder")
    code, _, _ = typed(
        "pii", "replace", "rows.jsonl", *words, "--names", "names.txt", "--pattern", "BOOKING=BK-[0-9]{6}"
    )
    assert code == 0
    assert json.loads(Path("o.jsonl").read_text()) == {"text": "then [PERSON_1] took [BOOKING_1] along"}


def test_names_are_read_from_a_file_of_any_suffix_and_a_missing_one_stops(typed) -> None:
    write_chats("rows.jsonl", [{"text": "then Zbigniew went along"}])
    Path("people.csv").write_text("Zbigniew\n")
    words = ("pii", "replace", "rows.jsonl", "--out", "o.jsonl", "--key", "k.json", "--style", "placeholder", "--names")
    code, _, err = typed(*words, "poeple")
    assert code == 2 and "no such file poeple" in err and not Path("o.jsonl").exists()
    assert typed(*words, "people.csv")[0] == 0
    assert json.loads(Path("o.jsonl").read_text()) == {"text": "then [PERSON_1] went along"}


UNFIT = ('{"text": "half \\ud83d"}', '{"text": ' + "[" * 100_000 + "]" * 100_000 + "}")


@pytest.mark.parametrize("line", UNFIT, ids=["half a character", "nested too deeply"])
def test_a_row_that_could_not_be_written_stops_a_replacing_in_one_line_and_nothing_is_left_there(typed, line) -> None:
    Path("rows.jsonl").write_text(f'{{"text": "x"}}\n{line}\n')
    code, _, err = typed("pii", "replace", "rows.jsonl", "--out", "o.jsonl", "--key", "k.json")
    assert code == 2 and "rows.jsonl:2: " in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["rows.jsonl"]


def test_a_column_that_json_has_not_stops_in_one_line_without_a_key_left_behind(typed) -> None:
    Path("rows.yaml").write_text("- text: x\n  when: 2026-01-05\n")
    code, _, err = typed("pii", "replace", "rows.yaml", "--out", "o.jsonl", "--key", "k.json")
    assert code == 2 and "cannot be written as JSON" in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["rows.yaml"]


@pytest.mark.parametrize(
    "words",
    [
        ("screen", "rows.jsonl", "--quiet"),
        ("canaries", "plant", "rows.jsonl", "--out", "o.jsonl", "--book", "b.jsonl"),
        ("members", "hold-out", "rows.jsonl", "--train", "t.jsonl", "--held-out", "h.jsonl", "--share", "0.5"),
    ],
    ids=lambda words: words[0],
)
def test_rows_that_could_not_be_written_are_left_out_and_counted(typed, words) -> None:
    rows = [*map(json.dumps, ROWS), *(line.replace('"text"', '"messages"') for line in UNFIT)]
    Path("rows.jsonl").write_text("\n".join(rows))
    code, out, _ = typed(*words, "--json")
    left_out = {"half a character (a lone surrogate)": 1, "more than 100 levels of objects and lists": 1}
    assert code == 0 and json.loads(out)["left_out"] == left_out


def test_a_page_without_a_place_stops_before_the_rows_are_read(typed) -> None:
    Path("pages").mkdir()
    for out, said in (("pages", "is a folder"), ("nowhere/page.html", "no folder nowhere")):
        code, _, err = typed("screen", "no-such-rows.jsonl", "--out", out)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not list(Path().glob("*.part"))


def test_wrong_words_are_one_line_and_nothing_is_written_over(typed) -> None:
    write_chats("rows.jsonl", ROWS)
    Path("there.json").write_text("mine")
    for words, said in (
        (("--out", "o.jsonl", "--key", "there.json"), "a file already"),
        (("--out", "o.jsonl", "--key", "k.json", "--style", "other"), "give surrogate or placeholder"),
        (("--out", "o.jsonl", "--key", "k.json", "--pattern", "BOOKING"), "not TYPE=REGEX"),
        (("--out", "nowhere/o.jsonl", "--key", "k.json"), "no folder nowhere"),
        (("--out", "o.jsonl", "--key", "o.jsonl"), "is named twice"),
    ):
        code, _, err = typed("pii", "replace", "rows.jsonl", *words)
        assert code == 2 and said in err and len(err.strip().splitlines()) == 1
    assert not Path("o.jsonl").exists() and not Path("k.json").exists() and Path("there.json").read_text() == "mine"
