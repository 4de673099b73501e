from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rfprm_runtime import RfprmError
from rfprm_runtime.selection.rule import OUTCOMES, Choice, Selection, choose, length_residual

SCORES = np.array([0.5, 0.9, 0.1, 0.9, 0.7, 0.3])


def chosen(
    scores: Any = SCORES,
    *,
    questions: Any = None,
    groups: Any = None,
    tokens: Any = None,
    **rule: Any,
) -> Choice:
    count = len(scores)
    return choose(
        Selection(group_by=None if groups is None else "source", **rule),
        np.asarray(scores, dtype=np.float64),
        np.full(count, 100, np.int32) if tokens is None else np.asarray(tokens, dtype=np.int32),
        np.arange(count, dtype=np.uint64)
        if questions is None
        else np.asarray(questions, dtype=np.uint64),
        None if groups is None else np.asarray(groups, dtype=np.int32),
    )


def places(choice: Choice) -> list[int]:
    return [int(place) for place in choice.chosen]


def test_top_keeps_the_highest_best_first() -> None:
    assert places(chosen(top=3)) == [1, 3, 4]
    assert places(chosen(top=100)) == [1, 3, 4, 0, 5, 2]


def test_on_ties_the_earlier_trace_wins() -> None:
    assert places(chosen([0.5] * 6, top=3)) == [0, 1, 2]
    assert places(chosen([0.1, 0.5, 0.5, 0.5], top=2)) == [1, 2]
    assert places(chosen([0.5] * 4, questions=[1, 1, 2, 2], per_question=1)) == [0, 2]
    assert places(chosen([0.5] * 4, groups=[1, 1, 0, 0], top_per_group=1)) == [0, 2]


def test_a_threshold_keeps_traces_that_reach_it() -> None:
    assert places(chosen(threshold=0.7)) == [1, 3, 4]
    assert places(chosen(threshold=2.0)) == []


def test_a_share_is_of_all_scored_traces_and_at_least_one() -> None:
    assert places(chosen(share=0.5)) == [1, 3, 4]
    assert places(chosen(share=0.001)) == [1]
    assert len(places(chosen(share=1.0))) == 6
    # Half of six traces, although the threshold left only five.
    assert places(chosen(share=0.5, threshold=0.2)) == [1, 3, 4]


def test_every_group_has_its_quota() -> None:
    assert places(chosen(groups=[0, 1, 0, 1, 1, 0], top_per_group=2)) == [1, 3, 0, 5]
    assert places(chosen(groups=[0, 1, 0, 1, 1, 0], top_per_group=2, top=3)) == [1, 3, 0]


def test_a_question_keeps_its_best_traces() -> None:
    questions = [7, 7, 7, 8, 8, 2**63]
    assert places(chosen(questions=questions, per_question=1)) == [1, 3, 5]
    assert places(chosen(questions=questions, per_question=2)) == [1, 3, 4, 0, 5]


def test_the_reason_is_the_first_part_of_the_rule_that_a_trace_fails() -> None:
    choice = chosen(
        questions=[1, 1, 2, 3, 4, 5],
        groups=[0, 0, 0, 0, 1, 1],
        per_question=1,
        threshold=0.2,
        top_per_group=1,
        top=1,
    )
    assert [OUTCOMES[code] for code in choice.outcome] == [
        "not among the best of its question",
        "chosen",
        "below the threshold",
        "over the quota of its group",
        "outside the top",
        "over the quota of its group",
    ]


def test_length_control_removes_what_length_predicts() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(50, 5000, 500).astype(np.int32)
    quality = rng.normal(size=500)
    scores = quality + 2.0 * np.log(tokens)
    without, with_control = (
        chosen(scores, tokens=tokens, top=50),
        chosen(scores, tokens=tokens, top=50, length_control="residual"),
    )
    assert np.mean(tokens[without.chosen]) > 1.5 * np.mean(tokens)
    assert abs(np.mean(tokens[with_control.chosen]) / np.mean(tokens) - 1) < 0.25
    best = set(np.argsort(-quality)[:50].tolist())
    assert len(best & set(places(with_control))) > 45
    assert abs(length_residual(scores, tokens).mean()) < 1e-9


def test_length_control_of_equal_lengths_changes_no_order() -> None:
    assert places(chosen(top=6, length_control="residual")) == places(chosen(top=6))


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({}, r"keeps every trace; .* top \(--top\)"),
        ({"top": 0}, r"^top \(--top\) is 0, expected a number greater than or equal to 1$"),
        ({"share": 1.5}, r"share \(--share\) is 1\.5, expected a number less"),
        ({"threshold": float("nan")}, r"threshold \(--threshold\) is nan, expected a finite"),
        ({"tpo": 3}, r"unknown setting 'tpo', expected some of .*'top'"),
        ({"top_per_group": 3}, "go together"),
        ({"top": 3, "group_by": "source"}, "go together"),
        ({"top": 3, "score": "best"}, "score"),
    ],
)
def test_an_invalid_rule_is_refused_in_one_line(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(RfprmError, match=complaint) as caught:
        Selection.build(**fields)
    assert "\n" not in str(caught.value)


_MILLION = """
import numpy as np
from pathlib import Path
from rfprm_runtime.selection.rule import Selection, choose
from rfprm_runtime.selection.score_table import read_score_table
from rfprm_runtime.selection.scores import ShardScores

def peak_kib():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

def shard(start, count, rng):
    return ShardScores(
        row=np.arange(start, start + count, dtype=np.int32),
        generation=np.full(count, -1, np.int32),
        question=rng.integers(0, 250_000, count).astype(np.uint64),
        reward=rng.random(count),
        trajectory_score=rng.random(count),
        num_tokens=rng.integers(50, 9000, count).astype(np.int32),
        windowed_from=np.full(count, -1, np.int32),
        num_steps=np.full(count, 12, np.int32),
        step_scores=rng.random(12 * count, dtype=np.float32),
    )

rng = np.random.default_rng(0)
rule = Selection(top=1000, per_question=2, group_by="source", top_per_group=400, share=0.5,
                 length_control="residual")
groups = np.zeros(1_000_000, np.int32)
before = peak_kib()
table = read_score_table((shard(start, 256, rng) for start in range(0, 1_000_000, 256)), "reward")
groups = (table.question % 7).astype(np.int32)
choice = choose(rule, table.score, table.num_tokens, table.question, groups)
print(len(table), len(choice.chosen), peak_kib() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak from /proc")
def test_a_million_scores_take_about_100_megabytes() -> None:
    found = subprocess.run(
        [sys.executable, "-c", _MILLION], capture_output=True, text=True, check=True
    )
    num_rows, num_chosen, peak = map(int, found.stdout.split())
    print(f"peak above the imports: {peak / 1024:.0f} MiB")
    assert (num_rows, num_chosen) == (1_000_192, 1000)
    assert peak < 110 * 1024
