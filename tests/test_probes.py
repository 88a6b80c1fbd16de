import subprocess
import sys
from pathlib import Path

import pytest

from discretion.errors import ConfigError
from discretion.probes import EMBEDDED, NAMES, probe
from discretion.probes.base import validate


def test_an_unknown_suite_names_its_nearest() -> None:
    with pytest.raises(ConfigError, match="unknown probe 'norm'; did you mean 'norms'"):
        probe("norm")


@pytest.mark.parametrize("name", NAMES)
def test_a_suite_declares_one_primary_metric_and_an_ability_it_measures(name: str) -> None:
    suite = probe(name)
    assert suite.name == name and [m.primary for m in suite.metrics].count(True) == 1
    assert len({m.name for m in suite.metrics}) == len(suite.metrics)
    assert suite.ability is None or suite.ability.metric in {m.name for m in suite.metrics}


@pytest.mark.parametrize("name", EMBEDDED)
def test_every_embedded_item_has_a_proven_scorer(name: str) -> None:
    items = list(probe(name).items(seed=0))
    assert len(items) >= 100 and validate(probe(name), items) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_example_in_the_docs_is_read_and_proven(name: str, tmp_path: Path) -> None:
    page = (Path(__file__).parents[1] / "docs/suites" / f"{name}.md").read_text(encoding="utf-8")
    example = tmp_path / "example.jsonl"
    example.write_text(page.split("```json\n")[1].split("```")[0], encoding="utf-8")
    assert validate(probe(name), probe(name).items(example)) == []


def test_loading_all_suites_imports_neither_torch_nor_datasets_nor_scipy() -> None:
    names = ", ".join(f"discretion.probes.{name}" for name in NAMES)
    code = (
        f"import sys, {names}; print([m for m in ('torch', 'datasets', 'scipy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
