"""A study on a real Ray cluster: two nodes on this machine, one of them killed while it works."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from discretion.config import StudyRunConfig
from discretion.errors import MissingExtra, UsageError
from discretion.study import run as running
from tests.study_cases import sleep_and_write

ROOT = Path(__file__).parents[1]
needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="the extra ray is not installed")


@pytest.mark.slow
@needs_ray
def test_a_node_killed_in_the_middle_loses_no_cell_and_repeats_none_that_was_done(tmp_path):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", "RAY_USAGE_STATS_ENABLED": "0"}
    script = [sys.executable, "-m", "tests.study_on_ray", str(tmp_path)]
    done = subprocess.run(script, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().splitlines()[-1])
    steps = [*(f"s{n}" for n in range(16)), "last"]
    assert found["status"] == dict.fromkeys(found["status"], "done")
    assert sorted(found["status"]) == sorted(steps)
    assert found["files"] == sorted([*(f"tune-s{n}.json" for n in range(16)), "audit-last.json"])
    assert found["begun"][-1] == "last"
    # only what the dead node was at, and had not yet told of, is begun again
    repeated = [name for name, times in Counter(found["begun"]).items() if times > 1]
    assert len(repeated) <= 2
    assert found["workers"] >= 2
    assert found["same"], "a second run does nothing"


def test_without_ray_the_message_says_what_to_type(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"--ray needs the library 'ray'.*discretion\[ray\]"):
        running.make_pool(StudyRunConfig(ray="auto"), sleep_and_write)


@pytest.mark.parametrize(
    ("address", "said"), [("somewhere", "give HOST:PORT, or auto"), ("127.0.0.1:1", "nothing answers there")]
)
def test_an_address_that_leads_nowhere_is_told_before_ray_waits_for_it(address, said):
    with pytest.raises(UsageError, match=said):
        running.make_pool(StudyRunConfig(ray=address), sleep_and_write)
