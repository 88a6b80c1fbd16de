"""Cost as work grows: wall time and peak memory of whole audits of 250, 500, 1,000 and 2,000 items, and of one more.

    python benchmarks/growth.py --out DIR [--sizes 250,500,1000,2000]

Each audit is a process of its own (`discretion audit`, norms, two small Llamas), so that its peak memory is its own.
Writes DIR/growth.json and DIR/growth.png.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from discretion.schema import to_json
from discretion.world.embedded import embedded

HERE = Path(__file__).parent


def audit(models: Path, items: Path, out: Path, cache: Path) -> dict[str, float]:
    """Wall seconds and peak resident MiB of one audit in a process of its own."""
    code = (
        "import resource, sys; from discretion.cli import main; sys.argv = sys.argv[1:]\n"
        "try: main()\n"
        "finally: print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)"
    )
    command = [
        sys.executable, "-c", code, "discretion", "audit", "--base", str(models / "base"), "--tuned",
        str(models / "tuned"), "--probes", "norms", "--source", f"norms={items}", "--out", str(out), "--cache",
        str(cache), "--offline", "--quiet", "--json",
    ]  # fmt: skip
    began = time.perf_counter()
    result = subprocess.run(command, capture_output=True, text=True)
    seconds = time.perf_counter() - began
    if result.returncode:
        sys.exit(result.stderr)
    return {"seconds": seconds, "peak_mib": int(result.stderr.split()[-1]) / 1024}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--sizes", default="250,500,1000,2000")
    given = options.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    rows = [json.dumps(to_json(item)) + "\n" for item in embedded("norms", n=max(sizes) + 2)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        subprocess.run([sys.executable, HERE.parent / "examples" / "two_small_models.py", work], check=True)
        for size in sizes:
            items = work / f"{size}.jsonl"
            items.write_text("".join(rows[:size]))
            found.append({"items": size, **audit(work, items, work / f"run{size}", work / f"{size}.sqlite")})
            print(found[-1])
        more = work / "more.jsonl"
        more.write_text("".join(rows[: max(sizes)] + rows[max(sizes) :][:1]))
        one = audit(work, more, work / "more", work / f"{max(sizes)}.sqlite")
        nothing = audit(work, items, work / "again", work / f"{max(sizes)}.sqlite")
    slope = (found[-1]["seconds"] - found[0]["seconds"]) / (found[-1]["items"] - found[0]["items"])
    report = {
        "audits": found,
        "seconds_per_item": slope,
        "predicted_largest_from_two_smallest": found[0]["seconds"]
        + (found[1]["seconds"] - found[0]["seconds"]) / (sizes[1] - sizes[0]) * (sizes[-1] - sizes[0]),
        "memory_growth_mib_per_1000_items": 1000
        * (found[-1]["peak_mib"] - found[0]["peak_mib"])
        / (sizes[-1] - sizes[0]),
        "all_replies_kept": nothing,
        "one_line_more": one,
    }
    given.out.mkdir(parents=True, exist_ok=True)
    (given.out / "growth.json").write_text(json.dumps(report, indent=2) + "\n")
    draw(found, given.out / "growth.png")
    print(json.dumps(report, indent=2))


def draw(found: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for axis, key, label in zip(figure.subplots(1, 2), ("seconds", "peak_mib"), ("wall s", "peak MiB"), strict=True):
        axis.plot([f["items"] for f in found], [f[key] for f in found], marker="o")
        axis.set(xlabel="items", ylabel=label, ylim=(0, None), xlim=(0, None))
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
