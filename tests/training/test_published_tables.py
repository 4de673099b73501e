"""ProcessBench's and PRMBench's tables, and the decisions that change between two scorers."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rfprm_export.artifact_writer import export_artifact
from rfprm_runtime.artifact.manifest import Readout
from rfprm_runtime.types import Trajectory, TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.commands import evaluate
from rfprm_training.evaluation.claims import Claims
from rfprm_training.evaluation.decisions import changed_decisions
from rfprm_training.evaluation.evaluated_sets import evaluate_sets, summarise_sets
from rfprm_training.evaluation.prmbench import GROUPS, prmbench_table
from rfprm_training.evaluation.processbench import processbench_table
from rfprm_training.evaluation.published_formats import ORIGINAL
from rfprm_training.example import UNKNOWN, Example

PROBABILITIES = Claims()


def example(kind: str, labels: tuple[float, ...], group: str = "q") -> Example:
    steps = tuple(f"step {index}" for index in range(len(labels)))
    return Example(Trajectory(question=group, steps=steps), labels, UNKNOWN, group, kind, True)


def marked(kind: str, num_steps: int, first_error: int | None) -> Example:
    labels = [1.0] * num_steps
    if first_error is not None:
        labels[first_error:] = [0.0] + [UNKNOWN] * (num_steps - first_error - 1)
    return example(kind, tuple(labels))


def scored(*steps: float, reward: float | None = None) -> TrajectoryScore:
    values = np.array(steps, np.float32)
    mean = float(values.mean()) if len(values) else 0.0
    return TrajectoryScore(
        step_scores=values,
        trajectory_score=None,
        reward=mean if reward is None else reward,
        num_tokens=1,
    )


def test_processbench_by_both_rules() -> None:
    examples = [
        marked("math", 2, 1),
        marked("gsm8k", 3, 1),
        marked("gsm8k", 2, None),
        marked("math", 2, None),
        marked("math", 2, 0),
    ]
    scores = [
        scored(0.9, 0.4),  # located by 0.5, by gsm8k's threshold too
        scored(0.8, 0.3, 0.9),
        scored(0.9, 0.35),  # a right one that 0.5 refuses and a lower threshold accepts
        scored(0.9, 0.9),
        scored(0.45, 0.2),  # located by 0.5 alone
    ]
    found = processbench_table(examples, scores, PROBABILITIES)
    assert found is not None
    assert list(found.subsets) == ["gsm8k", "math"]
    assert found.threshold_chosen is not None
    assert 0.3 < found.threshold_chosen <= 0.35
    gsm8k, math_set = found.subsets.values()
    assert (gsm8k.num_wrong, gsm8k.num_right, math_set.num_wrong) == (1, 1, 2)
    assert (gsm8k.at_half.wrong_located, gsm8k.at_half.right_accepted) == (1.0, 0.0)
    assert gsm8k.at_chosen is not None
    assert gsm8k.at_chosen.f1 == 1.0
    assert math_set.at_half.f1 == 1.0
    assert math_set.at_chosen is not None
    # At about 0.33 the first is missed, and in the last the second step is the first below it.
    assert (math_set.at_chosen.wrong_located, math_set.at_chosen.right_accepted) == (0.0, 1.0)
    assert found.mean_f1_at_half == pytest.approx((0.0 + 1.0) / 2)
    assert found.mean_f1_at_chosen == pytest.approx((1.0 + 0.0) / 2)


def test_without_gsm8k_there_is_no_threshold_to_take_over() -> None:
    found = processbench_table([marked("omnimath", 1, 0)], [scored(0.2)], PROBABILITIES)
    assert found is not None
    assert (found.threshold_chosen, found.mean_f1_at_chosen) == (None, None)
    assert found.subsets["omnimath"].at_chosen is None
    assert math.isnan(found.subsets["omnimath"].at_half.right_accepted)


def test_a_solution_without_a_score_has_no_error() -> None:
    examples = [marked("gsm8k", 2, 1), marked("gsm8k", 2, None), marked("gsm8k", 2, 0)]
    found = processbench_table(examples, [None, None, scored(0.1, 0.9)], PROBABILITIES)
    assert found is not None
    at_half = found.subsets["gsm8k"].at_half
    assert (at_half.wrong_located, at_half.right_accepted) == (0.5, 1.0)


@pytest.mark.parametrize("table", [processbench_table, prmbench_table])
def test_a_reward_model_of_sequences_has_no_table(table: Any) -> None:
    assert table([marked("gsm8k", 2, 1)], [scored(reward=0.3)], PROBABILITIES) is None
    assert table([marked("gsm8k", 2, 1)], [None], PROBABILITIES) is None


def test_the_threshold_follows_the_scale_of_the_scores() -> None:
    claims = Claims(Readout(transform="sigmoid", positive=1, scale=2.0, offset=-1.0))
    found = processbench_table(
        [marked("math", 2, 1), marked("math", 1, None)], [scored(0.5, -0.2), scored(0.1)], claims
    )
    assert found is not None
    assert found.threshold_at_half == 0.0
    assert found.subsets["math"].at_half.f1 == 1.0


KINDS = [kind for kinds in GROUPS.values() for kind in kinds]
STEPS = st.lists(st.tuples(st.booleans(), st.floats(0, 1, width=32)), min_size=1, max_size=5)


@given(st.lists(st.tuples(st.sampled_from([*KINDS, ORIGINAL]), STEPS), min_size=1, max_size=30))
def test_prmbench_counts_as_its_authors_do(rows: list[tuple[str, Any]]) -> None:
    """Step by step, with their four counts: a right step called right is a true positive."""
    rows = [
        (kind, [(right or kind == "multi_solutions", s) for right, s in steps])
        for kind, steps in rows
    ]
    counts: dict[str, Counter[str]] = {}
    for kind, steps in rows:
        for name in () if kind == ORIGINAL else (kind, "all"):
            for right, score in steps:
                called = score > 0.5
                key = ("TP" if called else "FN") if right else ("FP" if called else "TN")
                counts.setdefault(name, Counter())[key] += 1
    examples = [example(kind, tuple(map(float, (r for r, _ in steps)))) for kind, steps in rows]
    scores = [scored(*(s for _, s in steps)) for _, steps in rows]
    found = prmbench_table(examples, scores, PROBABILITIES)
    if not counts:
        assert found is None
        return
    assert found is not None
    assert {*found.kinds, "all"} == set(counts)

    def f1(hit: int, false: int, missed: int) -> float:
        if not hit:
            return 0.0
        precision, recall = hit / (hit + false), hit / (hit + missed)
        return 2 * precision * recall / (precision + recall)

    for name, count in counts.items():
        right = f1(count["TP"], count["FP"], count["FN"])
        wrong = f1(count["TN"], count["FN"], count["FP"])
        score = right if name == "multi_solutions" else (right + wrong) / 2
        got = found if name == "all" else found.kinds[name]
        assert got.prm_score == pytest.approx(score)
    for group, value in found.groups.items():
        assert value == pytest.approx(np.mean([found.kinds[k].prm_score for k in GROUPS[group]]))


def test_decisions_that_change() -> None:
    examples = [
        example("x", (UNKNOWN,) * 2, group) for group in ("q", "q", "p", "p", "alone", "failed")
    ]
    scores = [
        scored(0.6, 0.4, reward=0.9),
        scored(0.6, 0.6, reward=0.8),
        scored(0.9, 0.9, reward=0.7),
        scored(0.9, 0.9, reward=0.7),  # equal, so the earlier one is picked
        scored(0.1, 0.9, reward=0.1),
        None,
    ]
    others = [
        scored(0.6, 0.51, reward=0.85),  # no first error any more
        scored(0.6, 0.6, reward=0.86),  # the pick of q changes
        scored(0.9, 0.9, reward=0.7),
        scored(0.9, 0.9, reward=0.7),
        scored(0.2, 0.9, reward=0.1),
        scored(0.2, 0.9),
    ]
    found = changed_decisions(examples, scores, others, PROBABILITIES, PROBABILITIES)
    assert found is not None
    assert found.num_trajectories == 5
    assert found.first_errors_changed == pytest.approx(1 / 5)
    assert (found.picks_changed, found.num_questions_picked) == (0.5, 2)
    assert found.top_changed == {0.01: 1.0, 0.1: 1.0, 0.5: 0.0}
    assert found.mean_step_difference == pytest.approx((0.11 + 0.1) / 10, abs=1e-6)
    same = changed_decisions(examples, scores, scores, PROBABILITIES, PROBABILITIES)
    assert same is not None
    assert (same.picks_changed, same.first_errors_changed) == (0.0, 0.0)
    assert set(same.top_changed.values()) == {0.0}
    assert same.rank_correlation == pytest.approx(1.0)
    assert changed_decisions(examples, [None] * 6, others, PROBABILITIES, PROBABILITIES) is None


def test_first_errors_of_two_scales_are_compared_each_on_its_own() -> None:
    raw = Claims(Readout(transform="none", positive=0))
    found = changed_decisions(
        [marked("x", 2, 1)], [scored(0.7, 0.2)], [scored(1.5, -3.0)], PROBABILITIES, raw
    )
    assert found is not None
    assert found.first_errors_changed == 0.0


def test_subsets_in_files_of_their_own_give_one_table() -> None:
    sets = {
        "processbench:a": [marked("gsm8k", 1, 0), marked("gsm8k", 1, None)],
        "processbench:b": [marked("math", 1, 0), marked("math", 1, None)],
        "big_bench_mistake:c": [marked("big_bench_mistake", 1, 0)],
    }
    scores: dict[str, list[TrajectoryScore | None]] = {
        name: [scored(0.2 + 0.6 * (one.first_error is None)) for one in examples]
        for name, examples in sets.items()
    }
    found = summarise_sets(sets, scores, None)
    assert found.prmbench is None
    assert found.processbench is not None
    assert set(found.processbench.subsets) == {"gsm8k", "math"}
    content = json.loads(json.dumps(found.as_dict()))
    assert set(content) == {*sets, "processbench_table"}
    assert content["processbench_table"]["mean_f1_at_half"] == 1.0
    assert content["processbench_table"]["subsets"]["math"]["at_chosen"]["f1"] == 1.0


def run(*arguments: Any) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, [str(each) for each in arguments])


def test_an_artifact_against_its_other_precision(
    tmp_path: Path, published_prm: Path, tiny_artifact: Path
) -> None:
    other = tmp_path / "int16"
    export_artifact(published_prm, other, precision="int16", verify=False)
    bench = tmp_path / "bench.jsonl"
    rows: list[dict[str, Any]] = [
        {
            "id": f"gsm8k-{index}",
            "problem": f"What is {index} + 2?",
            "steps": [f"It is {index} + 2.", f"So {index + wrong}."],
            "label": 1 if wrong != 2 else -1,
        }
        for index in range(4)
        for wrong in (2, 3, 5)
    ]
    bench.write_text("".join(json.dumps(row) + "\n" for row in rows))
    prm = tmp_path / "prm.jsonl"
    modified = {
        "original_question": "q",
        "original_process": ["a"],
        "modified_question": "q",
        "modified_process": ["a", "b"],
        "error_steps": [2],
        "classification": "circular",
    }
    prm.write_text(json.dumps(modified) + "\n")
    sets = ("--on", f"processbench:{bench}", "--on", f"prmbench:{prm}")
    out = tmp_path / "found.json"
    result = run(tiny_artifact, *sets, "--against", other, "-o", out)
    assert result.exit_code == 0, result.output
    for part in (
        "ProcessBench",
        "PRMBench",
        "against the other PRM",
        "the best on gsm8k",
        "circular",
    ):
        assert part in result.output
    content = json.loads(out.read_text())
    decisions = content["decisions"][f"processbench:{bench}"]
    assert decisions["num_questions_picked"] == 4
    assert decisions["mean_reward_difference"] < 0.05
    same = evaluate_sets([f"processbench:{bench}"], model=tiny_artifact, against=tiny_artifact)
    of_same = same.decisions[f"processbench:{bench}"]
    assert of_same is not None
    assert of_same.mean_reward_difference == 0.0


def test_a_comparison_needs_a_prm_and_a_set(tmp_path: Path) -> None:
    result = run(tmp_path, "--against", tmp_path)
    assert isinstance(result.exception, TrainingError)
    assert "give a PRM, and sets with --on" in str(result.exception)
