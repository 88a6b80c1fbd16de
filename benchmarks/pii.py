"""Identifiers: documents per second and F1 per type, ours against Presidio's recognisers, on labelled files.

    python benchmarks/pii.py --data ../shared/data --out DIR
    python benchmarks/pii.py --data ../shared/data --figures src/discretion/data/finder.json    # what the reports quote

Presidio is used where it can be imported (`pip install presidio-analyzer==2.2.366`, 271 MB, best into an environment of
its own), over spaCy's blank English: the fastest engine it has, without a model, so without names and places. Its
scores are taken as they come and from 0.4 on; the better F1 of the two counts. Time is the process's own, the best of
several turns. `sgd_hotels` is the one file that was not looked at while the rules were written: telephone and street
slots.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "src")]

from tests.lookalikes import FALSE, TRUE  # noqa: E402

from discretion.data.labels import FOUND, Labelled, check, read  # noqa: E402
from discretion.data.pii import Span, find_many  # noqa: E402
from discretion.data.rows import read_rows  # noqa: E402

FILES = {
    "presidio_research": "presidio_research/generated_small.json",
    "tab": "tab/entity_tab_first_40.jsonl",
}
HOTELS = "sgd_hotels/dialogues_011.json"
SLOTS = {"phone_number": "PHONE_NUMBER", "address": "LOCATION"}
THRESHOLDS = (0.0, 0.4)
Scored = list[list[tuple[Span, float]]]


def hotels(path: Path) -> list[Labelled]:
    """Utterances of the Schema-Guided Dialogue set, with the slots that are identifiers as labels."""
    turns = [turn for _, row in read_rows(path) for turn in row["turns"]]
    return [
        Labelled(
            turn["utterance"],
            tuple(
                Span(slot["start"], slot["exclusive_end"], SLOTS[slot["slot"]])
                for frame in turn["frames"]
                for slot in frame["slots"]
                if slot["slot"] in SLOTS
            ),
            0,
        )
        for turn in turns
    ]


NAMES = {"presidio_research": "presidio-research", "tab": "TAB", "sgd_hotels": "SGD hotels"}


def shipped(data: Path) -> dict[str, Any]:
    """Our figures on the three files, as the package carries them."""
    rows = {name: read(data / path) for name, path in FILES.items()} | {"sgd_hotels": hotels(data / HOTELS)}
    figures = {}
    for name, labelled in rows.items():
        judged = frozenset(SLOTS.values()) if name == "sgd_hotels" else FOUND
        types = check(labelled, types=judged)["types"]
        figures[NAMES[name]] = {
            kind: {k: v if v is None else round(v, 4) for k, v in f.items()} for kind, f in types.items()
        }
    return {
        "command": "python benchmarks/pii.py --data ../shared/data --figures src/discretion/data/finder.json",
        "measured": date.today().isoformat(),
        "files": figures,
    }


def presidio() -> tuple[Callable[[Sequence[str]], Scored], frozenset[str]] | None:
    """Presidio with its default recognisers as a function on texts, and its types; None where it is not installed."""
    try:
        import spacy
        import tldextract
        from presidio_analyzer import AnalyzerEngine
        from presidio_analyzer.nlp_engine import SpacyNlpEngine
    except ImportError:
        return None
    # Otherwise the e-mail recogniser asks publicsuffix.org on first use.
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)

    class Blank(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__(models=[{"lang_code": "en", "model_name": "blank"}])
            self.nlp = {"en": spacy.blank("en")}

        def load(self) -> None:
            """Nothing to load."""

    engine = AnalyzerEngine(nlp_engine=Blank(), supported_languages=["en"])
    kinds = frozenset(k for r in engine.registry.recognizers if "Spacy" not in r.name for k in r.supported_entities)

    def analyse(texts: Sequence[str]) -> Scored:
        return [
            [(Span(r.start, r.end, r.entity_type), r.score) for r in engine.analyze(text, language="en")]
            for text in texts
        ]

    return analyse, kinds


def best(work: Callable[[], Any], turns: int) -> float:
    """Seconds of the process, of the fastest turn."""
    seconds = []
    for _ in range(turns):
        start = time.process_time()
        work()
        seconds.append(time.process_time() - start)
    return min(seconds)


def listed(found: Sequence[Sequence[Span]], kinds: frozenset[str]) -> dict[str, float | int]:
    """Precision and recall on the fixed lists, for these types alone."""
    true = [
        Labelled(text, (Span(text.index(value), text.index(value) + len(value), kind),) if kind in kinds else (), 0)
        for text, kind, value in TRUE
    ]
    rows = [*true, *(Labelled(text, (), 0) for text in FALSE)]
    figures = check(rows, lambda _: [[s for s in spans if s.type in kinds] for spans in found], kinds)["types"].values()
    met = sum(round((f["recall"] or 0) * f["n"]) for f in figures)
    given, n = sum(f["found"] for f in figures), sum(f["n"] for f in figures)
    on_false = sum(s.type in kinds for spans in found[len(TRUE) :] for s in spans)
    return {"precision": met / given, "recall": met / n, "n": n, "found": given, "found_on_lookalikes": on_false}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figures", type=Path, help="write our figures there, and nothing else")
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    if args.figures is not None:
        args.figures.write_text(json.dumps(shipped(args.data), indent=1) + "\n", encoding="utf-8")
        return
    if args.out is None:
        parser.error("give --out DIR or --figures FILE")
    args.out.mkdir(parents=True, exist_ok=True)
    peer = presidio()
    result: dict[str, Any] = {"python": platform.python_version(), "turns": args.turns, "files": {}}
    files = {name: read(args.data / path) for name, path in FILES.items()}
    files["both"] = [row for rows in files.values() for row in rows]
    files["sgd_hotels"] = hotels(args.data / HOTELS)
    texts_of_lists = [text for text, _, _ in TRUE] + FALSE
    if peer is not None:
        analyse, kinds = peer
        result["presidio"] = {"version": version("presidio-analyzer"), "engine": "spacy.blank('en')"}
        analyse(["warm up 1"])
    for name, rows in files.items():
        texts = [row.text for row in rows]
        judged = frozenset(SLOTS.values()) if name == "sgd_hotels" else FOUND
        ours = best(lambda texts=texts: find_many(texts), args.turns)
        entry = result["files"][name] = {
            "texts": len(texts),
            "characters": sum(map(len, texts)),
            "ours": {"documents_per_second": len(texts) / ours, **check(rows, types=judged)},
        }
        if peer is None:
            continue
        seconds = best(lambda texts=texts: analyse(texts), max(2, args.turns // 2))
        scored = analyse(texts)
        entry["presidio"] = {"documents_per_second": len(texts) / seconds}
        for least in THRESHOLDS:
            kept = [[span for span, score in spans if score >= least] for spans in scored]
            entry["presidio"][f"from {least}"] = check(rows, lambda _, kept=kept: kept, kinds)["types"]
        entry["times_faster"] = seconds / ours
        entry["both_know"] = {
            kind: {
                "n": figures["n"],
                "ours": figures["f1"],
                "presidio": max(entry["presidio"][f"from {t}"].get(kind, {}).get("f1") or 0.0 for t in THRESHOLDS),
            }
            for kind, figures in entry["ours"]["types"].items()
            if kind in kinds and figures["n"]
        }
    shared = FOUND & kinds if peer is not None else FOUND
    result["lists"] = {"types": sorted(shared), "ours": listed(find_many(texts_of_lists), shared)}
    if peer is not None:
        scored = analyse(texts_of_lists)
        for least in THRESHOLDS:
            kept = [[span for span, score in spans if score >= least] for spans in scored]
            result["lists"][f"presidio from {least}"] = listed(kept, shared)
    path = args.out / "pii.json"
    path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for name, entry in result["files"].items():
        print(name, {k: v for k, v in entry.items() if k in ("times_faster", "both_know")}, file=sys.stderr)
        for side in ("ours", "presidio"):
            if side in entry:
                print(f"  {side}: {entry[side]['documents_per_second']:.0f} documents/s", file=sys.stderr)
    print(json.dumps(result["lists"]), file=sys.stderr)
    print(path)


if __name__ == "__main__":
    main()
