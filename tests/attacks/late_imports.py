"""Notices modules that are imported by a call, after the scorer was loaded."""

from __future__ import annotations

import sys
from pathlib import Path

from attacks.scenes import LONG, QUESTION, STEPS, TRACES
from counting_backend import CountingBackend
from rfprm_runtime import Reranker, Scorer
from rfprm_runtime.rewards.advantages import group_advantages
from rfprm_runtime.rewards.micro_batcher import MicroBatcher
from rfprm_runtime.search import BeamSearch, Searcher
from search.policies import KnownPolicy
from tiny_models import fake_scorer, scorer_on


def late_imports(folder: Path) -> list[str]:
    """The modules that calls of every kind import."""
    scorers = [
        Scorer.load(folder, num_threads=3, mode="latency"),
        Scorer.load(folder, num_threads=2),
        scorer_on(CountingBackend(2)),
        fake_scorer(max_positions=2048),
    ]
    before = set(sys.modules)
    for scorer in scorers:
        _call_everything(scorer)
    return sorted(set(sys.modules) - before)


def _call_everything(scorer: Scorer) -> None:
    scorer.score_batch([LONG, *TRACES], overflow="window")
    scorer.score(QUESTION, STEPS * 30, overflow="window")
    with scorer.session(QUESTION) as session:
        session.extend(STEPS)
        with session.fork() as fork:
            scorer.extend_sessions([session, fork], [["so"], ["then"]])
            repr(scorer.score_sessions([session, fork])[0])
    answers = ["The answer is 12.", "The answer is 13."]
    Reranker(scorer).rank(QUESTION, answers, method="weighted_vote")
    Searcher(scorer, KnownPolicy(), BeamSearch(2, 2)).search(QUESTION)
    with MicroBatcher(scorer) as batcher:
        batcher.submit(TRACES[0]).result()
        batcher.score(TRACES[1])
    group_advantages([0.5, 0.7, None, 0.1], group_size=4)
    assert scorer.session_bytes == 0
    scorer.close()
