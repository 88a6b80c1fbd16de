"""Membership on weights that were really trained: true members are told, rows that neither model saw are not."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from discretion.audit import audit
from discretion.compare import summarise
from discretion.config import AuditConfig, load
from discretion.models.pairs import LocalPair
from tests.test_membership_data import chats, written
from tests.tiny import tiny_llama

pytestmark = pytest.mark.slow


def fitted(model, tokenizer, rows, steps, rate, seed):
    """Train every weight on whole rows."""
    draw, end = random.Random(seed), tokenizer.eos_token_id
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for _ in range(steps):
        batch = [tokenizer.apply_chat_template(row["messages"], return_dict=False) for row in draw.sample(rows, 16)]
        width = max(map(len, batch))
        ids = torch.tensor([row + [end] * (width - len(row)) for row in batch])
        loss = model(input_ids=ids, labels=ids.masked_fill(ids == end, -100)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base that speaks the domain, and the same after training on train.jsonl."""
    folder = tmp_path_factory.mktemp("trained")
    torch.manual_seed(0)
    tiny_llama(folder / "base", width=64, scale=0.05)
    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    fitted(model, tokenizer, chats(600, 100), 120, 3e-3, 0)
    model.save_pretrained(folder / "base")
    train = chats(130, 1)
    fitted(model, tokenizer, train, 80, 2e-3, 1)
    model.save_pretrained(folder / "tuned")
    tokenizer.save_pretrained(folder / "tuned")
    written(folder / "train.jsonl", train)
    written(folder / "held.jsonl", chats(130, 2))
    written(folder / "never.jsonl", chats(130, 3))
    return folder


def measured(folder, members, out):
    given = {
        "base": str(folder / "base"), "tuned": str(folder / "tuned"), "device": "cpu", "probes": "membership",
        "train_data": str(folder / members), "held_out": str(folder / "held.jsonl"), "out": out,
    }  # fmt: skip
    summary = summarise(audit(load(AuditConfig, given), LocalPair()))
    return {metric.metric: metric for metric in summary.metrics}, summary


def test_true_members_are_told_from_true_non_members(folder, tmp_path):
    metrics, summary = measured(folder, "train.jsonl", tmp_path / "run")
    calibrated, loss = metrics["AUC, calibrated by the base"], metrics["AUC, loss"]
    assert summary.verdict == "memorised"
    assert calibrated.tuned.interval[0] > 0.85 and calibrated.tuned.value > loss.tuned.value > loss.base.value
    tpr = metrics["TPR at 1 % FPR, calibrated by the base"]
    assert tpr.tuned.value > 0.1 and tpr.difference.p < 0.05
    assert metrics["AUC, blind baseline (text alone)"].base.interval[0] < 0.5


def test_rows_that_were_never_trained_on_are_not_called_members(folder, tmp_path):
    metrics, summary = measured(folder, "never.jsonl", tmp_path / "run")
    low, high = metrics["AUC, calibrated by the base"].tuned.interval
    assert low < 0.5 < high and summary.verdict == "inconclusive"
