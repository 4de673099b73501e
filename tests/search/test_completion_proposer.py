"""Completion servers, which differ in what they return and in how they fail."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from llm_server import Server, raw, serving, status
from rfprm_runtime import Scorer
from rfprm_runtime.ground.endpoint import EndpointRefusedError
from rfprm_runtime.search import BestOfN, Proposal, ProposerError, Request, Searcher
from rfprm_runtime.search.completion_proposer import CompletionProposer
from rfprm_runtime.search.step_format import StepFormat

REQUEST = Request("6 * 7?", ("6 * 7 = 42.",), 2)


def _choices(*choices: dict[str, Any], tokens: int = 10) -> dict[str, Any]:
    return {
        "choices": [{"finish_reason": "stop", **choice} for choice in choices],
        "usage": {"completion_tokens": tokens},
    }


def _ask(proposer: CompletionProposer, *requests: Request) -> list[list[Proposal]]:
    return asyncio.run(proposer(requests or [REQUEST]))


def _proposer(server: Server, **options: Any) -> CompletionProposer:
    return CompletionProposer(server.url, "small", max_wait=0.01, **options)


@pytest.mark.parametrize(
    ("choice", "finished"),
    [
        ({"stop_reason": "\n\n"}, False),
        ({"stop_reason": None}, True),
        ({"matched_stop": "\n\n"}, False),
        ({"matched_stop": 2}, True),
        ({}, False),
        ({"finish_reason": "length", "stop_reason": None}, False),
    ],
)
def test_every_server_dialect_tells_the_end_of_a_trace(
    choice: dict[str, Any], finished: bool
) -> None:
    with serving([_choices({"text": "So 42.", **choice}, {"text": "So", **choice}, tokens=5)]) as s:
        [found] = _ask(_proposer(s))
    assert found == [
        Proposal("So 42.", 3, finished=finished),
        Proposal("So", 2, finished=finished),
    ]
    [request] = s.requests
    assert request["prompt"] == "6 * 7?\n\n6 * 7 = 42.\n\n"
    assert (request["n"], request["stop"], request["model"]) == (2, ["\n\n"], "small")


def test_an_untold_end_shows_when_nothing_comes() -> None:
    with serving([_choices({"text": ""}, tokens=1)]) as server:
        assert _ask(_proposer(server), Request("6 * 7?", ("42",), 1)) == [
            [Proposal("", 1, finished=True)]
        ]


def test_a_server_that_ignores_n_gets_single_requests() -> None:
    with serving([_choices({"text": "So 42."}, tokens=4)]) as server:
        proposer = _proposer(server, seed=5, extra_body={"top_p": 0.9})
        found = _ask(proposer, Request("6 * 7?", (), 3))
        assert found == [[Proposal("So 42.", 4)] * 3]
        assert [request.get("n") for request in server.requests] == [3, None, None]
        assert sorted(request["seed"] for request in server.requests) == [5, 6, 7]
        assert {request["top_p"] for request in server.requests} == {0.9}
        _ask(proposer, REQUEST)
    assert len(server.requests) == 5


@pytest.mark.parametrize("kept", ["\n\n", ""], ids=["with separator", "without"])
def test_blank_lines_before_a_step_are_kept_and_counted(kept: str) -> None:
    replies = [_choices({"text": kept, "stop_reason": "\n\n"}), _choices({"text": "So 42."})]
    with serving([*replies]) as server:
        found = _ask(_proposer(server), Request("6 * 7?", (), 1))
    assert found == [[Proposal("So 42.", 20)]]
    assert server.requests[1]["prompt"] == "6 * 7?\n\n\n\n"


def test_the_response_is_requested_in_one_piece() -> None:
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        text = "So 42.</think>" if "stop" in request else "It is\n\n42."
        return _choices({"text": text})

    with serving(reply) as server:
        proposer = _proposer(server, step_format=StepFormat(close_thinking="</think>"))
        [[found]] = _ask(proposer, Request("6 * 7?", (), 1))
    assert found == Proposal("So 42.", 20, finished=True, response=("It is", "42."))
    assert server.requests[1]["prompt"] == "6 * 7?\n\nSo 42.</think>"


def test_a_busy_server_is_retried() -> None:
    with serving([status(429), status(503), _choices({"text": "a"}, {"text": "b"})]) as server:
        [found] = _ask(_proposer(server))
    assert [proposal.text for proposal in found] == ["a", "b"]


@pytest.mark.parametrize("reply", [status(500), raw(b"<html>"), {"choices": []}, {"choices": [1]}])
def test_a_server_without_an_answer_fails_its_branch(reply: Any, scorer: Scorer) -> None:
    with serving([reply]) as server:
        proposer = _proposer(server, max_attempts=2)
        with pytest.raises(ProposerError, match="in 2 attempts"):
            Searcher(scorer, proposer).search("6 * 7?")
        [result] = Searcher(scorer, proposer).search_many(["6 * 7?"], on_error="return")
    assert isinstance(result.error, ProposerError)


def test_a_server_that_refuses_ends_the_search(scorer: Scorer) -> None:
    with (
        serving([status(401)]) as server,
        pytest.raises(EndpointRefusedError, match=r"401.*OPENAI_API_KEY"),
    ):
        Searcher(scorer, _proposer(server)).search("6 * 7?")


def test_searches_may_share_a_proposer(scorer: Scorer) -> None:
    def reply(request: dict[str, Any]) -> dict[str, Any]:
        return _choices(*[{"text": f"{i}", "stop_reason": None} for i in range(request["n"])])

    with serving(reply) as server:
        searcher = Searcher(scorer, _proposer(server, concurrency=3), BestOfN(2))
        results = searcher.search_many([f"{i} * 7?" for i in range(8)])
        again = searcher.search_many([f"{i} * 7?" for i in range(8)])
    assert server.most_at_once <= 3
    assert all(len(result.finished) == 2 for result in (*results, *again))
