"""Options that an endpoint does not list: an item counts where every value within the bounds gives the same answer."""

from __future__ import annotations

import json

import pytest

from discretion.errors import Unparsed
from discretion.models.endpoint import Answer
from discretion.models.remote import read_scores
from discretion.probes import capability, norms
from discretion.probes.base import play
from discretion.schema import CapabilityItem, FlowItem, LogLikelihood, Reply, from_json, to_json
from tests.endpoint import completion

FLOW = FlowItem(id="f", cluster="f", allowed=False, sender="s", recipient="r", subject="p", attribute="x")
QUESTION = CapabilityItem(
    id="q", cluster="q", task="t", question="?", answer="right", choices=("right", "wrong", "other")
)


def answered(*top):
    """As an endpoint answers: the first token's most probable ones."""
    return lambda request: read_scores(Answer(completion("A", model="m", top=list(top)), 0.0), request.continuations)


def of_flow(fine, unfine):
    """One answer where the option that means `appropriate` is A, another where it is B."""

    def answer(request: LogLikelihood) -> Reply:
        text = request.context[-1].content
        a_is_fine = ("A. Yes" in text) != ("inappropriate" in text)
        return (fine if a_is_fine else unfine)(request)

    return answer


def test_the_endpoint_marks_what_it_did_not_list():
    request = LogLikelihood(context="", continuations=("A", "B", "C"))
    assert answered(("A", -0.1), ("B", -3.0), ("x", -9.0))(request).bounded == (2,)
    assert answered(("A", -0.1), ("B", -3.0), ("C", -9.0))(request).bounded == ()


def test_a_bound_that_strengthens_the_answer_leaves_it():
    sure = of_flow(answered(("B", -0.1), ("x", -6.0)), answered(("A", -0.1), ("x", -6.0)))
    score = play(norms.PROBE, FLOW, sure)
    assert (score.value, score.margin) == (1.0, pytest.approx(5.9))


def test_forms_that_disagree_over_a_bound_are_unparsed():
    a_by_more_than_six = answered(("A", 0.0), ("x", -6.0))
    for a_by_seven in (answered(("A", 0.0), ("B", -7.0)), a_by_more_than_six):
        with pytest.raises(Unparsed, match=r"bounded|equally"):
            play(norms.PROBE, FLOW, of_flow(a_by_more_than_six, a_by_seven))
    # `appropriate` by more than six where that is A, by one where it is B: whatever the bound hides, the answer stands.
    assert play(norms.PROBE, FLOW, of_flow(a_by_more_than_six, answered(("B", 0.0), ("A", -1.0)))).value == 0.0
    # A known lean that is smaller than the bound's least cannot turn it round either.
    assert play(norms.PROBE, FLOW, of_flow(a_by_more_than_six, answered(("A", 0.0), ("B", -1.0)))).value == 0.0


def test_habits_of_answering_are_not_read_from_bounds():
    bounded = play(norms.PROBE, FLOW, of_flow(answered(("B", -0.1), ("x", -6.0)), answered(("A", 0.0), ("B", -5))))
    assert (bounded.parts["letter_bias"], bounded.parts["polarity_bias"]) == (None, None)
    known = play(norms.PROBE, FLOW, of_flow(answered(("B", -0.1), ("A", -6.0)), answered(("A", 0.0), ("B", -5))))
    assert known.parts["letter_bias"] == pytest.approx((-5.9 + 5.0) / 2)


def of_question(first, last):
    """One answer where the right option is A, another where it is C."""
    return lambda request: (first if "A. right" in request.context[-1].content else last)(request)


def test_a_wrong_option_that_is_only_bounded_can_lose_but_not_win():
    known = of_question(answered(("A", -0.1), ("B", -3.0)), answered(("C", -0.1), ("B", -3.0)))
    score = play(capability.PROBE, QUESTION, known)
    assert (score.value, score.margin) == (1.0, pytest.approx(2.9))


def test_a_winner_that_rests_on_a_bound_is_unparsed():
    # `right` leads by the bound of an order in which it was not listed; `wrong` is known in both.
    guess = of_question(answered(("A", -0.1), ("B", -4.0), ("x", -4.5)), answered(("B", -0.5), ("x", -4.0)))
    with pytest.raises(Unparsed, match="bounded"):
        play(capability.PROBE, QUESTION, guess)
    listed = of_question(answered(("A", -0.1), ("B", -4.0), ("C", -4.5)), answered(("B", -0.5), ("C", -4.0), ("A", -4)))
    assert play(capability.PROBE, QUESTION, listed).value == 1.0


def test_a_known_winner_above_a_bound_counts_even_where_it_is_wrong():
    wrong = of_question(answered(("B", -0.1), ("A", -4.0), ("x", -4.5)), answered(("B", -0.1), ("x", -4.0)))
    assert play(capability.PROBE, QUESTION, wrong).value == 0.0


def test_a_reply_of_an_older_run_is_read_as_exact():
    old = to_json(Reply(logprobs=(-0.1, -2.0), lengths=(1, 1)))
    del old["bounded"]
    assert from_json(Reply, json.loads(json.dumps(old))).bounded == ()
