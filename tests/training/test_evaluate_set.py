from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from llm_server import serving, status
from rfprm_runtime import RfprmError, SourceError
from rfprm_runtime.errors import TraceTooLongError
from rfprm_runtime.types import TrajectoryScore
from rfprm_training import TrainingError
from rfprm_training.commands import evaluate
from rfprm_training.evaluation.best_of_n import (
    any_right,
    best_of_n_curve,
    majority_right,
    picked_right,
)
from rfprm_training.evaluation.evaluated_sets import evaluate_sets
from rfprm_training.evaluation.judged import judge_set
from rfprm_training.evaluation.metrics import Estimate
from rfprm_training.evaluation.set_figures import summarise_set
from rfprm_training.evaluation.step_metrics import (
    calibration,
    classify_steps,
    cross_fitted_first_error,
    fit_temperature,
    folds,
)
from rfprm_training.example import Example
from rfprm_training.labelling.expert.config import ExpertConfig

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def of(estimate: Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def brute_force(scores: list[float], right: list[bool], n: int) -> float:
    picked = []
    for subset in itertools.combinations(range(len(scores)), n):
        best = max(scores[i] for i in subset)
        picked.append(np.mean([right[i] for i in subset if scores[i] == best]))
    return float(np.mean(picked))


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=2, max_size=7), st.data())
def test_best_of_n_is_the_mean_over_all_subsets(
    solutions: list[tuple[int, bool]], data: st.DataObject
) -> None:
    n = data.draw(st.integers(1, len(solutions)))
    scores, right = [float(s) for s, _ in solutions], [r for _, r in solutions]
    array, flags = np.array(scores), np.array(right)
    assert picked_right(array, flags, n) == pytest.approx(brute_force(scores, right, n))
    some = [any(right[i] for i in c) for c in itertools.combinations(range(len(right)), n)]
    assert any_right(flags, n) == pytest.approx(np.mean(some))


def test_the_majority_wins_where_it_is_right() -> None:
    rng = np.random.default_rng(0)
    answers = ["7", "7", "7", "8", None]
    right = np.array([True, True, True, False, False])
    assert majority_right(answers, right, 5, rng) == 1.0
    assert majority_right(["7", "8"], np.array([True, False]), 2, rng) == 0.5
    assert majority_right([None, None], np.array([True, False]), 2, rng) == 0.0


def test_a_curve_rises_from_random_to_the_oracle_for_a_perfect_score() -> None:
    rng = np.random.default_rng(0)
    right = rng.random((60, 16)) < 0.3
    groups = np.repeat(np.arange(60), 16)
    flat = right.ravel()
    points = best_of_n_curve(flat.astype(float), flat, groups)
    assert [point.n for point in points] == [2, 4, 8, 16]
    for point in points:
        assert point.picked.value == pytest.approx(point.oracle.value)
        assert point.gap_recovered.value == pytest.approx(1.0)
        assert point.random.low <= point.random.value <= point.random.high
    chance = best_of_n_curve(rng.random(960), flat, groups)[1]
    assert chance.gap_recovered.low < 0 < chance.gap_recovered.high


def test_sizes_beyond_every_question_are_left_out() -> None:
    right = np.array([True, False, True])
    points = best_of_n_curve(np.zeros(3), right, np.array([0, 0, 1]))
    assert [(point.n, point.num_questions) for point in points] == [(2, 1)]


def test_folds_never_share_a_question() -> None:
    groups = [f"g{i // 3}" for i in range(3000)]
    fold_of = folds(groups)
    assert np.bincount(fold_of, minlength=10).min() > 210
    assert (fold_of.reshape(-1, 3) == fold_of[::3, None]).all()


def test_a_threshold_is_never_chosen_on_its_own_fold() -> None:
    groups = [f"g{i}" for i in range(40)]
    fold_of = folds(groups)
    # In one fold the wrong step scores 0.6 and right ones 0.8, in the others 0.2 and 0.4.
    odd = fold_of == fold_of[0]
    scores = [np.array([0.8, 0.6] if own else [0.4, 0.2], dtype=np.float32) for own in odd]
    found, thresholds = cross_fitted_first_error(scores, [1] * 40, groups)
    assert np.all((thresholds > 0.2) & (thresholds <= 0.4))  # its own threshold is above 0.6
    assert found.wrong_located == pytest.approx(1 - odd.mean())


def test_a_single_question_gets_the_threshold_one_half() -> None:
    scores = [np.array([0.9, 0.6], dtype=np.float32)] * 3
    found, thresholds = cross_fitted_first_error(scores, [1] * 3, ["g"] * 3)
    assert thresholds.tolist() == [0.5] * 3
    assert found.wrong_located == 0.0


def test_one_threshold_can_fit_all_folds() -> None:
    groups = [f"g{i}" for i in range(40)]
    scores = [np.array([0.9, 0.7 if i % 2 else 0.95], dtype=np.float32) for i in range(40)]
    found, _ = cross_fitted_first_error(scores, [1 if i % 2 else None for i in range(40)], groups)
    assert found.f1 == 1.0


def test_step_classification_counts_both_classes() -> None:
    right = np.array([True, True, True, False])
    found = classify_steps(np.array([True, True, False, False]), right)
    assert found.f1_right == pytest.approx(0.8)
    assert found.f1_wrong == pytest.approx(2 / 3)
    assert (found.accuracy, found.num_wrong) == (0.75, 1)


def test_ece_is_zero_for_calibrated_scores_and_the_gap_for_overconfident_ones() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    right = rng.random(20_000) < honest
    found = calibration(honest, right)
    assert found is not None
    assert found.ece < 0.02
    found = calibration(np.full(1000, 0.9), np.arange(1000) % 2 == 0)
    assert found is not None
    assert found.ece == pytest.approx(0.4, abs=0.01)


def test_too_few_scores_have_no_calibration() -> None:
    scores, right = np.full(40, 0.5), np.arange(40) % 2 == 0
    assert calibration(scores, right) is not None
    assert calibration(scores[1:], right[1:]) is None


def test_a_known_temperature_is_recovered() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, 50_000)
    right = rng.random(50_000) < 1 / (1 + np.exp(-(logits / 2.5 - 0.7)))
    temperature, bias = fit_temperature(logits, right)
    assert temperature == pytest.approx(2.5, rel=0.05)
    assert bias == pytest.approx(-0.7, abs=0.05)
    with pytest.raises(ValueError, match="do not rise"):
        fit_temperature(-logits, right)
    with pytest.raises(ValueError, match="right and wrong"):
        fit_temperature(logits, np.ones(50_000, dtype=bool))


def marked(count: int = 60) -> list[Example]:
    rows = []
    for i in range(count):
        labels = (1.0, 0.0, math.nan) if i % 2 else (1.0, 1.0, 1.0)
        rows.append(
            Example(
                trajectory_of(i, 3), labels, float(i % 2 == 0), f"q{i // 4}", "test", held_out=True
            )
        )
    return rows


def trajectory_of(index: int, steps: int) -> Any:
    from rfprm_runtime.types import Trajectory

    return Trajectory(
        question=f"q{index // 4}",
        steps=tuple(f"step {i}" for i in range(steps)),
        response=(f"The answer is {index % 2}.",),
    )


def score_of(steps: list[float], final: float | None) -> TrajectoryScore:
    return TrajectoryScore(
        step_scores=steps,
        trajectory_score=final,
        reward=float(np.mean(steps)) + (final or 0.0),
        num_tokens=9,
    )


def test_perfect_scores_give_perfect_figures() -> None:
    examples = marked()
    scores = [
        score_of([0.9, 0.1 if e.first_error == 1 else 0.9, 0.5], e.trajectory_label)
        for e in examples
    ]
    for score, example in zip(scores, examples, strict=True):
        if example.first_error is None:
            score.step_scores[2] = 0.9
    found = summarise_set(examples, scores)
    assert found.first_error is not None
    assert found.first_error_at_half is not None
    assert found.first_error.f1 == found.first_error_at_half.f1 == 1.0
    assert found.steps is not None
    assert found.steps.prm_score == of(found.step_auc) == 1.0
    assert found.outcome_auc is not None
    assert found.outcome_auc.value == 1.0
    assert found.best_of_n[0].majority is not None
    assert found.best_of_n[0].gap_recovered.value == pytest.approx(1.0)
    assert found.outcome_calibration is not None
    assert found.outcome_calibration.ece == 0.0
    kept = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert kept["first_error_f1_at_half"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert kept["step_auc"] == 1.0
    assert kept["step_auc_interval"] == [1.0, 1.0]


def test_scores_that_merely_fall_know_no_steps() -> None:
    """Errors come late here, so scores that fall from step to step look good unless steps are
    compared at one place."""
    examples = [
        Example(trajectory_of(i, 3), labels, math.nan, f"q{i // 4}", "test", held_out=True)
        for i in range(60)
        for labels in [(1.0, 1.0, float(i % 2))]
    ]
    found = summarise_set(examples, [score_of([0.9, 0.6, 0.3], None)] * 60)
    assert of(found.step_auc) == pytest.approx(0.9)
    assert of(found.step_auc_at_place) == 0.5
    knowing = [score_of([0.9, 0.6, 0.2 + 0.2 * e.step_labels[2]], None) for e in examples]
    assert of(summarise_set(examples, knowing).step_auc_at_place) == 1.0


@pytest.mark.parametrize(
    ("labels", "known"),
    [
        ((1.0, 0.0, math.nan), True),
        ((0.0, math.nan, math.nan), True),
        ((1.0, 1.0, 1.0), True),
        ((math.nan, 0.0, 0.0), False),
        ((1.0, math.nan, 0.0), False),
        ((1.0, 1.0, math.nan), False),
        ((math.nan, math.nan, math.nan), False),
    ],
)
def test_a_first_error_is_known_if_every_step_before_it_is(
    labels: tuple[float, ...], known: bool
) -> None:
    assert replace(marked()[0], step_labels=labels).knows_first_error is known


def test_first_errors_count_where_they_are_known_and_steps_where_they_are_labelled() -> None:
    """A verifier leaves steps open that it cannot judge, the first one, too."""
    examples = marked(16)
    scores = [score_of([0.9, 0.8, 0.1], None) for _ in examples]
    whole = summarise_set(examples, scores)
    hidden = [replace(e, step_labels=(math.nan, *e.step_labels[1:])) for e in examples]
    partly = summarise_set([*examples, *hidden], [*scores, *scores])
    assert partly.num_first_errors == whole.num_first_errors == 16
    assert partly.first_error_at_half == whole.first_error_at_half
    assert whole.steps is not None
    assert partly.steps is not None
    assert partly.steps.num_steps == whole.steps.num_steps + 8 * 2 + 8
    alone = summarise_set(hidden, scores)
    assert (alone.num_first_errors, alone.first_error) == (0, None)
    assert alone.step_auc is not None


def test_scores_that_know_the_outcome_alone_know_no_step_of_a_wrong_trace() -> None:
    """A verifier may grade all steps of a right trace as right, for the outcome's sake."""
    wrong = [replace(e, step_labels=(1.0, 0.0, 1.0)) for e in marked(8)]
    other = [replace(e, step_labels=(0.0, 1.0, 0.0)) for e in marked(8)]
    right = [replace(e, step_labels=(1.0, 1.0, 1.0)) for e in marked(16)]
    examples = [*wrong, *other, *right]
    blind = [score_of([0.2] * 3, None)] * 16 + [score_of([0.9] * 3, None)] * 16
    found = summarise_set(examples, blind)
    assert of(found.step_auc) > 0.75
    assert of(found.step_auc_in_wrong) == 0.5
    knowing = [score_of(list(e.step_labels), None) for e in examples]
    assert of(summarise_set(examples, knowing).step_auc_in_wrong) == 1.0
    assert summarise_set(right, blind[16:]).step_auc_in_wrong is None


def test_a_missing_score_counts_as_no_error_found() -> None:
    examples = marked()
    found = summarise_set(examples, [None] * len(examples))
    assert found.num_failed == len(examples)
    assert found.first_error is not None
    assert (found.first_error.wrong_located, found.first_error.right_accepted) == (0.0, 1.0)
    assert found.outcome_auc is None


def test_an_llm_is_measured_like_a_prm(tmp_path: Path) -> None:
    def reply(request: dict[str, Any]) -> Any:
        content = request["messages"][1]["content"]
        if "q3" in content:
            return status(400)
        entries = [{"step": i, "reason": "", "grade": 6 - i} for i in (1, 2, 3)]
        return json.dumps({"grades": entries})

    examples = marked(16)
    with serving(reply) as server:
        config = ExpertConfig(base_url=server.url, model="m", cache=tmp_path / "c.sqlite")
        judged = judge_set(examples, config)
    scores = judged.scores
    assert (judged.usage.answers, judged.usage.cached) == (6, 8)  # pairs are alike
    assert list(judged.problems.values()) == [4]
    assert "400" in next(iter(judged.problems))
    assert "without a score 4, 4 of them" in str(judged)
    assert [score is None for score in scores] == [False] * 12 + [True] * 4
    assert scores[0] is not None
    assert scores[0].step_scores.tolist() == [1.0, 0.75, 0.5]
    assert summarise_set(examples, scores).num_failed == 4


def test_a_judge_that_judges_nothing_gets_no_figures(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", {"problem": "q", "steps": ["a"], "label": 0})
    with serving([status(400)]) as server:
        settings = ExpertConfig(base_url=server.url, model="m", cache=tmp_path / "c.sqlite")
        with pytest.raises(TrainingError, match=r"no trajectory of .* was judged; .*400"):
            evaluate_sets([f"processbench:{path}"], judge=settings)


def run(*arguments: object) -> Any:
    app = typer.Typer()
    app.command()(evaluate)
    return CliRunner().invoke(app, list(map(str, arguments)))


def test_the_command_measures_a_judge_on_sets(tmp_path: Path) -> None:
    rows = [{"problem": f"q{i}", "steps": ["a", "b"], "label": i % 2 * 2 - 1} for i in range(50)]
    path = write(tmp_path / "p.jsonl", *rows)
    answer = json.dumps({"grades": [{"step": i, "grade": 4} for i in (1, 2)]})
    with serving([answer]) as server:
        judge = tmp_path / "judge.toml"
        judge.write_text(
            f"base_url = '{server.url}'\nmodel = 'm'\ncache = '{tmp_path / 'c.sqlite'}'\n"
        )
        out = tmp_path / "out.json"
        result = run("--judge", judge, "--on", f"processbench:{path}", "-o", out)
    assert result.exit_code == 0, result.output
    assert "first wrong step: F1 0.000" in result.output
    figures = json.loads(out.read_text())[f"processbench:{path}"]
    assert figures["first_error"] == {"wrong_located": 0.0, "right_accepted": 1.0, "f1": 0.0}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("", "give either"),
        ("model --judge x.toml", "give either"),
        ("--judge x.toml", "--judge needs evaluation sets"),
        (
            "--judge x.toml --on rewarded:f --score-prefixes",
            "--score-prefixes is for reward models",
        ),
        ("--judge x.toml --on rewarded:f --against other", "--against compares two PRMs"),
        ("model --against other", "--against compares two PRMs"),
        ("model --on rewarded:f --config c.toml", "--on names other sets"),
        ("model --plot p.png", "--plot draws evaluation sets"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(arguments: str, complaint: str) -> None:
    result = run(*arguments.split())
    assert isinstance(result.exception, TrainingError)
    assert complaint in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ("-o set.jsonl/x.json", "is a file, so"),
        ("-o .", "is a folder"),
        ("-o set.jsonl", "is the input itself"),
        ("-o ../here/set.jsonl", "is the input itself"),
        ("--plot set.jsonl", "is the input itself"),
        ("--plot x.foo", "its name must end in one of"),
        ("--plot same.png -o same.png", "name two files"),
        ("-o run/config.toml", "is the input itself"),
        ("-o run/evaluation.json", "the model card reads it"),
        ("--split lines", "for sets of outcomes"),
        ("--text-field a", "for sets of outcomes"),
        ("--against elsewhere", "there is no checkpoint or artifact"),
    ],
)
def test_what_cannot_be_written_is_refused_before_hours_of_scoring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: str, complaint: str
) -> None:
    folder = tmp_path / "here"
    (folder / "run").mkdir(parents=True)
    (folder / "run" / "config.toml").write_text("")
    row = {"problem": "q", "steps": ["a"], "label": 0}
    kept = write(folder / "set.jsonl", row).read_text()
    monkeypatch.chdir(folder)
    result = run("run", "--on", "processbench:set.jsonl", *arguments.split())
    assert isinstance(result.exception, RfprmError)
    assert complaint in str(result.exception)
    assert (folder / "set.jsonl").read_text() == kept


def test_figures_are_json_where_some_are_of_nothing(tmp_path: Path, tiny_artifact: Path) -> None:
    rows = [{"problem": f"q{i}", "steps": ["a", "b"], "label": -1} for i in range(3)]
    path, out = write(tmp_path / "p.jsonl", *rows), tmp_path / "out.json"
    result = run(tiny_artifact, "--on", f"processbench:{path}", "-o", out)
    assert result.exit_code == 0, result.output
    assert "no F1: all of these trajectories are right, or all are wrong" in result.output
    assert "nan" not in result.output
    assert "the best on gsm8k" not in result.output

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    figures = json.loads(out.read_text(), parse_constant=refuse)
    assert figures[f"processbench:{path}"]["first_error"]["wrong_located"] is None


def test_a_trace_that_cannot_be_scored_costs_only_itself(
    tmp_path: Path, tiny_artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    texts = ["a", "word " * 5000, "c"]  # one step has more tokens than the model has positions
    rows = [{"problem": f"q{n}", "steps": [text], "label": 0} for n, text in enumerate(texts)]
    path = write(tmp_path / "p.jsonl", *rows)
    found = evaluate_sets([f"processbench:{path}"], model=tiny_artifact)
    assert found.sets[f"processbench:{path}"].num_failed == 1
    assert "the trace with the question 'q1'" in caplog.text
    write(path, rows[1])
    with pytest.raises(TraceTooLongError):
        evaluate_sets([f"processbench:{path}"], model=tiny_artifact)


def test_long_traces_are_counted(tmp_path: Path, tiny_artifact: Path) -> None:
    steps = ["word " * 20] * 40
    path = write(tmp_path / "p.jsonl", {"problem": "q", "steps": steps, "label": 3})
    result = run(tiny_artifact, "--on", f"processbench:{path}")
    assert "1 are longer than the model's positions" in result.output, result.output


def test_a_vote_joins_answers_that_mean_the_same(tmp_path: Path, tiny_artifact: Path) -> None:
    rows = [
        {"question": "q", "completion": f"The answer is {answer}.", "is_correct": right}
        for answer, right in (("1/2", True), ("0.5", True), ("7", False), ("8", False))
    ]
    rows[1]["completion"] = r"The answer is \(\frac{1}{2}\)."
    path = write(tmp_path / "o.jsonl", *rows)
    found = evaluate_sets([f"outcomes:{path}"], model=tiny_artifact)
    [_, four] = found.sets[f"outcomes:{path}"].best_of_n
    assert four.majority is not None
    assert four.majority.value == 1.0


def test_a_set_is_read_before_anything_is_scored(tmp_path: Path) -> None:
    result = run(tmp_path / "no-model", "--on", f"processbench:{tmp_path / 'absent.jsonl'}")
    assert isinstance(result.exception, SourceError)
    assert "there is no file" in str(result.exception)


def test_reliability_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the extra 'bench'")
    from rfprm_training.evaluation.plots import plot_reliability

    examples = marked()
    scores = [score_of([0.9, 0.5, 0.4], 0.3 + 0.4 * e.trajectory_label) for e in examples]
    path = tmp_path / "plot.png"
    plot_reliability({"set": summarise_set(examples, scores)}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
