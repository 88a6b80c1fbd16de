"""Canaries: made and planted as told, and exposure that tells a planted secret from one that is not."""

import json
import math
import random
import re
import stat
from collections import Counter
from pathlib import Path

import pytest

from discretion.audit import audit, carry
from discretion.compare import Suite, compare
from discretion.config import AuditConfig, Thresholds
from discretion.data.canaries import (
    exposure_by_rank,
    extrapolated,
    make,
    plant,
    references,
    rows_of,
)
from discretion.data.chats import load_chats, write_chats
from discretion.data.recipes import recipe
from discretion.errors import DataError
from discretion.models.pairs import pair_for
from discretion.models.scripted import Scripted
from discretion.probes.base import validate
from discretion.probes.exposure import EXPOSED, PROBE, distribution
from discretion.schema import CanaryItem, LogLikelihood, Outcome, Reply, Request, to_json
from discretion.store import read_manifest
from tests.tiny import tiny_adapter, tiny_llama

ROWS = recipe("support", n=500)
ITEMS = make(references=1000)


def remembering(weights: dict[str, float], *, noise: int = 0) -> Scripted:
    """Likelihoods drawn per secret, raised by what is given: the same secret has the same one in every request."""

    def answer(request: Request) -> Reply:
        assert isinstance(request, LogLikelihood)
        values = [
            random.Random(f"{noise}{text}").gauss(-40, 4) + weights.get(text.strip(), 0)
            for text in request.continuations
        ]
        return Reply(logprobs=tuple(values), lengths=(1,) * len(values))

    return Scripted("scripted", answer)


def outcomes(model: Scripted) -> list[Outcome]:
    kept: list[Outcome] = []
    carry(PROBE, {"base": ITEMS}, {"base": model}, lambda arm, outcome: kept.append(outcome))
    return kept


# ------------------------------------------------------------------------------------------------ made and planted


def test_each_form_has_ten_secrets_and_ten_twins_for_each_number_of_repetitions() -> None:
    assert Counter((item.form, item.repetitions) for item in ITEMS) == {
        (form, times): 1 for form in ("natural", "words") for times in (1, 2, 4, 8, 16, 32, 64)
    }
    secrets = [secret for item in ITEMS for secret in (*item.planted, *item.twins)]
    assert len(secrets) == len(set(secrets)) == 2 * 7 * 20


def test_all_of_one_form_stand_behind_one_text_and_share_their_references() -> None:
    for form in ("natural", "words"):
        own = [item for item in ITEMS if item.form == form]
        assert len({(item.messages, item.prefill) for item in own}) == 1
        assert len({tuple(references(item)) for item in own}) == 1 and len(set(references(own[0]))) == 1000


def test_making_is_the_same_for_the_same_seed_and_other_for_another() -> None:
    assert make(references=1000) == ITEMS
    assert not {s for i in make(seed=1) for s in i.planted} & {s for i in ITEMS for s in i.planted}


def test_planting_puts_every_secret_into_as_many_rows_as_asked_and_keeps_the_rest_in_order() -> None:
    rows = plant(ROWS, ITEMS)
    text = [row["messages"][-1]["content"] for row in rows]
    for item in ITEMS:
        for secret in item.planted:
            assert sum(f"{item.prefill} {secret}." == said for said in text) == item.repetitions
        assert not any(secret in said for secret in item.twins for said in text)
    assert [row for row in rows if not row["id"].startswith("canaries-")] == ROWS
    assert len({row["id"] for row in rows}) == len(rows)
    places = [number for number, row in enumerate(rows) if row["id"].startswith("canaries-")]
    assert min(places) < len(rows) / 10 and max(places) > len(rows) * 9 / 10
    assert all(row["messages"][-1]["role"] == "assistant" for item in ITEMS for row in rows_of(item))


def test_a_secret_that_is_in_the_data_already_is_refused() -> None:
    there = {"id": "x", "messages": [{"role": "user", "content": f"It is {ITEMS[0].twins[0]}, I think."}]}
    with pytest.raises(DataError, match="1 of the secrets stand in the data already"):
        plant([*ROWS, there], ITEMS)


TURN = {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "Here."}


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [*TURN], "tools": [{"name": "send"}]},
        {"conversations": [{"from": "human", "value": "Where?"}, {"from": "gpt", "value": "Here."}]},
        {"conversations": [*TURN], "id": "mine"},
        {"instruction": "Where?", "input": "In Kiel.", "output": "Here."},
        {"instruction": "Where?", "context": "", "response": "Here.", "category": "qa"},
        {"prompt": "Where?", "completion": "Here.", "n": 3},
        {"prompt": [TURN[0]], "completion": [TURN[1]]},
        {"question": "Where?", "answer": "Here."},
    ],
    ids=lambda row: "-".join(row),
)
def test_canaries_are_written_in_the_form_of_the_data_whose_rows_stay_as_they_are(
    typed, row: dict[str, object]
) -> None:
    Path("data.jsonl").write_text(f"{json.dumps(row)}\n" * 9)
    words = ("--out", "new.jsonl", "--book", "book.jsonl", "--repetitions", "1", "--secrets", 1)
    assert typed("canaries", "plant", "data.jsonl", *words)[0] == 0
    lines = [json.loads(line) for line in Path("new.jsonl").read_text().splitlines()]
    canaries = [line for line in lines if line != row]
    assert len(canaries) == 2 and len(lines) == 11
    assert all(set(line) <= set(row) for line in canaries)
    chats, read = load_chats("new.jsonl")
    assert read.used == 11 and read.form == load_chats("data.jsonl")[1].form
    said = {chat["messages"][-1]["content"] for chat in chats if chat["messages"][0]["content"].startswith("What is")}
    items = [item for item in PROBE.items("book.jsonl") if isinstance(item, CanaryItem)]
    assert said == {f"{item.prefill} {item.planted[0]}." for item in items}


@pytest.mark.parametrize("row", [{"text": "Here."}, {"prompt": "Where?", "chosen": "Here.", "rejected": "No."}])
def test_a_form_that_has_no_place_for_a_secret_is_refused_and_nothing_is_written(typed, row: dict[str, str]) -> None:
    Path("data.jsonl").write_text(f"{json.dumps(row)}\n")
    code, _, err = typed("canaries", "plant", "data.jsonl", "--out", "new.jsonl", "--book", "book.jsonl")
    assert code == 2 and "has no place for a question and a secret" in err and len(err.strip().splitlines()) == 1
    assert [path.name for path in Path().iterdir()] == ["data.jsonl"]


@pytest.mark.parametrize("wrong", [{"repetitions": (1, 1)}, {"repetitions": ()}, {"secrets": 0}, {"references": 5}])
def test_numbers_that_leave_nothing_to_measure_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(DataError, match="canaries: "):
        make(**wrong)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ exposure


def test_exposure_by_rank_is_the_number_of_halvings_that_lead_to_the_secret() -> None:
    rest = [-float(value) for value in range(1, 1024)]
    assert exposure_by_rank(0.0, rest) == 10
    assert exposure_by_rank(-1.5, rest) == 9
    assert exposure_by_rank(-9999.0, rest) == 0
    assert exposure_by_rank(-1.0, rest) == 9, "an equal reference counts against the secret"


def test_exposure_of_a_random_guess_averages_about_one_and_a_half_bits() -> None:
    rng = random.Random(0)
    rest = [rng.gauss(0, 1) for _ in range(500)]
    mean = sum(exposure_by_rank(rng.gauss(0, 1), rest) for _ in range(4000)) / 4000
    assert mean == pytest.approx(1 / math.log(2), abs=0.06)


def test_extrapolation_agrees_with_ranking_where_ranking_can_tell_and_goes_beyond_it() -> None:
    rng = random.Random(0)
    rest = [rng.gauss(-40, 4) for _ in range(10_000)]
    for value in (-40.0, -34.0, -30.0):
        assert extrapolated([value], rest)[0] == pytest.approx(exposure_by_rank(value, rest), abs=0.4)
    far, further, end = extrapolated([-10.0, 0.0, 900.0], rest)
    assert exposure_by_rank(-10.0, rest) < far < further <= end == 1074


def test_references_that_are_all_alike_give_no_error() -> None:
    assert extrapolated([-1.0, -3.0], [-2.0] * 100) == [1074.0, 0.0]


# ------------------------------------------------------------------------------------------------ the suite


def test_the_scorer_is_proven_on_every_item() -> None:
    assert validate(PROBE, ITEMS) == []


def test_planted_secrets_are_exposed_by_repetition_and_twins_stay_at_chance() -> None:
    gain = {secret: 4 * math.log2(2 * item.repetitions) for item in ITEMS for secret in item.planted}
    base, tuned = outcomes(remembering({})), outcomes(remembering(gain))
    figures = {f.metric: f for f in compare(Suite(PROBE, base, tuned, len(ITEMS)), Thresholds(draws=1000))}
    beyond = figures["canaries exposed beyond twins"]
    assert beyond.base.value == pytest.approx(0, abs=0.04) and (beyond.tuned.value or 0) > 0.7
    assert beyond.difference.p is not None and beyond.difference.p < 0.01
    assert (figures["exposed, twins"].tuned.value or 0) <= 0.03
    medians = [figures[f"median exposure, seen {n} ×"].tuned.value or 0 for n in (1, 4, 64)]
    assert medians == sorted(medians) and medians[-1] == pytest.approx(math.log2(1001))
    further = [figures[f"extrapolated, seen {n} ×"].tuned.value or 0 for n in (1, 4, 64)]
    assert further[-1] > 2 * medians[-1]


def test_each_secret_keeps_its_own_exposure() -> None:
    outcome = outcomes(remembering({ITEMS[0].planted[3]: 100.0}))[0]
    assert outcome.parts["planted 3"] == pytest.approx(math.log2(1001))
    assert outcome.value == sum(float(outcome.parts[f"planted {n}"] or 0) >= EXPOSED for n in range(10)) / 10  # type: ignore[arg-type]
    assert len([part for part in outcome.parts if part.startswith("twin ")]) == 22


# ------------------------------------------------------------------------------------------------ the command line


def test_canaries_are_planted_into_a_private_file_and_the_book_is_an_audits_source(typed, tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    write_chats(data, ROWS)
    code, out, _ = typed(
        "canaries", "plant", data, "--out", "new.jsonl", "--book", "book.jsonl", "--repetitions", "1,4", "--json"
    )
    assert code == 0 and json.loads(out)["canary_rows"] == 2 * 10 * 5
    assert {stat.S_IMODE(Path(name).stat().st_mode) for name in ("new.jsonl", "book.jsonl")} == {0o600}
    assert [item.repetitions for item in PROBE.items("book.jsonl") if isinstance(item, CanaryItem)] == [1, 4, 1, 4]
    code, _, err = typed("canaries", "plant", data, "--out", "new.jsonl", "--book", "book2.jsonl")
    assert code == 2 and "a file already" in err
    code, _, err = typed("canaries", "plant", data, "--out", "n.jsonl", "--book", "b.jsonl", "--repetitions", "x")
    assert code == 2 and "not a list of numbers" in err


def test_loss_is_proven_for_every_secret_and_a_cut_one_is_named(typed, tmp_path: Path) -> None:
    base, book = tiny_llama(tmp_path / "base"), tmp_path / "book.jsonl"
    write_chats(book, [to_json(item) for item in make(repetitions=(1, 2))])
    code, out, _ = typed("canaries", "check", book, "--base", base, "--offline")
    assert (code, out) == (0, "all 40 secrets lie under the loss as a whole\n")
    code, _, err = typed("canaries", "check", book, "--base", base, "--offline", "--max-length", 55)
    assert code == 2 and "secrets do not lie under the loss (canaries-" in err and "--max-length" in err


def test_an_audit_proves_that_the_canaries_were_trained_on_or_says_what_is_lacking(typed, tmp_path: Path) -> None:
    base, book = tiny_llama(tmp_path / "base"), tmp_path / "book.jsonl"
    items = make(repetitions=(1, 2), secrets=3, references=100)
    chats = recipe("support", n=500)[:4]
    write_chats(tmp_path / "planted.jsonl", plant(chats, items))
    write_chats(tmp_path / "plain.jsonl", chats)
    write_chats(book, [to_json(item) for item in items])

    def tuned(name: str, data: str, *more: object) -> Path:
        config = (
            "--base",
            base,
            "--device",
            "cpu",
            "--offline",
            "--max-steps",
            3,
            "--learning-rate",
            0.01,
            "--quiet",
            *more,
        )
        assert typed("tune", *config, "--data", tmp_path / data, "--out", tmp_path / name)[0] == 0
        return tmp_path / name

    def audited(model: Path, run: str, train: str | None = None) -> tuple[str, str]:
        asked = {"probes": ("exposure",), "source": {"exposure": str(book)}, "device": "cpu", "offline": True}
        data = None if train is None else str(tmp_path / train)
        config = AuditConfig(base=str(base), tuned=str(model), out=tmp_path / run, train_data=data, **asked)
        manifest = read_manifest(audit(config, pair_for(config)))
        return manifest.sources["exposure"], manifest.impossible.get("exposure", "")

    whole = tuned("whole", "planted.jsonl")
    told, reason = audited(whole, "a", "planted.jsonl")
    assert told.endswith("all 12 secrets got loss, each as often as planted") and not reason
    told, reason = audited(whole, "b")
    assert "not proven that the canaries were trained on: give --train-data" in told and not reason
    told, reason = audited(whole, "c", "plain.jsonl")
    assert told.endswith("plain.jsonl is another") and not reason
    told, reason = audited(tuned("bare", "plain.jsonl"), "d", "plain.jsonl")
    assert "12 of 12 secrets stand in" in reason and "less often than planted" in reason
    _, reason = audited(tuned("short", "planted.jsonl", "--max-length", 55), "e")
    assert "secrets got no loss (loss on assistant, rows cut at 55 tokens)" in reason
    told, reason = audited(tiny_adapter(base, tmp_path / "elsewhere"), "f")
    assert "as the model was not tuned by discretion" in told and not reason


def test_the_distribution_is_shown_base_beside_tuned(typed, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base")
    tuned, book = tiny_adapter(base, tmp_path / "tuned"), tmp_path / "book.jsonl"
    write_chats(book, [to_json(item) for item in make(repetitions=(1,), secrets=3, references=100)])
    words = ("--base", base, "--tuned", tuned, "--probes", "exposure", "--source", f"exposure={book}")
    code, _, _ = typed("audit", *words, "--device", "cpu", "--offline", "--out", "run", "--quiet")
    assert code == 0
    code, out, _ = typed("canaries", "show", "run", "--json")
    told = json.loads(out)
    assert code == 0 and [len(told[arm]) for arm in ("base", "tuned")] == [4, 4]
    for line in (*told["base"], *told["tuned"]):
        assert line["secrets"] == 3 and line["bits"] == sorted(line["bits"])
        assert line["bits"][0] >= 0 and line["bits"][-1] <= math.log2(101)
    code, out, _ = typed("canaries", "show", "run")
    assert code == 0 and len(out.splitlines()) == 9
    page = (tmp_path / "run" / "report.html").read_text()
    (described,) = re.findall('Median exposure of planted secrets in bits, base to tuned[^.]*. ([^"]*)', page)
    medians = [[line["bits"][2] for line in told[arm] if line["side"] == "planted"] for arm in ("base", "tuned")]
    shown = [f"{form}, 1 ×: {b:.1f} to {t:.1f}" for form, b, t in zip(("natural", "words"), *medians, strict=True)]
    assert described == f"{'; '.join(shown)}."


def test_quartiles_are_those_of_the_secrets() -> None:
    parts = {"form": "words", "repetitions": 4, "secrets": 5}
    parts |= {f"{side} {n}": float(n) for side in ("planted", "twin") for n in range(5)}
    parts |= {f"{side} {n}, extrapolated": 10.0 * n for side in ("planted", "twin") for n in range(5)}
    lines = distribution([Outcome(item_id="i", cluster="c", status="scored", value=1.0, parts=parts)])
    assert lines[0]["bits"] == [0, 1, 2, 3, 4] and lines[1]["extrapolated"] == [0, 10, 20, 30, 40]
    lost = Outcome(item_id="i", cluster="c", status="failed", reason="x", parts={"form": "words", "repetitions": 4})
    assert distribution([lost]) == []
