"""The page of a study: what it must show, what it must never hold, and that it needs nothing from outside."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace

import pytest

from discretion.errors import DataError, UsageError
from discretion.report import study_page
from discretion.schema import from_json, to_json
from discretion.study.nouns import StudySummary
from discretion.tables import effects_table
from tests.study_cases import NO_ABILITY, a_summary, an_effect


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return study_page.render(a_summary(), tmp_path_factory.mktemp("planted"))


def images(page):
    found = {}
    for src, alt in re.findall(r'<img src="data:image/svg\+xml;base64,([^"]+)"[^>]*alt="([^"]*)"', page):
        found[alt] = base64.b64decode(src).decode()
    return found


def section(page, name):
    return page.split(f'id="{name}"')[1].split("</section>")[0]


def test_a_summary_goes_to_disk_and_back():
    summary = a_summary()
    assert from_json(StudySummary, json.loads(json.dumps(to_json(summary)))) == summary


def test_every_effect_stands_in_figures_and_in_a_chart(page):
    text = "\n".join(images(page).values())
    for effect in a_summary().effects:
        assert effect.name in page
        assert effect.name in text or "emotional" in effect.name


def test_an_unmeasured_effect_has_no_figure_and_its_reason(page):
    row = page.split("role-swapped − not, with identifiers</th>")[1].split("</tr>")[0]
    assert "no figure" in row
    assert "unmeasurable" in row
    assert NO_ABILITY.partition("most often: ")[2] in section(page, "unmeasured")


def test_doses_and_checkpoints_have_curves_and_seeds_have_none(page):
    titles = re.findall(r"<h3>([^<]*, by [^<]*)</h3>", page)
    assert titles == [
        "norms: balanced accuracy, by dose",
        "norms: balanced accuracy, by checkpoint",
        "capability: accuracy, by checkpoint",
    ]


@pytest.mark.parametrize(
    ("levels", "numbers"),
    [
        (("250", "1000"), {"250": 250.0, "1000": 1000.0}),
        (("plain", "swapped"), {}),
        (("250",), {}),
        (("final", "step-40"), {}),
    ],
)
def test_an_axis_of_numbers_is_known_by_its_levels(levels, numbers):
    assert study_page.numeric(levels) == numbers


def test_the_end_of_a_training_stands_at_its_last_step_and_nowhere_where_that_is_not_known(page):
    told = next(alt for alt in images(page) if alt.startswith("helpful / 1000: 40: −"))
    helpful, control = (told.split(f"{name} / 1000: ")[1].split("].")[0] for name in ("helpful", "control"))
    assert [part.split(":")[0] for part in helpful.split("], ")] == ["40", "80", "100"]
    assert [part.split(":")[0] for part in control.split("], ")] == ["40", "80"]


def test_the_corner_of_silent_collapse_is_drawn_with_the_arms_at_the_end_of_training(page):
    ((alt, svg),) = [(alt, svg) for alt, svg in images(page).items() if ": ability " in alt]
    assert "silent collapse" in svg
    assert "helpful/final" in alt
    assert "step-40" not in alt


def test_every_finished_cell_leads_to_its_audit_and_a_failed_one_says_why(page):
    assert '<a href="runs/abababababababab/report.html">helpful/1000/seed 0/final</a>' in page
    failed = page.split("helpful/1000/seed 1/final")[1].split("</tr>")[0]
    assert "the tune it needs failed" in failed
    assert "<a " not in failed
    assert "Incomplete." in page


def test_addresses_of_mailboxes_are_not_on_the_page(page):
    assert "ann.bell@" not in page


def test_names_from_the_file_cannot_become_markup(tmp_path):
    effect = an_effect("<b>$x$</b>", -0.1, "regressed")
    evil = replace(a_summary(), name="<script>x</script>", effects=(effect,), axes={"data": ("<b>$x$</b>",)})
    page = study_page.render(evil, tmp_path)
    assert "<script>" not in page
    assert "<b>" not in page.replace("&lt;b&gt;", "")


def test_the_page_needs_nothing_from_outside(page):
    assert "default-src 'none'" in page
    assert not re.search(r'(?:src|href)="(?:https?:|//)', page)


def test_no_summary_and_a_broken_one_are_told(tmp_path):
    with pytest.raises(UsageError, match="run the study first"):
        study_page.write(tmp_path)
    (tmp_path / "summary.json").write_text('{"schema_version": 1}')
    with pytest.raises(DataError, match="not of this version"):
        study_page.write(tmp_path)


def test_the_terminal_shows_contrasts_first_and_never_a_figure_that_was_not_measured():
    lines = effects_table(a_summary())
    assert lines[2].startswith("helpful − control ")
    assert "-28.0 [-34.5, -21.5]" in lines[2]
    assert "not measured" in lines[3]
    assert lines[-1].startswith("helpful/1000/seed 1/final: failed the tune it needs failed")
