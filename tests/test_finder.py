"""The finder's figures: one file, which the docs and the pages quote, and which is what the finder does today."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

from discretion.data import finder
from discretion.data.screen import screen
from discretion.report import page, screen_page
from discretion.schema import Outcome, to_json
from discretion.store import outcomes_path
from tests.report_runs import folder

ROOT = Path(__file__).parents[1]
ROW = re.compile(r"^\| ([A-Z_]+) \| ([\w -]+) \| (\d+) \| (\S+) \| (\S+) \| (\S+) \| (\S+) \|$", re.MULTILINE)


def rate(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def test_the_table_of_the_docs_is_the_file_that_the_pages_quote() -> None:
    page = (ROOT / "docs" / "pii.md").read_text(encoding="utf-8")
    table = {(kind, file): rest for kind, file, *rest in ROW.findall(page)}
    rates = ("precision", "recall", "f1", "exact_f1")
    assert table == {
        (kind, file): [str(f["n"]), *(rate(f[name]) for name in rates)]
        for file, types in finder.measured()["files"].items()
        for kind, f in types.items()
    }
    assert finder.measured()["command"] in page and finder.measured()["measured"] in page


def test_the_figures_are_those_of_the_finder_as_it_is(shared_data: Path) -> None:
    shipped = runpy.run_path(str(ROOT / "benchmarks" / "pii.py"))["shipped"]
    assert shipped(shared_data)["files"] == finder.measured()["files"]


def test_a_type_is_told_with_every_file_that_has_it_and_one_that_none_has_as_not_measured() -> None:
    told = dict(finder.told(["PHONE_NUMBER", "LOCATION", "IBAN_CODE", "PHONE_NUMBER"]))
    assert list(told) == ["IBAN_CODE", "LOCATION", "PHONE_NUMBER"]
    assert told["IBAN_CODE"] == "not measured: no labelled file has one"
    assert re.fullmatch(
        r"recall [\d.]+, precision [\d.]+ \(n = 10, presidio-research\); .*SGD hotels\)", told["PHONE_NUMBER"]
    )
    assert "recall 0.00, precision – (n = 147, TAB)" in told["LOCATION"]


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def test_the_report_says_beside_extraction_how_well_its_identifiers_are_found(tmp_path: Path) -> None:
    run = folder(tmp_path, "memorised")
    assert "How well these identifiers are found" not in page.write(run).read_text(encoding="utf-8")
    facts = {"trained": True, "group": "phone", "role": "user", "seen": "1 row"}
    asked = [
        Outcome(item_id=kind, cluster=kind, status="scored", value=0.0, parts={**facts, "type": kind})
        for kind in ("PHONE_NUMBER", "EMAIL_ADDRESS", "PHONE_NUMBER")
    ]
    path = outcomes_path(run, "base", "extraction")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(to_json(outcome)) + "\n" for outcome in asked), encoding="utf-8")
    said = text_of(page.write(run).read_text(encoding="utf-8"))
    for kind, name in (("PHONE_NUMBER", "phone number"), ("EMAIL_ADDRESS", "e-mail address")):
        assert said.count(f"{name}: finder {dict(finder.told([kind]))[kind]}") == 1
    assert finder.measured()["measured"] in said


def test_the_screen_says_so_beside_what_it_found(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Mail ann.lee@postal.org."}, {"role": "assistant", "content": "Done."}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    said = text_of(screen_page.render(screen(tmp_path / "a.jsonl")))
    assert f"e-mail address: finder {dict(finder.told(['EMAIL_ADDRESS']))['EMAIL_ADDRESS']}" in said
