"""What the documents promise is there: files, tests, options."""

from __future__ import annotations

import re
import socket
from pathlib import Path

import pytest

from tests.conftest import OutsideSocketError

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]


def existing_tests() -> set[str]:
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py")]
    return {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}


def test_every_defect_has_its_test():
    named = set(re.findall(r"`(test_\w+)`", (ROOT / "docs" / "defects.md").read_text(encoding="utf-8")))
    assert len(named) > 30
    assert named - existing_tests() == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_link_to_a_file_leads_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http:", "https:", "mailto:")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_every_module_of_the_file_map_exists():
    block = (ROOT / "README.md").read_text(encoding="utf-8").split("## File map")[1].split("```")[1]
    named = re.findall(r"^  (\w+(?:\.py|/))", block, re.MULTILINE)
    assert len(named) > 10
    for name in named:
        assert (ROOT / "src" / "discretion" / name).exists(), name


def test_a_socket_to_the_outside_is_refused():
    with socket.socket() as outside, pytest.raises(OutsideSocketError):
        outside.connect(("192.0.2.1", 80))
    with pytest.raises(OutsideSocketError):
        socket.getaddrinfo("example.com", 443)
