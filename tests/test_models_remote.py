"""Models behind an endpoint, against a real server on loopback that misbehaves on purpose."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import sys
import threading
import time

import pytest

from discretion import audit as auditing
from discretion import cli
from discretion.config import AuditConfig, load
from discretion.errors import ConfigError, ModelError, NotComparable, RunFailure
from discretion.models import endpoint as transport
from discretion.models import remote
from discretion.models.endpoint import Bucket, Limits
from discretion.progress import Quiet
from discretion.report.page import decided
from discretion.schema import Generate, HiddenStates, LogLikelihood, Message, Sampling
from discretion.store import read_manifest, read_outcomes
from tests.endpoint import Said, completion, echo, serving

SECRET = "sk-proj-verySecret0123456789"
LIMITS = {
    "concurrency": 4, "per_minute": None, "timeout": 5.0, "max_cost": None, "price_input": None, "price_output": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _quick_and_with_a_key(monkeypatch):
    monkeypatch.setattr(transport, "PAUSE", 0.01)
    # loopback needs no certificates, and reading the system's takes longer than most of these tests
    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", lambda *_, **__: None)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


class Notes(Quiet):
    def __init__(self):
        self.lines = []

    def note(self, text):
        self.lines.append(text)


def opened(server, progress=None, tools=False, **limits):
    return remote.open_arms(
        "openai:small", "openai:ft:small", url=server.url, limits=Limits(**{**LIMITS, **limits}),
        progress=progress or Quiet(), tools=tools,
    )  # fmt: skip


def ask(text, **sampling):
    return Generate(messages=(Message("user", text),), sampling=Sampling(**sampling))


def options(*words, text="A or B?"):
    return LogLikelihood(context=(Message("user", text),), continuations=words)


def after_opening(answer):
    """A server that opens well and then behaves like `answer`."""

    def said(body, count):
        return echo(body, count) if "letter A or B." in body["messages"][-1]["content"] else answer(body, count)

    return said


def replies_of(answer, requests, **limits):
    with serving(after_opening(answer)) as server:
        model = opened(server, **limits).tuned
        method = model.loglikelihood if isinstance(requests[0], LogLikelihood) else model.generate
        return method(requests), server


def one_line(error):
    said = str(error.value)
    assert "\n" not in said and SECRET not in said and "sk-" not in said
    return said


# ------------------------------------------------------------------------------------------------ text


def test_each_request_is_answered_in_its_place_and_told_as_it_is_done():
    told = {}
    with serving() as server:
        arms = opened(server)
        replies = arms.base.generate([ask(f"q{n}") for n in range(20)], lambda i, reply: told.setdefault(i, reply))
    assert [r.text for r in replies] == [f"q{n}" for n in range(20)]
    assert told == dict(enumerate(replies))
    assert {(r.stop, r.prompt_tokens, r.output_tokens, r.error) for r in replies} == {("end", 10, 5, None)}
    assert 1 < server.busiest <= 4


def test_replies_are_told_in_the_calling_thread():
    seen = set()
    with serving() as server:
        opened(server).base.generate([ask("a"), ask("b")], lambda *_: seen.add(threading.current_thread()))
    assert seen == {threading.current_thread()}


def test_sampling_reaches_the_server_and_the_arms_differ_in_the_name_alone():
    with serving() as server:
        arms = opened(server)
        for model in (arms.base, arms.tuned):
            model.generate([ask("q", max_tokens=7, temperature=0.5, seed=2**40 + 3)])
    base, tuned = server.seen[-2:]
    assert (base["max_tokens"], base["temperature"], base["seed"], base["top_p"]) == (7, 0.5, 3, 1.0)
    assert (base.pop("model"), tuned.pop("model")) == ("small", "ft:small")
    assert base == tuned


def test_text_is_cut_at_the_first_complete_object_or_stop_string():
    text = 'Input: {"a": "}"} and Observation: {"b": 1}'
    [acted, stopped, whole], _ = replies_of(
        lambda body, _: completion(text, model=body["model"]),
        [ask("1", until="action"), ask("2", stop=("Observation:", "zzz")), ask("3")],
    )
    assert (acted.text, acted.stop) == ('Input: {"a": "}"}', "action")
    assert (stopped.text, stopped.stop) == ('Input: {"a": "}"} and Observation:', "stop")
    assert (whole.text, whole.stop) == (text, "end")


def test_a_text_cut_at_the_limit_says_so():
    [reply], _ = replies_of(lambda body, _: completion("half a", model=body["model"], finish="length"), [ask("q")])
    assert (reply.text, reply.stop) == ("half a", "length")


def test_a_begun_answer_is_refused_and_costs_nothing():
    request = Generate(messages=(Message("user", "q"),), prefill="Sure")
    [refused, answered], server = replies_of(echo, [request, ask("q")])
    assert refused.error == remote.NO_PREFILL and answered.text == "q"
    assert len(server.seen) == 3


# ------------------------------------------------------------------------------------------------ an error is no answer


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (lambda m: {**completion("x", model=m), "choices": []}, "no choice"),
        (lambda m: {"model": m}, "no choice"),
        (lambda m: completion(None, model=m), "without text"),
        (lambda m: completion("half", model=m, finish="content_filter"), "filtered"),
        (lambda m: completion("x", model="other"), "another model"),
        (lambda m: [], "no JSON object"),
        (lambda m: Said({"error": {"code": "context_length_exceeded", "message": SECRET}}, 400), "context_length_exce"),
    ],
)
def test_what_is_no_answer_is_an_error_and_fails_no_other(broken, said):
    replies, _ = replies_of(
        lambda body, n: broken(body["model"]) if body["messages"][-1]["content"] == "bad" else echo(body, n),
        [ask("good"), ask("bad"), ask("fine")],
    )
    assert [r.text for r in replies] == ["good", None, "fine"]
    assert said in replies[1].error and SECRET not in replies[1].error


def test_an_empty_text_is_an_answer():
    [reply], _ = replies_of(lambda body, _: completion("", model=body["model"]), [ask("q")])
    assert (reply.text, reply.error) == ("", None)


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (Said({}, 500), "status 500"),
        (Said({"error": {"message": f"slow down {SECRET}"}}, 429), "status 429"),
        (Said({}, 429, {"Retry-After": "0"}), "status 429"),
        (Said(b'{"id": "c1", "choi'), "no whole JSON"),
        (Said(b'{"id"', headers={"Content-Length": "500", "Connection": "close"}), "connection broke"),
        (Said({}, delay=1.0), "no answer within"),
    ],
    ids=["500", "429", "429 now", "cut", "short", "slow"],
)
def test_a_passing_fault_is_tried_again_and_a_lasting_one_is_an_error(broken, said, monkeypatch):
    monkeypatch.setattr(transport, "TRIES", 3)
    replies, server = replies_of(
        lambda body, n: broken if body["messages"][-1]["content"] == "never" or n < 2 else echo(body, n),
        [ask("late"), ask("never")],
        timeout=0.5 if broken.delay else 5.0,
    )
    assert replies[0].text == "late" and replies[0].error is None
    assert replies[1].text is None and said in replies[1].error and SECRET not in replies[1].error
    assert [b["messages"][-1]["content"] for b in server.seen].count("never") == 3


def test_the_server_is_left_alone_for_as_long_as_it_asks():
    with serving(
        after_opening(lambda body, n: echo(body, n) if n else Said({}, 429, {"Retry-After": "0.4"}))
    ) as server:
        model = opened(server, concurrency=1).base
        began = time.monotonic()
        [reply] = model.generate([ask("q")])
    assert reply.text == "q"
    assert 0.4 <= time.monotonic() - began < 2.0


def test_a_wish_that_is_too_long_is_a_refusal():
    [reply], server = replies_of(lambda *_: Said({}, 429, {"Retry-After": "86400"}), [ask("q")])
    assert "429" in reply.error and len(server.seen) == 3


def test_an_endpoint_that_is_gone_stops_the_run_instead_of_failing_every_item(monkeypatch):
    monkeypatch.setattr(transport, "TRIES", 2)
    told = []
    with serving(after_opening(lambda *_: Said({}, 503))) as server:
        model = opened(server).base
        with pytest.raises(RunFailure, match="8 requests in a row") as stop:
            model.generate([ask(f"q{n}") for n in range(100)], lambda i, reply: told.append(reply))
    assert "same command resumes" in one_line(stop)
    assert len(told) == remote.IN_A_ROW and all(reply.error for reply in told)


def test_an_interruption_waits_for_no_answer_and_keeps_those_that_came():
    told = []
    slow = after_opening(
        lambda body, n: Said(echo(body, n), delay=3.0 if body["messages"][-1]["content"] > "q3" else 0.0)
    )
    with serving(slow) as server:
        model = opened(server).base
        began = time.monotonic()
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            model.generate([ask(f"q{n}") for n in range(9)], lambda i, reply: told.append(reply.text))
        assert time.monotonic() - began < 2.0
    assert sorted(told) == ["q0", "q1", "q2", "q3"]


def test_an_answer_that_names_no_model_is_taken_as_it_is():
    nameless = {key: value for key, value in completion("x", model="m").items() if key != "model"}
    [reply, broken], _ = replies_of(
        lambda body, _: nameless if body["messages"][-1]["content"] == "q" else {"error": {"message": SECRET}},
        [ask("q"), ask("r")],
    )
    assert reply.text == "x" and broken.error == "the endpoint gave no choice"


def test_a_key_that_is_withdrawn_stops_the_run():
    with serving(after_opening(lambda *_: Said({"error": {"message": SECRET}}, 401))) as server:
        model = opened(server).base
        with pytest.raises(RunFailure, match="key is refused") as stop:
            model.generate([ask("q")])
    one_line(stop)


def test_half_a_character_fails_its_own_request_alone():
    replies, _ = replies_of(echo, [ask("\ud83d"), ask("fine")])
    assert [(r.text, r.error) for r in replies] == [(None, "the request holds half a character"), ("fine", None)]


# ------------------------------------------------------------------------------------------------ choices


def test_half_a_character_in_an_answer_is_read_as_the_mark_for_one_that_is_lost():
    [reply], _ = replies_of(lambda body, _: completion("a \ud83d b \U0001f642", model=body["model"]), [ask("q")])
    assert (reply.text, reply.error) == ("a \ufffd b \U0001f642", None)


def scored(top, *words):
    [reply], _ = replies_of(lambda body, _: completion("A", model=body["model"], top=top), [options(*words)])
    return reply


def test_options_are_read_from_the_top_log_probabilities():
    reply = scored([("A", -0.1), ("B", -2.5), (" A", -3.0)], "A", "B")
    assert (reply.logprobs, reply.lengths, reply.error) == ((-0.1, -2.5), (1, 1), None)


def test_one_token_is_asked_with_as_many_alternatives_as_there_are():
    _, server = replies_of(echo, [options("A", "B")])
    sent = server.seen[-1]
    assert (sent["max_tokens"], sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (1, True, 20, 0.0)


def test_tokens_that_are_written_alike_count_together():
    assert scored([("A", -1.0), ("A", -1.0), ("B", -2.0)], "A", "B").logprobs == pytest.approx(
        (-0.30685, -2.0), abs=1e-4
    )


def test_an_option_that_is_not_listed_gets_its_bound_where_the_winner_stays():
    assert scored([("A", -0.1), ("x", -2.0), ("y", -9.0)], "A", "B").logprobs == (-0.1, -9.0)


def test_a_placeholder_is_no_measurement():
    assert scored([("A", -0.1), ("x", -7.0), ("B", -9999.0)], "A", "B").logprobs == (-0.1, -7.0)


@pytest.mark.parametrize(
    ("top", "words"),
    [
        ([("x", -0.1), ("y", -9.0)], ("A", "B")),
        ([("x", -0.1), ("A", -9.0)], ("A", "B")),
        ([("A", -0.1), ("1", -2.0), ("y", -9.0)], ("A", "12")),
    ],
    ids=["none is listed", "the bound ties", "spelled in two tokens"],
)
def test_an_option_that_could_still_win_is_an_error(top, words):
    reply = scored(top, *words)
    assert (reply.logprobs, reply.error) == (None, "option not among the top log-probabilities")


def test_a_choice_without_log_probabilities_is_an_error():
    assert scored(None, "A", "B").error == remote.NO_LOGPROBS


def test_what_only_weights_can_answer_is_an_error():
    [text, tokens], server = replies_of(
        echo,
        [
            LogLikelihood(context="raw text", continuations=("A",)),
            LogLikelihood(context=(Message("user", "q"),), continuations=("A",), per_token=True),
        ],
    )
    assert text.error and tokens.error and len(server.seen) == 2
    with serving() as server:
        [hidden] = opened(server).base.hidden_states([HiddenStates(text="x", layers=(0,))])
    assert hidden.error == remote.NO_HIDDEN


# ------------------------------------------------------------------------------------------------ opening


def test_an_endpoint_without_log_probabilities_opens_without_them():
    def refuses(body, count):
        return Said({"error": {"message": "no"}}, 400) if "logprobs" in body else echo(body, count)

    for answer in (refuses, lambda body, n: completion("A", model=body["model"])):
        with serving(answer) as server:
            arms = opened(server)
        assert arms.base.can == arms.tuned.can == {"generate"}
        assert arms.facts["impossible"]["loglikelihood"] == "the endpoint gives no log-probabilities"


def holding(kind, word=lambda offered, body: offered[0]):
    """A server without log-probabilities that holds an answer to options in one way, and refuses the other ways."""

    def offered(body):
        if kind == "schema" and "response_format" in body:
            return body["response_format"]["json_schema"]["schema"]["properties"]["choice"]["enum"]
        return body.get("structured_outputs", {}).get("choice") if kind == "vllm" else body.get(kind)

    def said(body, _count):
        if {"logprobs", "response_format", "structured_outputs", "guided_choice"} & body.keys():
            found = offered(body)
            if found is None:
                return Said({"error": {"message": "unknown field"}}, 400)
            text = word(found, body)
            return completion(json.dumps({"choice": text}) if kind == "schema" else text, model=body["model"])
        return completion("I would say A.", model=body["model"])

    return said


@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("schema", "response_format json_schema"),
        ("vllm", "vLLM structured_outputs"),
        ("guided_choice", "vLLM guided_choice"),
    ],
)
def test_without_log_probabilities_a_choice_is_made_by_constrained_decoding_and_marked_as_such(kind, how):
    with serving(holding(kind, lambda offered, _: offered[1])) as server:
        arms = opened(server)
        replies = arms.tuned.loglikelihood([options("A", "B"), options("yes", "no", "maybe")])
    assert [(r.chosen, r.logprobs, r.error) for r in replies] == [(1, None, None)] * 2
    assert arms.base.can == arms.tuned.can == {"generate", "choice"}
    assert arms.facts["choices"] == f"by constrained decoding ({how})"
    assert arms.facts["impossible"].keys() == {"loglikelihood", "hidden_states"}
    last = server.seen[-1]
    assert "logprobs" not in last and last["temperature"] == 0.0


def test_a_server_that_ignores_the_constraint_or_answers_beside_it_makes_no_choices():
    for answer in (
        lambda body, _: completion("A", model=body["model"]),
        lambda body, _: completion('{"choice": "A"}', model=body["model"]),
        lambda body, n: echo(body, n) if body.keys() == {"model", "messages", "max_tokens"} else Said({}, 400),
    ):
        with serving(answer) as server:
            arms = opened(server)
        assert arms.base.can == {"generate"} and arms.base.constraint is None
        assert arms.facts["impossible"]["choice"] == remote.NO_CHOICE and "choices" not in arms.facts


def test_both_arms_are_held_alike_or_not_at_all():
    def one_of_them(body, count):
        return holding("schema" if body["model"] == "small" else "vllm")(body, count)

    with serving(one_of_them) as server:
        arms = opened(server)
    assert arms.base.can == arms.tuned.can == {"generate"}

    def numbers_for_one(body, count):
        return echo(body, count) if body["model"] == "small" and "logprobs" in body else holding("vllm")(body, count)

    with serving(numbers_for_one) as server:
        arms = opened(server)
        [base], [tuned] = arms.base.loglikelihood([options("A", "B")]), arms.tuned.loglikelihood([options("A", "B")])
    assert (base.chosen, base.logprobs) == (tuned.chosen, tuned.logprobs) == (0, None)


def test_what_was_not_offered_or_is_cut_short_is_an_error_and_never_a_choice():
    said = iter(['{"choice": "C"}', '{"choice": "A', "Answer: A", '["A"]', "A"])

    def word(body, count):
        if body["messages"][-1]["content"].startswith("Answer with the letter A or B."):
            return holding("schema")(body, count)
        return completion(next(said), model=body["model"])

    with serving(word) as server:
        arms = opened(server, concurrency=1)
        replies = arms.base.loglikelihood([options("A", "B", text=f"q{n}") for n in range(5)])
    assert [r.chosen for r in replies] == [None] * 4 + [0]
    assert {r.error for r in replies[:4]} == {"the endpoint did not keep to the options"}


def test_a_server_that_calls_the_limit_by_its_newer_name_is_asked_by_it():
    with serving(lambda body, n: Said({}, 400) if "max_tokens" in body else echo(body, n)) as server:
        model = opened(server).base
        [reply] = model.generate([ask("q", max_tokens=9)])
    assert model.can == {"generate", "loglikelihood"} and reply.text == "q"
    assert server.seen[-1]["max_completion_tokens"] == 9


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (Said({"error": {"message": f"Incorrect API key provided: {SECRET}"}}, 401), "set OPENAI_API_KEY"),
        (Said({"error": {"message": "The model does not exist", "code": "model_not_found"}}, 404), "model's name"),
        (Said({"error": {"code": "insufficient_quota", "message": "x"}}, 429), "quota is used up"),
        (Said(b"<html>"), "--base-url"),
        (Said({}, 500), "try again later"),
        (Said({"error": {"code": SECRET}}, 400), "check what it accepts"),
    ],
    ids=["key", "model", "quota", "page", "broken", "bad"],
)
def test_what_is_wrong_at_opening_is_one_line_that_says_what_to_do(said, told):
    with serving(lambda *_: said) as server, pytest.raises(ModelError) as stop:
        opened(server)
    line = one_line(stop)
    assert line.startswith("openai:small at http://127.0.0.1:") and told in line


def test_a_refused_connection_is_one_line():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    with pytest.raises(ModelError, match="no connection; start the server") as stop:
        remote.open_arms("openai:a", "openai:b", url=url, limits=Limits(**LIMITS), progress=Quiet())
    one_line(stop)


def test_a_slow_server_is_given_up_at_opening():
    with serving(lambda *_: Said({}, delay=0.5)) as server, pytest.raises(ModelError, match="higher --timeout"):
        opened(server, timeout=0.1)


def test_the_hosted_endpoint_is_not_asked_without_a_key(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    url = "https://api.openai.com/v1"
    with pytest.raises(ModelError, match="OPENAI_API_KEY is not set"):
        remote.open_arms("openai:a", "openai:b", url=url, limits=Limits(**LIMITS), progress=Quiet())
    with serving() as server:
        assert opened(server).base.generate([ask("q")])[0].text == "q"


@pytest.mark.parametrize("key", ["sk-a b", "sk-ü"])
def test_a_broken_key_is_said_to_be_broken_and_not_shown(key, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with serving() as server, pytest.raises(ModelError, match="no key has") as stop:
        opened(server)
    assert key not in str(stop.value) and server.seen == []


def test_two_names_that_one_model_answers_are_not_compared():
    with serving(lambda body, _: completion("A", model="loaded")) as server, pytest.raises(NotComparable) as stop:
        opened(server)
    assert "both answered by the model 'loaded'" in one_line(stop)


def test_the_server_learns_nothing_of_this_machine():
    with serving() as server:
        opened(server)
    told = {name for headers in server.headers for name in headers if name.startswith("x-stainless")}
    assert not {name for name in told if any(word in name for word in ("os", "arch", "lang", "runtime", "version"))}
    assert {headers["authorization"] for headers in server.headers} == {f"Bearer {SECRET}"}


# ------------------------------------------------------------------------------------------------ rate and cost


def test_a_bucket_lets_through_no_more_than_flows_in():
    bucket, clock = Bucket(per_second=2.0, looked=0.0), 0.0
    went = []
    while len(went) < 10:
        wait = bucket.wait(clock)
        if wait:
            clock += wait
        else:
            went.append(clock)
    assert went[-1] >= (len(went) - 2) / 2.0
    assert max(sum(a <= t < a + 1 for t in went) for a in went) <= 4


def test_requests_per_minute_hold_for_both_arms_together():
    with serving() as server:
        arms = opened(server, per_minute=1200.0)
        began = time.monotonic()
        for model in (arms.base, arms.tuned):
            model.generate([ask(f"q{n}") for n in range(15)])
        assert time.monotonic() - began >= (30 - 20) / 20 - 0.05


PRICED = {"price_input": 1000.0, "price_output": 2000.0}
"""10 + 5 tokens cost 0.02."""


def test_the_account_is_told_while_it_runs_and_kept_in_the_facts():
    notes = Notes()
    with serving() as server:
        arms = opened(server, notes, **PRICED)
        arms.base.generate([ask("q")])
    assert notes.lines[-1] == "endpoint: 3 requests, 30 + 15 tokens, cost 0.0600"
    assert arms.facts["this_session"] == {
        "requests": 3, "prompt_tokens": 30, "output_tokens": 15, "cost": 0.06,
    }  # fmt: skip
    assert arms.facts["system_fingerprints"] == {"base": ["fp_1"], "tuned": []}
    json.dumps(arms.facts)


def test_the_run_stops_before_a_request_that_could_pass_the_sum():
    kept = []
    with serving() as server:
        arms = opened(server, max_cost=0.5, **PRICED)
        with pytest.raises(RunFailure, match=r"--max-cost 0\.5: 0\.\d+ is spent") as stop:
            arms.base.generate([ask(f"q{n}", max_tokens=5) for n in range(100)], lambda i, r: kept.append(r))
    assert "same command resumes" in one_line(stop)
    spent = len(server.seen) * 0.02
    assert 0.4 < spent <= 0.5
    assert len(kept) == len(server.seen) - 2 and all(r.error is None for r in kept)


def test_an_answer_that_was_lost_may_be_billed_and_is_counted_at_its_bound(monkeypatch):
    monkeypatch.setattr(transport, "TRIES", 1)
    with serving(after_opening(lambda *_: Said({}, delay=1.0))) as server:
        arms = opened(server, timeout=0.5)
        arms.base.generate([ask("q", max_tokens=7)])
    found = arms.facts["this_session"]
    assert found["output_tokens"] == 2 * 5 + 7 and found["prompt_tokens"] > 2 * 10


# ------------------------------------------------------------------------------------------------ whole audits

QUESTIONS = [
    {"id": f"m{n}", "cluster": f"m{n}", "task": "sums", "question": f"What is {n} and {n}?", "answer": str(2 * n),
     "choices": [str(2 * n), str(2 * n + 1)]}
    for n in range(12)
]  # fmt: skip


def configured(folder, server, **given):
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    values = {
        "base": "openai:small", "tuned": "openai:ft:small", "probes": "capability", "out": folder / "run",
        "source": [f"capability={path}"], "base_url": server.url, "timeout": 5.0,
    }  # fmt: skip
    return load(AuditConfig, {**values, **given})


def right(body, _count):
    """Prefers the letter of the even number."""
    lines = body["messages"][-1]["content"].splitlines()
    even = next((line[0] for line in lines if line[:2] in ("A.", "B.") and int(line[2:]) % 2 == 0), "A")
    top = [(even, -0.1), ("B" if even == "A" else "A", -3.0)] if body.get("logprobs") else None
    return completion(even, model=body["model"], top=top)


def audited(config):
    return auditing.audit(config, auditing.pair_for(config))


def test_an_audit_of_two_names_measures_both_and_writes_no_key(tmp_path):
    with serving(right) as server:
        run = audited(configured(tmp_path, server))
        asked = len(server.seen)
        assert audited(configured(tmp_path, server)) == run
        assert len(server.seen) == asked == 2 + 2 * 2 * 12
    for arm in ("base", "tuned"):
        assert {o.value for o in read_outcomes(run, arm, "capability")} == {1.0}
    manifest = read_manifest(run)
    assert manifest.engine["this_session"]["requests"] == asked
    assert manifest.engine["served_as"] == {"base": "small", "tuned": "ft:small"}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 4 and not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_a_run_that_the_sum_stopped_goes_on_and_repeats_nothing(tmp_path):
    with serving(right) as server:
        config = configured(tmp_path, server, price_input=1000, price_output=2000, max_cost=0.9)
        for _ in range(20):
            try:
                audited(config)
                break
            except RunFailure:
                assert read_manifest(tmp_path / "run").engine["this_session"]["cost"] <= 0.9
        asked = [json.dumps(body) for body in server.seen if "letter A or B." not in body["messages"][-1]["content"]]
    assert len(asked) == len(set(asked)) == 2 * 2 * 12
    assert len(read_outcomes(tmp_path / "run", "tuned", "capability")) == 12


def test_probes_that_need_log_probabilities_are_said_to_be_impossible(tmp_path):
    with serving(lambda body, _: completion("A", model=body["model"])) as server:
        run = audited(configured(tmp_path, server))
    assert read_manifest(run).impossible == {"capability": remote.NO_CHOICE}


def test_an_audit_by_constrained_decoding_scores_the_choices_and_says_so(tmp_path):
    def even(offered, body):
        lines = body["messages"][-1]["content"].splitlines()
        return next((line[0] for line in lines if line[:2] in ("A.", "B.") and int(line[2:]) % 2 == 0), offered[0])

    with serving(holding("schema", even)) as server:
        run = audited(configured(tmp_path, server))
    manifest = read_manifest(run)
    assert manifest.impossible == {} and "constrained decoding" in decided(manifest, "capability")
    assert decided(manifest, "memory") == ""
    for arm in ("base", "tuned"):
        outcomes = read_outcomes(run, arm, "capability")
        assert {(o.value, o.margin, o.parts["chosen"]) for o in outcomes} == {(1.0, None, 2)}


def test_an_endpoint_is_not_compared_with_a_folder(tmp_path):
    config = load(AuditConfig, {"base": "openai:small", "tuned": "folder"})
    with pytest.raises(NotComparable, match="one is behind an endpoint and one is local"):
        auditing.pair_for(config)


@pytest.mark.parametrize(
    "given",
    [
        {"base": "openai:a", "tuned": "openai:b", "device": "cpu"},
        {"base": "openai:a", "tuned": "openai:b", "template": "plain"},
        {"base": "a", "tuned": "b", "max_cost": 1.0, "price_input": 1.0, "price_output": 1.0},
        {"base": "openai:a", "tuned": "openai:"},
    ],
)
def test_an_option_that_would_reach_nothing_is_refused(given):
    with pytest.raises(ConfigError):
        auditing.pair_for(load(AuditConfig, given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"base_url": f"http://user:{SECRET}@host/v1"}, "a key belongs in OPENAI_API_KEY"),
        ({"base_url": f"http://host/v1?key={SECRET}"}, "a key belongs in OPENAI_API_KEY"),
        ({"base_url": "localhost:8000"}, "this is no URL"),
        ({"max_cost": 1.0, "price_input": 1.0}, "--price-output"),
    ],
)
def test_an_address_with_a_key_or_a_sum_without_prices_is_refused(given, said):
    with pytest.raises(ConfigError, match=said) as stop:
        load(AuditConfig, {"base": "openai:a", "tuned": "openai:b", **given})
    one_line(stop)


def test_a_dry_run_asks_nothing_and_says_that_it_estimates(tmp_path, monkeypatch, capsys):
    with serving() as server:
        config = configured(tmp_path, server)
        plan = auditing.dry_run(config, auditing.pair_for(config))
        assert plan["estimated"] and plan["probes"]["capability"]["tokens"] > 12 * 2 * 2 * 15
        monkeypatch.chdir(tmp_path)
        words = ["audit", "--base", config.base, "--tuned", config.tuned, "--base-url", server.url, "--dry-run"]
        monkeypatch.setattr(sys, "argv", ["discretion", *words, "--probes", "refusal", "--limit", "3"])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        assert not stop.value.code and server.seen == []
    assert "tokens are estimated" in capsys.readouterr().out
