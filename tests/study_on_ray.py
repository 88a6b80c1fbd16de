"""A script for tests: a study on two Ray nodes of one machine, the second killed in the middle. Prints JSON."""

from __future__ import annotations

import json
import os
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any


def main(folder: Path) -> dict[str, Any]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    warnings.simplefilter("ignore")
    import ray
    from ray.cluster_utils import Cluster

    from discretion.config import StudyRunConfig
    from discretion.study import cells
    from discretion.study import run as running
    from tests.study_cases import sleep_and_write

    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=small)
    second = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
    log = folder / "log"
    steps = {
        f"s{n}": cells.Step(f"s{n}", "tune", {"name": f"s{n}", "log": str(log), "seconds": 0.7}, ()) for n in range(16)
    }
    steps["last"] = cells.Step("last", "audit", {"name": "last", "log": str(log)}, tuple(steps))
    plan = cells.Plan(None, folder / "out", (), steps, {}, {})  # type: ignore[arg-type]

    def kill() -> None:
        while not log.exists() or len(log.read_text().split()) < 6:
            time.sleep(0.05)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    results = running.run(plan, StudyRunConfig(ray=cluster.address), do=sleep_and_write)
    killer.join()
    before = len(log.read_text().split())
    again = running.run(plan, StudyRunConfig(ray=cluster.address), do=sleep_and_write)
    ray.shutdown()
    cluster.shutdown()
    return {
        "status": {digest: result.status for digest, result in results.items()},
        "workers": len({result.found["pid"] for result in results.values()}),
        "files": sorted(path.name for path in (folder / "out" / "results").iterdir()),
        "begun": log.read_text().split(),
        "same": again == results and len(log.read_text().split()) == before,
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
