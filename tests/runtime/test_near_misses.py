"""No wrong answer is rewarded: some 350 near misses, none of which says its reference."""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pytest

from benchmarks.near_misses import near_misses
from rfprm_runtime.answers import AnswerChecker, final_answer


@pytest.mark.skipif(find_spec("math_verify") is None, reason="comparing answers needs extra math")
def test_no_near_miss_is_rewarded() -> None:
    misses = near_misses()
    said = [final_answer(miss.text) for miss in misses]
    with AnswerChecker() as checker:
        found = checker.agree_all(said, [miss.reference for miss in misses], budget=120)
    assert found.num_undecided == 0
    assert [miss for miss, agree in zip(misses, found.agree, strict=True) if agree] == []


def test_there_are_near_misses_of_every_kind() -> None:
    kinds = Counter(miss.kind for miss in near_misses())
    assert len(kinds) == 14
    assert min(kinds.values()) >= 10
    assert kinds.total() >= 300
