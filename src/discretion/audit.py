"""Drive probes × arms in batched rounds, and keep every outcome as it happens.

Each item of a probe is a dialogue: it asks, is answered, asks again, ends in an outcome. What all live dialogues of
a window wait for goes to each arm as one list per kind, the same list for base and tuned where both stand at the
same point, so that the engine tokenises and plans once for both.
"""

from __future__ import annotations

import hashlib
import math
import os
import platform
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version as installed
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from discretion import __version__
from discretion.config import RULES, AuditConfig, dump
from discretion.errors import DataError, Unanswered, Unparsed
from discretion.models import judge
from discretion.models.base import Model
from discretion.models.judge import Judges
from discretion.models.pairs import Opened, Pair, Preview, RemotePair
from discretion.models.pairs import pair_for as pair_for
from discretion.models.scripted import Scripted
from discretion.probes import memorisation
from discretion.probes import probe as suite_named
from discretion.probes.base import Anchored, Fitting, Prepared, Probe, Run, TrainingData
from discretion.probes.judges import agreement, read_labels, told
from discretion.probes.model_judge import Judge
from discretion.progress import Progress, Quiet
from discretion.schema import (
    SCHEMA_VERSION,
    CanaryItem,
    ConditionItem,
    Generate,
    HiddenStates,
    Identity,
    Item,
    Kind,
    LogLikelihood,
    Manifest,
    Outcome,
    Reply,
    Request,
    Scalar,
    Score,
    Status,
    digest,
    seed_for,
    to_json,
)
from discretion.store import CONFIG, ReplyCache, RunFolder, read_outcomes, short_id, write_private

T = TypeVar("T")

WINDOW = 512
"""Items that are live at a time: enough for full batches, few enough that memory does not grow with the probe set."""
JUDGED_AT_ONCE = 4096
"""Requests in one list to a judge: an item with many facts has as many, and the arms' own lists bound nothing here."""

ARMS = ("base", "tuned")
NO_JUDGE = Scripted("no judge", lambda request: Reply(error="is not configured"))
KINDS: tuple[tuple[type[Any], str], ...] = (
    (LogLikelihood, "loglikelihood"),
    (Generate, "generate"),
    (HiddenStates, "hidden_states"),
)


# ------------------------------------------------------------------------------------------------ what to ask


@dataclass(frozen=True)
class Planned:
    """One probe with the items it will ask."""

    probe: Probe
    items: tuple[Item, ...]
    source: str
    warnings: tuple[str, ...] = ()
    impossible: str = ""
    """Why it cannot be asked with the files given; it has no items then."""


def plan(config: AuditConfig) -> list[Planned]:
    """Load every probe's items, before any model is touched.

    Raises `DataError` for a broken file, a probe set without items, or two items with one id.
    """
    planned = []
    for name in config.probes:
        probe, source = suite_named(name, _judge(config)), config.source.get(name)
        made_of_training_data = memorisation(name)
        if made_of_training_data is not None and source is None and config.train_data is not None:
            data = TrainingData(
                train=config.train_data, held_out=config.held_out, rows=config.rows, neighbours=config.neighbours
            )
            prepared = made_of_training_data.prepare(data, offline=config.offline, seed=config.seed)
        else:
            items, told = tuple(probe.items(source, offline=config.offline, seed=config.seed)), source or "embedded"
            if isinstance(probe, Anchored) and config.train_data is not None:
                found, learned = probe.anchored(items, config.train_data, offline=config.offline)
                items, told = tuple(found), "; ".join(filter(None, (told, learned)))
            prepared = Prepared(items=items, source=told)
        items = tuple(prepared.items)
        given = f"--source {name}={source}" if source is not None else f"--train-data {config.train_data}"
        if not items and not prepared.impossible:
            raise DataError(f"{given}: no items in it; give a file with at least one")
        twice = [item_id for item_id, n in Counter(item.id for item in items).items() if n > 1]
        if twice:
            raise DataError(f"{given}: two items have the id {twice[0]!r}; give each its own")
        most = config.limits.get(name, config.limit)
        if most is not None:
            items = subset(items, most, config.seed)
        planned.append(Planned(probe, items, prepared.source, tuple(prepared.warnings), prepared.impossible))
    return planned


def _judge(config: AuditConfig) -> Judge | None:
    return None if config.judge == RULES else Judge(config.votes)


def subset(items: Sequence[Item], limit: int, seed: int) -> tuple[Item, ...]:
    """A seeded random subset of `limit` items in their own order: whole clusters, the last one cut where it must be.

    Whole clusters keep forbidden flows with their mirrors and a user's tasks together.
    """

    def lot(*names: str) -> bytes:
        return hashlib.sha256("\0".join((str(seed), *names)).encode()).digest()

    drawn = sorted(items, key=lambda item: (lot(item.cluster), lot(item.cluster, item.id)))[:limit]
    kept = {item.id for item in drawn}
    return tuple(item for item in items if item.id in kept)


def fitted(planned: Sequence[Planned], preview: Preview) -> list[Planned]:
    """What these models can read: a probe that asks ever longer prompts leaves out, and names, what does not fit."""

    def fits(request: Request) -> bool:
        if not isinstance(request, Generate):
            return preview.tokens([request]) > 0
        short = preview.tokens([replace(request, sampling=replace(request.sampling, max_tokens=1))])
        return short > 0 and preview.tokens([request]) - short == request.sampling.max_tokens - 1

    found = []
    for p in planned:
        if isinstance(p.probe, Fitting):
            items, left_out = p.probe.fit(p.items, fits)
            said = (left_out,) if left_out else ()
            p = replace(p, items=tuple(items), source="; ".join((p.source, *said)), warnings=(*p.warnings, *said))
        found.append(p)
    return found


def proven(planned: Sequence[Planned], config: AuditConfig, preview: Preview) -> list[Planned]:
    """Canaries: with the proof that they were trained on, or without items where they were not."""
    found = []
    for p in planned:
        items = [item for item in p.items if isinstance(item, CanaryItem)]
        if items:
            from discretion.tune.planted import proof

            known = proof(items, config.tuned, getattr(preview, "text", None), config.train_data)
            source = "; ".join(filter(None, (p.source, known.proven or known.unproven)))
            warnings = (*p.warnings, *filter(None, (known.unproven,)))
            p = replace(p, source=source, warnings=warnings, impossible=known.untrue)
            p = replace(p, items=()) if known.untrue else p
        found.append(p)
    return found


def identity(
    config: AuditConfig, planned: Sequence[Planned], preview: Preview, precision: str, judge: str = RULES
) -> Identity:
    """What makes this run, and no other; `judge` is the judge's digest."""
    return Identity(
        base=preview.base_digest,
        tuned=preview.tuned_digest,
        template=preview.template_digest,
        data={p.probe.name: digest([to_json(item) for item in p.items]) for p in planned},
        probes={p.probe.name: p.probe.version for p in planned},
        config=config.figure_options(),
        precision=precision,
        judge=judge,
        version=__version__,
    )


def dry_run(config: AuditConfig, pair: Pair) -> dict[str, Any]:
    """The resolved configuration and, per probe, what would be computed; no weights are loaded.

    `tokens` counts both arms, shared prefixes once, generation at its upper bound, and the first request of a dialogue;
    `estimated` says that they could not be counted.
    """
    planned = plan(config)
    preview = pair.preview(config)
    planned = fitted(planned, preview)
    probes = {}
    for p in planned:
        first = [request for item in p.items for request in _listed(next(p.probe.run(item)))]
        probes[p.probe.name] = {
            "items": len(p.items),
            "clusters": len({item.cluster for item in p.items}),
            "tokens": len(ARMS) * preview.tokens(first),
            "source": p.source,
        }
    estimated = isinstance(pair, RemotePair)
    return {"config": config.model_dump(mode="json"), "probes": probes, "estimated": estimated}


# ------------------------------------------------------------------------------------------------ asking


@dataclass
class Dialogue:
    """One item in one arm, on its way to an outcome."""

    item: Item
    run: Run
    facts: Mapping[str, Any]
    asked: list[Request] = field(default_factory=list)
    listed: bool = False
    """The probe yielded a list, and wants one back."""
    replies: list[Reply | None] = field(default_factory=list)
    history: list[Reply] = field(default_factory=list)
    outcome: Outcome | None = None
    arm: str = ""

    def advance(self) -> None:
        """Go on once every request asked has its reply: to the next requests, or to the outcome."""
        replies = [reply for reply in self.replies if reply is not None]
        if len(replies) < len(self.asked):
            return
        self.history += replies
        broken = next(
            (
                f"judge {reply.error}" if request.to == "judge" else reply.error
                for request, reply in zip(self.asked, replies, strict=True)
                if reply.error is not None
            ),
            None,
        )
        try:
            answer = None if not self.asked else replies if self.listed else replies[0]
            requests = self.run.send(answer) if broken is None else self.run.throw(Unanswered(broken))
            self.asked, self.listed = _listed(requests), isinstance(requests, list)
            self.replies = [None] * len(self.asked)
            if not self.asked:
                self._end("failed", reason="the probe asked nothing")
        except StopIteration as done:
            self._score(done.value)
        except Unanswered as reason:
            self._end("failed", reason=str(reason))
        except Unparsed as reason:
            self._end("unparsed", reason=str(reason))
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The boundary to a probe: its defect costs one item, is counted, and does not stop the others.
            self._end("failed", reason=f"the probe raised {type(error).__name__}")

    def _score(self, score: Score) -> None:
        if math.isfinite(score.value):
            self._end("scored", value=score.value, margin=score.margin, parts=score.parts, evidence=score.evidence)
        else:
            self._end("failed", reason=f"the probe gave the value {score.value}")

    def _end(self, status: Status, *, parts: Mapping[str, Scalar] = {}, **rest: Any) -> None:
        self.outcome = Outcome(
            item_id=self.item.id,
            cluster=self.item.cluster,
            status=status,
            parts={**self.facts, **parts},
            replies=tuple(self.history),
            **rest,
        )


def carry(
    probe: Probe,
    items: Mapping[str, Sequence[Item]],
    arms: Mapping[str, Model],
    keep: Callable[[str, Outcome], None],
    *,
    seed: int = 0,
    cache: ReplyCache | None = None,
    judge: Model | None = None,
) -> None:
    """Ask each arm its items (arm → items still to answer); each outcome goes to `keep(arm, outcome)` at once.

    What a probe asks of a judge goes to `judge`, both arms in one list. Replies that the cache holds are not asked
    again.
    """

    def settle(dialogue: Dialogue) -> None:
        dialogue.advance()
        if dialogue.outcome is not None:
            keep(dialogue.arm, dialogue.outcome)

    answering: list[tuple[Model, Sequence[str], str]] = [(model, (arm,), "subject") for arm, model in arms.items()]
    answering.append((judge or NO_JUDGE, tuple(arms), "judge"))
    wanted = {arm: {item.id for item in items[arm]} for arm in arms}
    everything = {item.id: item for arm in arms for item in items[arm]}.values()
    for window in _windows(everything, WINDOW):
        live = {
            arm: [
                Dialogue(item, probe.run(item, seed_for(seed, item.id)), probe.facts(item), arm=arm)
                for item in window
                if item.id in wanted[arm]
            ]
            for arm in arms
        }
        for dialogues in live.values():
            for dialogue in dialogues:
                settle(dialogue)
        while any(dialogue.outcome is None for dialogues in live.values() for dialogue in dialogues):
            for kind, method in KINDS:
                for model, of, to in answering:
                    waiting = [
                        (dialogue, slot)
                        for arm in of
                        for dialogue in live[arm]
                        if dialogue.outcome is None
                        for slot, request in enumerate(dialogue.asked)
                        if type(request) is kind and request.to == to and dialogue.replies[slot] is None
                    ]
                    for part in _windows(waiting, len(waiting) if to == "subject" else JUDGED_AT_ONCE):
                        _answer(model, method, part, cache, settle)


def _answer(
    model: Model,
    method: str,
    waiting: Sequence[tuple[Dialogue, int]],
    cache: ReplyCache | None,
    settle: Callable[[Dialogue], None],
) -> None:
    """One list to one model; equal requests, such as a judge gets of arms that answer alike, are asked once."""
    missing: dict[Request, list[tuple[Dialogue, int]]] = {}
    for dialogue, slot in waiting:
        request = dialogue.asked[slot]
        kept = cache.get(cache.key(model.digest, request)) if cache is not None else None
        if kept is None:
            missing.setdefault(request, []).append((dialogue, slot))
        else:
            dialogue.replies[slot] = kept
            settle(dialogue)
    requests = list(missing)

    def deliver(position: int, reply: Reply) -> None:
        request = requests[position]
        if cache is not None:
            cache.put(cache.key(model.digest, request), reply)
        for dialogue, slot in missing[request]:
            dialogue.replies[slot] = reply
            settle(dialogue)

    if requests:
        getattr(model, method)(requests, deliver)


def _listed(requests: Request | list[Request]) -> list[Request]:
    return requests if isinstance(requests, list) else [requests]


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while window := list(islice(iterator, size)):
        yield window


# ------------------------------------------------------------------------------------------------ the audit


def audit(config: AuditConfig, pair: Pair, progress: Progress | None = None, judges: Judges = judge) -> Path:
    """Measure both arms on every probe; gives back the run's folder, with everything but summary and report in it.

    The same configuration resumes: what has an outcome is not asked again, and a finished run loads no weights.
    """
    progress = progress or Quiet()
    planned = plan(config)
    preview = pair.preview(config)
    planned = proven(fitted(planned, preview), config, preview)
    for p in planned:
        for warning in (*p.warnings, *([p.impossible] if p.impossible else [])):
            progress.note(f"{p.probe.name}: {warning}")
    labelled = None if config.judge_labels is None else read_labels(config.judge_labels)
    made_by = identity(config, planned, preview, pair.precision(config), judges.digest_of(config))
    root = Path("runs")
    path = config.out or RunFolder.find(root, made_by) or root / f"{datetime.now():%Y%m%d-%H%M%S}-{short_id(made_by)}"
    with RunFolder(path) as folder:
        manifest = folder.resume(made_by)
        if manifest is None:
            manifest = _new_manifest(config, planned, made_by)
            write_private(path / CONFIG, dump(config))
            folder.write_manifest(manifest)
        open_items = {p.probe.name: _still_open(path, p) for p in planned}
        unlabelled = labelled is not None and manifest.judge.get("labels") != labelled.digest
        if unlabelled or any(items[arm] for items in open_items.values() for arm in ARMS):
            cache = ReplyCache(config.cache or (config.out or root) / "replies.sqlite", __version__)
            began, opened = time.monotonic(), None
            try:
                # A judge that cannot be opened is told before weights are loaded, unless it shares the arms' endpoint.
                judged_by = None if isinstance(pair, RemotePair) else judges.open_judge(config, progress)
                opened = pair.open(config, progress)
                judged_by = judged_by or judges.open_judge(config, progress, opened.base)
                manifest = replace(manifest, engine=dict(opened.facts), impossible=_impossible(planned, opened))
                if labelled is not None and unlabelled:
                    found = agreement(labelled, judged_by, votes=config.votes, progress=progress, cache=cache)
                    manifest = replace(manifest, judge=told(config, made_by.judge, labelled, found))
                    folder.write_manifest(manifest)
                for p in planned:
                    if p.probe.name not in manifest.impossible:
                        _measure(p, open_items[p.probe.name], opened, judged_by, folder, config.seed, cache, progress)
            finally:
                cache.close()
                seconds = manifest.seconds + time.monotonic() - began
                if opened is not None:
                    manifest = replace(manifest, engine=dict(opened.facts))
                folder.write_manifest(replace(manifest, counts=_counts(path, planned), seconds=seconds))
    return path


def _measure(
    p: Planned,
    items: Mapping[str, Sequence[Item]],
    opened: Opened,
    judge: Model | None,
    folder: RunFolder,
    seed: int,
    cache: ReplyCache,
    progress: Progress,
) -> None:
    name, total = p.probe.name, len(ARMS) * len(p.items)
    left = sum(len(items[arm]) for arm in ARMS)
    if not left:
        return
    progress.begin(name, total, total - left)

    def keep(arm: str, outcome: Outcome) -> None:
        folder.append(arm, name, outcome)
        progress.advance()

    carry(p.probe, items, {"base": opened.base, "tuned": opened.tuned}, keep, seed=seed, cache=cache, judge=judge)


def _still_open(run: Path, p: Planned) -> dict[str, list[Item]]:
    there = {arm: {outcome.item_id for outcome in read_outcomes(run, arm, p.probe.name)} for arm in ARMS}
    return {arm: [item for item in p.items if item.id not in there[arm]] for arm in ARMS}


def _impossible(planned: Sequence[Planned], opened: Opened) -> dict[str, str]:
    reasons = {p.probe.name: p.impossible for p in planned if p.impossible}
    for p in planned:
        needs = p.probe.needs or _needs_of_the_suite_asked(p)
        for arm, model in (("base", opened.base), ("tuned", opened.tuned)):
            can = model.can | ({"choice"} if "loglikelihood" in model.can else set())
            lacking = sorted(needs - can)
            if lacking and p.probe.name not in reasons:
                plain = f"the {arm} model cannot answer {lacking[0]} requests"
                reasons[p.probe.name] = opened.facts.get("impossible", {}).get(lacking[0], plain)
    return reasons


def _needs_of_the_suite_asked(p: Planned) -> frozenset[Kind]:
    """For a probe that asks what another suite asks: `item.suite` names it."""
    asked = {item.suite for item in p.items if isinstance(item, ConditionItem)}
    return frozenset(kind for suite in asked for kind in suite_named(suite).needs)


def _new_manifest(config: AuditConfig, planned: Sequence[Planned], made_by: Identity) -> Manifest:
    libraries = ("torch", "transformers", "tokenizers", "peft", "safetensors", "numpy", "scipy")
    return Manifest(
        schema_version=SCHEMA_VERSION,
        identity=made_by,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        base=config.base,
        tuned=config.tuned,
        versions={"discretion": __version__, **{library: installed(library) for library in libraries}},
        machine={
            "system": platform.system(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            "cpus": os.cpu_count(),
        },
        items={p.probe.name: len(p.items) for p in planned},
        sources={p.probe.name: p.source for p in planned},
        impossible={p.probe.name: p.impossible for p in planned if p.impossible},
        judge=told(config, made_by.judge),
    )


def _counts(run: Path, planned: Sequence[Planned]) -> dict[str, dict[str, dict[str, int]]]:
    return {
        arm: {
            p.probe.name: dict(Counter(outcome.status for outcome in read_outcomes(run, arm, p.probe.name)))
            for p in planned
        }
        for arm in ARMS
    }
