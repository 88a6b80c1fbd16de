"""The floors of the house: imports go down only, no cycle, heavy libraries only where they belong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "discretion"

# Lowest first; a module may import what stands lower, and its own floor only where the floor is one family.
FLOORS = (
    ("errors",),
    ("schema", "stats", "progress"),
    ("config", "tune_config", "stats_auc"),
    ("store", "verdicts", "world", "data", "models"),
    ("probes",),
    ("audit", "compare", "doctor", "repair", "risk", "surprise", "tune", "mech"),
    ("references", "study"),
    ("report", "tables"),
    ("export", "inspect_tasks"),
    ("cli_options",),
    ("cli_data", "cli_generate", "cli_judge", "cli_members", "cli_tune"),
    ("cli",),
    ("__main__",),
)
ONE_FAMILY = {"schema", "world", "data", "models", "probes", "tune", "report", "study"}
"""Folders whose modules may import each other."""
ALLOWED_SIDEWAYS = {("data", "world"), ("audit", "tune")}
"""Fine-tuning sets are made from the world; an audit proves that canaries were trained on."""
TORCH_LIVES_IN = ("models/", "tune/", "mech/", "doctor.py")
HEAVY = {"torch", "transformers", "peft", "trl", "datasets", "ray", "matplotlib", "scipy"}


def imports(path: Path) -> list[tuple[str, bool]]:
    """(dotted name, at the top of the module?) of everything a file imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and "TYPE_CHECKING" in ast.dump(block.test)
        for node in ast.walk(block)
    }
    inner = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for node in ast.walk(function)
    }
    found = []
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            found += [(alias.name, id(node) not in inner) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, id(node) not in inner) for name in names]
    return found


def room(name: str) -> str:
    """The floor's room of a dotted name: `discretion.models.local` → `models`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def violations(path: Path, own_room: str) -> list[str]:
    floor_of = {name: height for height, names in enumerate(FLOORS) for name in names}
    faults = []
    for name, _ in imports(path):
        other = room(name) if name.startswith("discretion") else ""
        if other not in floor_of or other == "__version__":
            continue
        same_family = other == own_room and own_room in ONE_FAMILY
        if floor_of[other] < floor_of[own_room] or same_family or (own_room, other) in ALLOWED_SIDEWAYS:
            continue
        faults.append(f"{path.name} ({own_room}) imports {name}")
    return faults


def modules() -> list[tuple[Path, str]]:
    return [
        (path, path.relative_to(SOURCE).parts[0].removesuffix(".py"))
        for path in sorted(SOURCE.rglob("*.py"))
        if path != SOURCE / "__init__.py"
    ]


def test_every_module_stands_on_a_floor():
    known = {name for names in FLOORS for name in names}
    assert {own for _, own in modules()} <= known


def test_imports_go_down_only():
    assert [fault for path, own in modules() for fault in violations(path, own)] == []


def test_an_import_upwards_is_found(tmp_path):
    bad = tmp_path / "stats.py"
    bad.write_text("from discretion.audit import audit\n")
    assert violations(bad, "stats") == ["stats.py (stats) imports discretion.audit.audit"]


def test_probes_do_not_import_each_other():
    suites = {
        "norms",
        "exposure",
        "extraction",
        "membership",
        "sampling",
        "agentic",
        "memory",
        "capability",
        "refusal",
        "misuse",
        "offtopic",
        "incontext",
        "ratings",
        "secrets",
        "trigger",
    }
    for suite in suites:
        for name, _ in imports(SOURCE / "probes" / f"{suite}.py"):
            assert not any(name.startswith(f"discretion.probes.{other}") for other in suites - {suite}), (suite, name)


def test_torch_is_imported_only_where_models_live():
    for path, _ in modules():
        where = path.relative_to(SOURCE).as_posix()
        if not where.startswith(TORCH_LIVES_IN):
            assert not any(name.split(".")[0] in ("torch", "transformers", "peft") for name, _ in imports(path)), where


def test_heavy_libraries_are_not_imported_at_the_top_of_light_modules():
    for path, own in modules():
        if own in ("models", "tune", "mech", "stats", "stats_auc"):
            continue
        heavy = [name for name, top in imports(path) if top and name.split(".")[0] in HEAVY]
        assert heavy == [], path


@pytest.mark.parametrize("module", ["discretion", "discretion.cli", "discretion.schema", "discretion.probes"])
def test_importing_is_cheap(module):
    assert loaded_by(module) & {"torch", "transformers", "ray", "scipy", "matplotlib", "datasets"} == set()


def test_a_heavy_import_would_be_seen():
    assert "scipy" in loaded_by("discretion.stats")


def loaded_by(module: str) -> set[str]:
    code = f"import sys, {module}; print('\\n'.join({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_nothing_is_pickled_and_no_remote_code_is_run():
    for path, _ in modules():
        text = path.read_text(encoding="utf-8")
        assert "trust_remote_code=True" not in text, path
        names = {name.split(".")[0] for name, _ in imports(path)}
        assert not names & {"pickle", "shelve", "marshal", "dill", "cloudpickle", "joblib"}, path
