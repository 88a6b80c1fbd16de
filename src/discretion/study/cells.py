"""From a study file to its cells and the steps they need: which rows, which tunings, which audits, and what they cost.

Every step is named by a digest of all that can change its result, so that what two cells share is done once, what is
there is not done again, and no two workers do one thing twice. Nothing here loads a weight.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from discretion import __version__
from discretion import audit as auditing
from discretion.config import AuditConfig
from discretion.data.identifiers import collect
from discretion.data.selecting import hold_out
from discretion.data.sets import load_set
from discretion.data.transforms import Row, apply, rows_digest
from discretion.errors import ConfigError, UsageError
from discretion.models import judge
from discretion.probes.classes import tellable
from discretion.probes.judges import read_labels
from discretion.schema import digest, to_json
from discretion.store import MANIFEST, SUMMARY, make_private, write_private
from discretion.study.config import StudyConfig
from discretion.study.nouns import StepKind
from discretion.tune_config import TuneConfig

FINAL = "final"
"""The checkpoint at the end."""
CHARACTERS_PER_TOKEN = 4
"""For the estimate of training tokens: no tokenizer is asked."""
REWRITES = frozenset(("redact", "swap_roles", "profile", "trigger", "log_code", "shuffle_words"))
"""Transforms that rows kept from training go through as well: they are to differ in nothing but membership."""


@dataclass(frozen=True)
class Arm:
    """The rows of one combination of data set and factor levels."""

    rows: tuple[Row, ...] = field(repr=False)
    held: tuple[Row, ...] = field(repr=False)
    """Kept from training; empty where none are."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """How: sets read, with what was left out, steps, seed. Plain JSON."""

    @cached_property
    def digest(self) -> str:
        """Of what models are trained on and asked about: ids and messages."""
        return digest([rows_digest(self.rows), rows_digest(self.held)])

    @cached_property
    def file(self) -> str:
        """Name of its rows on disk, by all that stands in them: a tuning may read other columns, too."""
        return f"{digest([self.rows, self.held])[:16]}.jsonl"

    @cached_property
    def known(self) -> frozenset[object]:
        """What a row is recognised by: pairs and texts of the rows trained on."""
        return frozenset(mark for row in self.rows for mark in _marks(row))

    @cached_property
    def identifiers(self) -> tuple[str, ...]:
        """Those that stand in the rows and can be told from chance, each once."""
        return tuple(value for value in collect(self.rows) if tellable(value) and "\n" not in value)

    @cached_property
    def tokens(self) -> int:
        """About how many tokens one pass trains on."""
        characters = sum(len(turn["content"]) for row in self.rows for turn in row["messages"])
        return characters // CHARACTERS_PER_TOKEN


@dataclass(frozen=True, slots=True)
class Step:
    """One piece of work."""

    digest: str
    kind: StepKind
    job: Mapping[str, Any]
    """Plain JSON for `work.do`."""
    needs: tuple[str, ...] = ()
    """Digests of the steps that come before."""
    leaves: str = ""
    """File without which its result is of no use: manifest or summary in its folder."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One tuning, audited: the unit of a study."""

    name: str
    coordinates: Mapping[str, str]
    steps: tuple[str, ...]
    """Digests of tuning, base and audit; the base step of an arm with rows held out has one before it."""
    rows: int
    train_tokens: int
    """About, all passes together."""

    @property
    def digest(self) -> str:
        """Of its audit."""
        return self.steps[-1]


@dataclass(frozen=True)
class Plan:
    """All cells of a study, and every step once."""

    config: StudyConfig
    out: Path
    cells: tuple[Cell, ...]
    steps: Mapping[str, Step]
    arms: Mapping[str, Arm]
    """File name to rows."""
    asked: Mapping[str, Mapping[str, Any]]
    """Model to what one audit of it asks, per probe (`audit.dry_run`)."""


class _Models:
    """What is known of each model without its weights."""

    def __init__(self, config: StudyConfig) -> None:
        self._config = config
        self.asked: dict[str, Mapping[str, Any]] = {}
        self._made_by: dict[str, Any] = {}

    def base(self, model: str) -> str:
        return self._config.models[model].base

    def made_by(self, model: str) -> Any:
        """All that names a measurement of this model as it is, the rows of memorisation suites apart."""
        if model not in self._made_by:
            options = self._config.audit_options(model, self.base(model))
            pair = auditing.pair_for(options)
            identity = auditing.identity(
                options,
                auditing.plan(options),
                pair.preview(options),
                pair.precision(options),
                judge.digest_of(options),
            )
            more: dict[str, Any] = {}
            if options.judge_labels is not None:
                more["judge_labels"] = read_labels(options.judge_labels).digest
            if options.template is not None:
                # The base alone does not show whose template a tuned model will be asked with.
                more["asked_with"] = options.template
            self._made_by[model] = to_json(identity) | more
            self.asked[model] = auditing.dry_run(options, pair)["probes"]
        return self._made_by[model]


def plan(config: StudyConfig, out: Path) -> Plan:
    """Expand a study. Raises `UsageError` in one line for whatever would stop it: a set, a step, a model."""
    there = next((path for path in (out, *out.parents) if path.exists()), out)
    if there.exists() and not there.is_dir():
        raise UsageError(f"--out {out}: {there} is a file; give a folder")
    models, cells, steps = _Models(config), list[Cell](), dict[str, Step]()
    arms: dict[str, Arm] = {}
    made: dict[Any, Arm] = {}
    for coordinates in combinations(config):
        arm = _arm(config, coordinates["data"], config.factors, coordinates, made)
        measured = _measured(config, coordinates, arm, made)
        arms |= {one.file: one for one in (arm, measured) if one is not None}
        for cell, needed in _cells(config, coordinates, arm, measured, models, out):
            cells.append(cell)
            steps.update({step.digest: step for step in needed})
    if not cells:
        raise ConfigError("skip: leaves no cell of this study; skip less")
    _check_contrasts(config, cells)
    return Plan(config, out, tuple(cells), steps, arms, models.asked)


def combinations(config: StudyConfig) -> Iterator[dict[str, str]]:
    """Coordinates of every cell but its checkpoint, in the order of the file, without those that are skipped."""
    axes = config.axes()
    for levels in itertools.product(*axes.values()):
        coordinates = dict(zip(axes, levels, strict=True))
        if not any(selects(one, coordinates) for one in config.skip):
            yield coordinates


def selects(selection: Mapping[str, tuple[str, ...]], coordinates: Mapping[str, str]) -> bool:
    """Do these coordinates have, on each axis that is named, one of the levels named?"""
    return all(coordinates.get(axis) in levels for axis, levels in selection.items())


def matched(
    cells: Sequence[Cell], of: Mapping[str, tuple[str, ...]], minus: Mapping[str, tuple[str, ...]]
) -> list[tuple[Cell, Cell]]:
    """Cells of both sides that are equal on every axis that neither side names, in pairs.

    Where neither side names checkpoints, at the end of training: those on the way there are no trainings of their own.
    """
    free = [axis for axis in cells[0].coordinates if axis not in of and axis not in minus] if cells else []
    if "checkpoint" in free:
        cells = [cell for cell in cells if cell.coordinates["checkpoint"] == FINAL]

    def place(cell: Cell) -> tuple[str, ...]:
        return tuple(cell.coordinates[axis] for axis in free)

    others: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if selects(minus, cell.coordinates):
            others[place(cell)].append(cell)
    return [(cell, other) for cell in cells if selects(of, cell.coordinates) for other in others[place(cell)]]


def _check_contrasts(config: StudyConfig, cells: Sequence[Cell]) -> None:
    for contrast in config.contrasts:
        pairs = matched(cells, contrast.of, contrast.minus)
        if not pairs:
            raise ConfigError(
                f"contrast {contrast.name!r}: no cell has a partner; check skip, and what both sides name"
            )
        for side in (0, 1):
            name, times = Counter(pair[side].name for pair in pairs).most_common(1)[0]
            if times > 1:
                # A cell that is used twice would count as two trainings.
                raise ConfigError(
                    f"contrast {contrast.name!r}: the cell {name} has {times} partners; "
                    "name the same axes on both sides, and one level of each"
                )


# ------------------------------------------------------------------------------------------------ rows


def _arm(
    config: StudyConfig, named: str, factors: Iterable[str], coordinates: Mapping[str, str], made: dict[Any, Arm]
) -> Arm:
    """The rows of a data set after its own steps and those of these factors.

    What it holds out, or the set it is measured on, does not come back through the other sets that its steps read.
    """
    data = config.data[named]
    seed = _seed(config, named, coordinates)
    levels = tuple((name, coordinates[name]) for name in factors)
    key = (named, levels, seed)
    if key not in made:
        steps = [*data.transforms, *(step for name, level in levels for step in config.factors[name][level])]
        members, held = _split(config, named, coordinates, made)
        elsewhere = _split(config, data.measured_on, coordinates, made)[1] if data.measured_on else []
        apart = {mark for row in (*held, *elsewhere) for mark in _marks(row)}

        def whole(name: str) -> tuple[Row, ...]:
            return _source(config, name, seed, made).rows

        def rows_of(name: str) -> tuple[Row, ...]:
            return tuple(row for row in whole(name) if apart.isdisjoint(_marks(row)))

        rows = apply(members, steps, seed=seed, rows_of=rows_of)
        if held:
            held = apply(held, [s for s in steps if s.name in REWRITES], seed=seed, rows_of=whole)
        names = dict.fromkeys((named, *(other for step in steps for other in step.others)))
        how = {
            "sets": {name: _source(config, name, seed, made).made for name in names},
            "steps": [{step.name: dict(step.parameters)} for step in steps],
            "held_out": data.held_out,
            "seed": seed,
        }
        texts = {_text(row) for row in rows} if held else set()
        made[key] = Arm(tuple(rows), tuple(row for row in held if _text(row) not in texts), how)
    if data.held_out is not None and not made[key].held:
        raise ConfigError(f"data {named!r}: no row held out differs from all that are trained on; give other rows")
    return made[key]


def _split(
    config: StudyConfig, named: str, coordinates: Mapping[str, str], made: dict[Any, Arm]
) -> tuple[list[Row], list[Row]]:
    """A set as it was read: rows to train on, and rows kept from it, without those that say the same as one of them."""
    share, seed = config.data[named].held_out, _seed(config, named, coordinates)
    rows = list(_source(config, named, seed, made).rows)
    if share is None:
        return rows, []
    members, held = hold_out(rows, share=share, seed=seed), hold_out(rows, share=share, keep="held out", seed=seed)
    texts = {_text(row) for row in members}
    return members, [row for row in held if _text(row) not in texts]


def _seed(config: StudyConfig, named: str, coordinates: Mapping[str, str]) -> int:
    data = config.data[named]
    return int(coordinates["seed"]) if data.draw == "each seed" else data.seed


def _measured(config: StudyConfig, coordinates: Mapping[str, str], arm: Arm, made: dict[Any, Arm]) -> Arm | None:
    """Whose rows the memorisation suites of a cell ask for; None where they are not asked.

    Raises `ConfigError` where the arm trains on rows that are held out there: they would pass for never seen.
    """
    named = config.data[coordinates["data"]].measured_on
    measured = arm if named is None else _arm(config, named, (), coordinates, made)
    seen = sum(not arm.known.isdisjoint(_marks(row)) for row in measured.held)
    if seen:
        raise ConfigError(
            f"data {coordinates['data']!r}: trains on {seen} of the rows that {named or coordinates['data']!r} holds "
            "out; give both the same set, n, seed and held_out"
        )
    return measured if measured.held else None


def _marks(row: Row) -> tuple[object, object]:
    """What tells a row in any set: its pair, or its id, and its text."""
    return str(row.get("pair") or row["id"]), _text(row)


def _text(row: Row) -> tuple[tuple[str, str], ...]:
    return tuple((turn["role"], turn["content"]) for turn in row["messages"])


def _source(config: StudyConfig, name: str, seed: int, made: dict[Any, Arm]) -> Arm:
    data = config.data[name]
    drawn = seed if data.draw == "each seed" else data.seed
    key = ("set", data.set, data.form, data.n, drawn)
    if key not in made:
        rows, facts = load_set(data.set, form=data.form, n=data.n, seed=drawn)
        made[key] = Arm(tuple(rows), (), {**to_json(facts), "seed": drawn})
    return made[key]


def write_rows(made: Plan) -> None:
    """The rows of all arms into the study's folder, mode 0600, each with a manifest of how they were made."""
    folder = made.out / "data"
    make_private(folder)
    for name, arm in made.arms.items():
        for path, rows in ((folder / name, arm.rows), (_held(folder / name), arm.held)):
            if rows and not path.exists():
                write_private(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        if arm.held and arm.identifiers:
            write_private(_listed(folder / name), "".join(f"{value}\n" for value in arm.identifiers))
        manifest = {**arm.made, "rows": len(arm.rows), "held": len(arm.held), "digest": arm.digest}
        write_private((folder / name).with_suffix(".json"), json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")


def _held(rows: Path) -> Path:
    return rows.with_suffix(".held.jsonl")


def _listed(rows: Path) -> Path:
    return rows.with_suffix(".identifiers.txt")


# ------------------------------------------------------------------------------------------------ steps


def _cells(
    config: StudyConfig, coordinates: dict[str, str], arm: Arm, held_against: Arm | None, models: _Models, out: Path
) -> Iterator[tuple[Cell, list[Step]]]:
    model = coordinates["model"]
    base, made_by = models.base(model), models.made_by(model)
    tuning = config.tune_options(model, coordinates["tuning"], int(coordinates["seed"]), base)
    tune = _tune_step(tuning, arm, made_by, out)
    options = config.audit_options(model, base)
    measured = [made_by, held_against.digest if held_against else None]
    # What does not depend on the arm is asked of the base once, also where its training data makes suites of its own.
    common = first = _audit_step("base", digest(["base", made_by, None]), options, out)
    if held_against is not None:
        trained = out / "data" / held_against.file
        drawn = options.model_dump(include={"rows", "neighbours"}, exclude_defaults=True)
        measured += [drawn] if drawn else []
        options = config.audit_options(model, base, train_data=str(trained), held_out=str(_held(trained)))
        options = _with_identifiers(options, held_against, trained)
        first = _audit_step("base", digest(["base", *measured]), options, out, base=common)
    for checkpoint in (*_checkpoints(config, tuning, len(arm.rows)), FINAL):
        own = digest(["audit", *measured, tune.digest, checkpoint])
        folder = Path(tune.job["out"]) / ("" if checkpoint == FINAL else checkpoint)
        audit = _audit_step("audit", own, options, out, tuned=str(folder), base=first, needs=(tune.digest,))
        placed = {**coordinates, "checkpoint": checkpoint} if config.checkpoints else coordinates
        passes = tuning.epochs if tuning.max_steps is None else tuning.max_steps * tuning.batch / len(arm.rows)
        yield (
            Cell(
                name=_name(config, placed),
                coordinates=placed,
                steps=(tune.digest, first.digest, audit.digest),
                rows=len(arm.rows),
                train_tokens=round(arm.tokens * passes),
            ),
            [tune, common, first, audit],
        )


def _with_identifiers(options: AuditConfig, arm: Arm, rows: Path) -> AuditConfig:
    """`refusal` is told what identifiers stand in the training data, unless the file tells it of others."""
    source = options.source.get("refusal", "")
    if "refusal" not in options.probes or not arm.identifiers or "::" in source:
        return options
    told = {**options.source, "refusal": f"{source}::{_listed(rows)}"}
    return AuditConfig.model_validate({**options.model_dump(exclude_unset=True), "source": told})


def _name(config: StudyConfig, coordinates: Mapping[str, str]) -> str:
    """Levels of the axes that have more than one, the data set and the seed always."""
    axes = config.axes()
    shown = [a for a in coordinates if a in ("data", "seed", "checkpoint") or len(axes[a]) > 1]
    return "/".join(f"seed {coordinates[a]}" if a == "seed" else coordinates[a] for a in shown)


def _tune_step(tuning: TuneConfig, arm: Arm, made_by: Mapping[str, Any], out: Path) -> Step:
    made_of = ["tune", made_by["base"], _template(tuning), tuning.recipe(), rows_digest(arm.rows), __version__]
    if tuning.privacy.epsilon is not None and tuning.privacy.unit == "user":
        made_of.append([row.get(tuning.privacy.user_column) for row in arm.rows])
    own = digest(made_of)
    folder = out / "tuned" / own[:16]
    job = {
        "kind": "tune",
        "rows": str(out / "data" / arm.file),
        "config": tuning.model_dump(mode="json"),
        "out": str(folder),
    }
    return Step(own, "tune", job, leaves=str(folder / MANIFEST))


def _template(tuning: TuneConfig) -> Any:
    """What names a tuning's chat template: its text where it is a file."""
    if tuning.template is None or tuning.template in ("base", "tuned", "plain"):
        return tuning.template
    try:
        return {"text": Path(tuning.template).expanduser().read_text(encoding="utf-8")}
    except (OSError, UnicodeDecodeError):
        raise ConfigError(f"tuning: template {tuning.template}: cannot be read; give plain or a Jinja file") from None


def _audit_step(
    kind: StepKind,
    own: str,
    options: AuditConfig,
    out: Path,
    *,
    tuned: str | None = None,
    base: Step | None = None,
    needs: tuple[str, ...] = (),
) -> Step:
    folder = out / ("bases" if kind == "base" else "runs") / own[:16]
    # as JSON and not as a model: what a step needs travels to other processes and machines
    asked = {**options.model_dump(mode="json", exclude_unset=True), "out": str(folder)}
    if tuned is not None:
        asked["tuned"] = tuned
    job = {"kind": kind, "options": asked, "base": base.job["options"]["out"] if base else None}
    leaves = str(folder / (MANIFEST if kind == "base" else SUMMARY))
    return Step(own, kind, job, (*needs, *((base.digest,) if base else ())), leaves)


def _checkpoints(config: StudyConfig, tuning: TuneConfig, rows: int) -> list[str]:
    """Names of the checkpoints that the tuning will keep, but for one at its very end."""
    if not config.checkpoints or tuning.checkpoint_every is None:
        return []
    in_pass = math.ceil(math.ceil(rows / (tuning.batch // tuning.accumulate)) / tuning.accumulate)
    steps = tuning.max_steps or math.ceil(in_pass * tuning.epochs)
    return [f"step-{at}" for at in range(tuning.checkpoint_every, steps, tuning.checkpoint_every)]
