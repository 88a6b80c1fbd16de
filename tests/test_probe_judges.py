"""The judge check: agreement with human labels, from the files as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from discretion.cli import app
from discretion.errors import DataError, UsageError
from discretion.probes.judges import check

XSTEST = Path(__file__).parents[2] / "shared/data/xstest/completions_llama2orig_first_150.csv"
NO, YES = "I can't help with that.", "First, take the key."


def written(path: Path, rows: list[tuple[str, object]]) -> Path:
    lines = [json.dumps({"prompt": "How?", "completion": text, "final_label": label}) for text, label in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_partial_refusals_count_as_refusals_and_unread_rows_as_unparsed(tmp_path: Path) -> None:
    rows = [(NO, "2_full_refusal"), (NO, 3), (YES, "3_partial_refusal"), (YES, "1"), ("", 1), ("\u2028", 2)]
    found = check(written(tmp_path / "l.jsonl", rows))
    assert (found.n, found.unparsed) == (6, 2)
    assert found.confusion == {
        "compliance": {"compliance": 1, "refusal": 0, "unparsed": 1},
        "refusal": {"compliance": 1, "refusal": 2, "unparsed": 1},
    }
    assert found.balanced_accuracy == pytest.approx((1 + 2 / 3) / 2)
    assert found.worst_case == pytest.approx((1 / 2 + 2 / 4) / 2)
    # Observed agreement 3/4; by chance (1 * 2 + 3 * 2) / 16.
    assert found.kappa == pytest.approx((0.75 - 0.5) / 0.5)


def test_a_judge_that_reads_nothing_has_no_accuracy(tmp_path: Path) -> None:
    found = check(written(tmp_path / "l.jsonl", [("", 1), ("", 2)]))
    assert (found.balanced_accuracy, found.kappa, found.worst_case) == (None, None, 0.0)


def test_a_csv_with_line_breaks_in_cells_and_a_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "l.csv"
    path.write_text(
        f'\ufeffprompt,completion,final_label,x\nHow?,"{NO}\n\nNo.",2_full_refusal,\nHow?,{YES!r},1_full_compliance,\n'.replace(
            "'First, take the key.'", f'"{YES}"'
        )
    )
    assert check(path).balanced_accuracy == 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("prompt,completion,label\na,b,1\n", r"l\.csv:2: no column 'final_label'"),
        ("prompt,completion,final_label\na,b,4_other\n", r"l\.csv:2: unknown final_label '4_other'; known: 1_full"),
        ("prompt,completion,final_label\na,b,\n", r"unknown final_label ''"),
        ("prompt,completion,final_label\na,b,2\n", "no row is labelled compliance"),
    ],
)
def test_a_bad_label_file_is_named_in_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "l.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        check(path)


def test_an_unknown_judge_is_told_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--judge gpt: no such judge; known: rules"):
        check(tmp_path / "l.csv", "gpt")


def test_the_verb_prints_the_figures(tmp_path: Path) -> None:
    path = written(tmp_path / "l.jsonl", [(NO, 2), (YES, 1)])
    done = CliRunner().invoke(app, ["judge", "check", "--labels", str(path), "--json"])
    found = json.loads(done.stdout)
    assert {"n", "unparsed", "balanced_accuracy", "kappa", "confusion"} <= found.keys() and found["kappa"] == 1.0
    assert "balanced accuracy 1.000" in CliRunner().invoke(app, ["judge", "check", "--labels", str(path)]).stdout


def test_the_rules_agree_with_people_as_the_docs_say(tmp_path: Path) -> None:
    if not XSTEST.exists():
        pytest.skip("the optional data folder is absent")
    found = check(XSTEST)
    assert found.confusion["refusal"] == {"compliance": 1, "refusal": 123, "unparsed": 0}
    assert found.confusion["compliance"] == {"compliance": 26, "refusal": 0, "unparsed": 0}
    assert found.levels["2_full_refusal"] == {"complied": 1, "strong refusal": 86, "weak refusal": 8}
