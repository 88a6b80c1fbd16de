"""Our checks of IFEval's instructions against lm-evaluation-harness' copy of the official ones, verdict by verdict.

    python benchmarks/instructions.py IFEVAL.jsonl XSTEST_COMPLETIONS.csv

Needs lm-eval, nltk, langdetect and immutabledict beside this package. Each instruction of the file is checked on each
completion and on each reply of known truth. nltk's English sentence model is not downloaded: its untrained one is used.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict

import langdetect
import nltk
from nltk.tokenize.destructive import NLTKWordTokenizer
from nltk.tokenize.punkt import PunktSentenceTokenizer

from discretion.data.rows import read_rows
from discretion.probes.capability import PROBE
from discretion.probes.instructions import breaking, fitting, follows

# Importing lm-eval's module looks for nltk's data, and would download it.
nltk.data.find = nltk.download = lambda *_, **__: True
from lm_eval.tasks.ifeval import instructions_registry, instructions_util  # noqa: E402

instructions_util.count_sentences = lambda text: len(PunktSentenceTokenizer().tokenize(text))
nltk.word_tokenize = lambda text: NLTKWordTokenizer().tokenize(text)
langdetect.DetectorFactory.seed = 0


def official(item, instruction):
    """The official check of this instruction, as a function of the text."""
    found = instructions_registry.INSTRUCTION_DICT[instruction.kind](instruction.kind)
    found.build_description(**{k: list(v) if isinstance(v, tuple) else v for k, v in instruction.arguments.items()})
    if "prompt" in (found.get_instruction_args() or {}):
        found.build_description(prompt=item.question)
    return found.check_following


def main() -> None:
    items = PROBE.items(sys.argv[1])
    texts = [row["completion"] for _, row in read_rows(sys.argv[2], offline=True)]
    texts += [make(item.instructions) for item in items for make in (fitting, breaking)]
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for item in items:
        for instruction in item.instructions:
            theirs = official(item, instruction)
            for text in filter(str.strip, texts):
                ours = follows(instruction, text)
                same = "undecided" if ours is None else "same" if ours is bool(theirs(text)) else "other"
                counts[instruction.kind][same] += 1
    for kind, found in sorted(counts.items()):
        print(f"{kind:<46} same {found['same']:>6}  other {found['other']:>4}  undecided {found['undecided']:>4}")
    total = sum(counts.values(), Counter())
    print(f"{'all':<46} same {total['same']:>6}  other {total['other']:>4}  undecided {total['undecided']:>4}")


if __name__ == "__main__":
    main()
