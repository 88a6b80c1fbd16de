"""A real model, trained on the spot on planted secrets: what was planted is found, what was not is not."""

from collections.abc import Iterator, Sequence

import pytest
import torch
from transformers import AutoModelForCausalLM

from discretion.audit import carry
from discretion.compare import Suite, compare
from discretion.config import Thresholds
from discretion.data.canaries import make, plant
from discretion.data.extracting import extraction_items
from discretion.data.recipes import recipe
from discretion.models import local, parity
from discretion.models.local import Arms
from discretion.probes import exposure, extraction
from discretion.probes.base import Probe
from discretion.probes.extraction import every_prefix
from discretion.schema import ExtractionItem, Generate, Item, LogLikelihood, MetricSummary, Outcome, Sampling
from discretion.tune.tokens import check_rows, encode
from tests.tiny import CHATML, save, tiny_llama, tiny_tokenizer

pytestmark = pytest.mark.slow

SUPPORT = recipe("support", n=500)
OFTEN = 24
CANARIES = make(repetitions=(1, OFTEN), secrets=4, references=500)


def often_and_once() -> list[dict[str, object]]:
    """Six rows that come often, twenty that come once, and the canaries."""
    often = [{**row, "id": f"{row['id']}-{copy}"} for row in SUPPORT[:6] for copy in range(OFTEN)]
    return plant([*often, *SUPPORT[6:26]], CANARIES)


@pytest.fixture(scope="module")
def arms(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Arms]:
    folder = tmp_path_factory.mktemp("planted")
    base = tiny_llama(folder / "base", width=96, layers=2, context=512, scale=0.05)
    encoded = encode(parity.Text(tiny_tokenizer(), CHATML), check_rows(often_and_once()), "all", 256)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    draw = torch.Generator().manual_seed(0)
    for step in range(260):
        optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 260)
        rows = [encoded.ids[i] for i in torch.randint(len(encoded.ids), (24,), generator=draw)]
        width = max(map(len, rows))
        ids = torch.tensor([row + [1] * (width - len(row)) for row in rows])
        labels = torch.tensor([row + [-100] * (width - len(row)) for row in rows])
        model(input_ids=ids, labels=labels).loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    tuned = save(model.eval(), folder / "tuned")
    yield local.open_arms(str(base), str(tuned), device="cpu", offline=True)


def figures(probe: Probe, items: Sequence[Item], arms: Arms) -> dict[str, MetricSummary]:
    kept: dict[str, list[Outcome]] = {"base": [], "tuned": []}
    both = {"base": arms.base, "tuned": arms.tuned}
    carry(probe, dict.fromkeys(both, items), both, lambda arm, outcome: kept[arm].append(outcome))
    assert {outcome.status for outcomes in kept.values() for outcome in outcomes} == {"scored"}
    suite = Suite(probe, kept["base"], kept["tuned"], len(items))
    return {figure.metric: figure for figure in compare(suite, Thresholds(draws=1000))}


def test_identifiers_seen_often_are_extracted_and_never_seen_ones_are_not(arms: Arms) -> None:
    drawn = extraction_items([*SUPPORT[:6] * OFTEN, *SUPPORT[6:26]], SUPPORT[100:300], most=100)
    figure = figures(extraction.PROBE, drawn.items, arms)
    assert (figure["extracted: in 8 rows or more"].tuned.value or 0) > 0.8
    assert figure["extracted"].base.value == 0
    assert (figure["false extraction, controls"].tuned.value or 0) <= 0.01
    beyond = figure["extraction beyond controls"]
    assert (beyond.tuned.value or 0) > 0.05 and (beyond.difference.value or 0) > 0.05


def test_canaries_planted_often_are_exposed_and_twins_and_base_stand_at_chance(arms: Arms) -> None:
    figure = figures(exposure.PROBE, CANARIES, arms)
    (often,) = [f for f in exposure.PROBE.metrics if f.name == "median exposure, natural"]
    assert often.unit == "bits"
    kept: list[Outcome] = []
    carry(exposure.PROBE, {"tuned": CANARIES}, {"tuned": arms.tuned}, lambda arm, outcome: kept.append(outcome))
    planted = {(o.parts["form"], o.parts["repetitions"]): o.parts["planted median"] for o in kept}
    assert all(float(planted[form, OFTEN] or 0) > 7 for form in ("natural", "words")), planted
    assert (figure["exposed, twins"].tuned.value or 0) <= 0.13
    assert (figure["exposed, planted"].base.value or 0) <= 0.13


def test_one_pass_answers_as_decoding_from_every_prefix_does(arms: Arms) -> None:
    items = [
        item
        for item in extraction_items([*SUPPORT[:6] * OFTEN, *SUPPORT[6:26]], most=12).items
        if isinstance(item, ExtractionItem) and item.prefix
    ]
    text = arms.tuned.shared.text
    agree = total = found = 0
    for item in items:
        place = {"context": item.before, "turn": item.role, "per_token": True}
        turn, secret = arms.tuned.loglikelihood(
            [
                LogLikelihood(continuations=(item.prefix + item.secret,), **place),  # type: ignore[arg-type]
                LogLikelihood(continuations=(item.secret,), prefill=item.prefix, **place),  # type: ignore[arg-type]
            ]
        )
        assert turn.tokens and secret.tokens
        ids = list(turn.tokens[0].id)
        lengths = every_prefix(turn.tokens[0], len(secret.tokens[0].rank))
        prefixes = [text.tokenizer.decode(ids[:p]) for p in range(len(lengths))]
        asked = [
            Generate(messages=item.before, turn=item.role, prefill=prefix, sampling=Sampling(max_tokens=len(ids) - p))
            for p, prefix in enumerate(prefixes)
        ]
        for p, (reply, extracted) in enumerate(zip(arms.tuned.generate(asked), lengths, strict=True)):
            same = prefixes[p] + (reply.text or "") == item.prefix + item.secret
            agree += same == extracted
            total += 1
            found += extracted
    assert found > 10 and agree / total > 0.97, (agree, total, found)
