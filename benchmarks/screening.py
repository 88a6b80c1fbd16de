"""Does a screening keep its memory while the set grows? A made-up JSONL, read once; seconds and memory by rows done.

    python benchmarks/screening.py --out DIR [--rows 1000000]

The rows are chats of about 60 words in two to four turns with made-up people, a tenth of them with the answer of an
earlier one. Prints JSON, and writes it beside the set: rows done → processor seconds, resident MiB.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from pathlib import Path
from random import Random

from discretion.data.screen import screen

WORDS = [f"{a}{b}" for a in ("ba", "co", "di", "fu", "ge", "ha", "lo", "mi", "no", "pe") for b in ("ran", "lis", "tor")]


def write(path: Path, rows: int) -> None:
    """The set, drawn from a fixed seed."""
    rng = Random("screening")
    kept: list[str] = []
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            said = " ".join(rng.choices(WORDS, k=40))
            if kept and rng.random() < 0.1:
                said = f"{rng.choice(kept)} again"
            elif len(kept) < 1000:
                kept.append(said)
            turns = [
                {
                    "role": "user",
                    "content": f"Hello, I am Ann Lee, ann{number}@example.org. {' '.join(rng.choices(WORDS, k=12))}?",
                },
                {"role": "assistant", "content": f"{said.capitalize()}."},
            ]
            more = [{"role": "user", "content": "Thank you."}, {"role": "assistant", "content": "You are welcome."}]
            file.write(json.dumps({"messages": turns + (more if number % 2 else [])}) + "\n")


def resident() -> float:
    """MiB held now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def main() -> None:
    given = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    given.add_argument("--out", type=Path, required=True)
    given.add_argument("--rows", type=int, default=1_000_000)
    asked = given.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    path = asked.out / f"rows-{asked.rows}.jsonl"
    if not path.exists():
        write(path, asked.rows)
    began, done, every = time.process_time(), 0, asked.rows // 8
    course: list[tuple[int, float, float]] = []

    def tell(rows: int) -> None:
        nonlocal done
        before, done = done, done + rows
        if done // every > before // every:
            course.append((done, round(time.process_time() - began, 1), round(resident())))

    found = screen(path, on_rows=tell)
    told = {
        "rows": found.used,
        "file_mib": round(path.stat().st_size / 2**20),
        "processor_seconds": round(time.process_time() - began, 1),
        "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "rows_seconds_mib": course,
        "copies": dict(found.copies),
        "distinct_addresses": next(c.distinct for c in found.identifiers if c.type == "EMAIL_ADDRESS"),
    }
    (asked.out / f"screening-{asked.rows}.json").write_text(json.dumps(told, indent=2) + "\n")
    print(json.dumps(told, indent=2))


if __name__ == "__main__":
    main()
