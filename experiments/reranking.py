"""Compares the reranker's methods with chance, majority vote and oracle on real solutions, and the
weights α that the reward gives to the trajectory score.

python -m experiments.reranking runs/smollm2-135m-gsm8k-folds --checkpoint models/smollm2-135m-gsm8k
python -m experiments.reranking scored.jsonl

Each question is ranked by the scores of the PRM that was not trained on it, as
`rfprm cross-validate` has kept them, with the calibrations and the α of the checkpoint; or by the
scores that `rfprm score` wrote beside solutions with their outcomes.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import mean_over_questions, over_questions
from benchmarks.runner import environment
from experiments.kept import add_result_options, write_result
from rfprm_export.checkpoint import read_checkpoint
from rfprm_runtime import Ranking, Reranker, Trajectory, TrajectoryScore
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.view.scored_rows import ScoredTrace, read_scored_rows
from rfprm_training.evaluation.alpha import ALPHAS, rankings_with
from rfprm_training.evaluation.claims import as_calibrated
from rfprm_training.evaluation.cross_validation import SCORES_NAME, read_out_of_fold
from rfprm_training.evaluation.held_out import source_accuracy
from rfprm_training.evaluation.metrics import BestOfN, pairs_won, picks

METHODS: dict[str, dict[str, Any]] = {
    "Best-of-4, reward (Eq. 11)": {"aggregation": "reward"},
    "Best-of-4, trajectory score": {"aggregation": "trajectory"},
    "Best-of-4, mean step score": {"aggregation": "mean"},
    "Best-of-4, lowest step score": {"aggregation": "min"},
    "Best-of-4, last step score": {"aggregation": "last"},
    "Best-of-4, product": {"aggregation": "product"},
    "weighted vote, reward": {"aggregation": "reward", "method": "weighted_vote"},
    "weighted vote, trajectory score": {"aggregation": "trajectory", "method": "weighted_vote"},
    "majority vote": {"method": "majority_vote"},
}


class KnownScores:
    """Scores that are there already, in place of a scorer."""

    def __init__(self, pairs: Iterable[tuple[Trajectory, TrajectoryScore]]) -> None:
        self._scores = {_text(trajectory): score for trajectory, score in pairs}

    def score_batch(self, trajectories: Sequence[Trajectory], **options: Any) -> Any:
        return [self._scores[_text(trajectory)] for trajectory in trajectories]


def _text(trajectory: Trajectory) -> tuple[object, ...]:
    return trajectory.question, trajectory.steps, trajectory.response


def scored_pairs(path: Path) -> Iterator[tuple[Trajectory, TrajectoryScore]]:
    """The traces of a file of `rfprm score`, with their outcomes and scores. Raises
    :class:`SystemExit` for a row without them."""
    for row in read_scored_rows(path):
        trace = row.found
        if not isinstance(trace, ScoredTrace) or trace.outcome is None:
            reason = trace if not isinstance(trace, ScoredTrace) else "it has no outcome"
            raise SystemExit(f"{path}, row {row.record.place.number}: {reason}")
        trajectory = Trajectory(
            question=trace.question,
            steps=trace.steps,
            response=trace.response,
            outcome=bool(trace.outcome),
        )
        score = TrajectoryScore(
            step_scores=np.array(trace.step_scores, dtype=np.float32),
            trajectory_score=trace.trajectory_score,
            reward=trace.reward,
            num_tokens=0,  # not in the file, and not read here
        )
        yield trajectory, score


def rank(groups: Sequence[Sequence[Trajectory]], scorer: KnownScores) -> dict[str, list[float]]:
    """For each method, whether its best candidate is right, question by question."""
    asked = [group[0].question for group in groups]
    found: dict[str, list[float]] = {}
    for name, options in METHODS.items():
        options = dict(options)
        method = options.pop("method", "best_of_n")
        with Reranker(scorer, **options) as reranker:  # type: ignore[arg-type]
            rankings = reranker.rank_many(asked, groups, method=method)
        found[name] = [float(_is_right(*pair)) for pair in zip(rankings, groups, strict=True)]
    return found


def picked_by_source(groups: Sequence[Sequence[Trajectory]]) -> list[float] | None:
    """For each question whether the solution of the source is right that is right most often on the
    others; None if it cannot be told."""
    every = [trajectory for group in groups for trajectory in group]
    accuracy = source_accuracy(
        [trajectory.source for trajectory in every],
        [str(number) for number, group in enumerate(groups) for _ in group],
        [bool(trajectory.outcome) for trajectory in every],
    )
    if accuracy is None:
        return None
    known = iter(accuracy.tolist())
    best = [max(group, key=lambda _: next(known)) for group in groups]
    return [float(bool(trajectory.outcome)) for trajectory in best]


def _is_right(ranking: Ranking, candidates: Sequence[Trajectory]) -> bool:
    return bool(candidates[ranking.best.index].outcome)


def estimates(
    values: Sequence[float],
    chance: Sequence[float],
    oracle: Sequence[float],
    votes: Sequence[float],
) -> dict[str, list[float]]:
    """Accuracy, the share of the gap from chance to oracle, and the difference in accuracy from the
    majority vote on the same questions, with 95 % intervals over questions."""
    rows = np.stack([values, chance, oracle], axis=1).astype(np.float64)

    return {
        "accuracy": mean_over_questions(values),
        "gap_recovered": over_questions(
            lambda some: float(BestOfN(*some.mean(axis=0)).gap_recovered), rows
        ),
        "over_majority": mean_over_questions(np.subtract(values, votes)),
    }


def by_alpha(groups: Sequence[Sequence[Trajectory]], scorer: KnownScores) -> dict[str, Any]:
    """AUC within a question and share of the gap that is recovered by the reward with each α, with
    95 % intervals over questions."""
    scores = [score for group in groups for score in scorer.score_batch(group)]
    right = np.array([bool(trajectory.outcome) for group in groups for trajectory in group])
    numbers = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    steps = np.array([score.step_scores.mean() for score in scores], dtype=np.float64)
    wholes = np.array([score.trajectory_score for score in scores], dtype=np.float64)
    found: dict[str, Any] = {}
    for alpha in (*ALPHAS, float("inf")):
        rows = rankings_with(alpha, steps, wholes, right, numbers)
        found[f"{alpha:g}"] = {
            "auc": over_questions(pairs_won, rows),
            "gap_recovered": over_questions(lambda some: picks(some).gap_recovered, rows),
        }
    return found


def plot(found: dict[str, Any], path: Path) -> None:
    """Both figures by α, at even distances."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found))
    titles = {"auc": "AUC within a question", "gap_recovered": "share of the Best-of-4 gap"}
    for name, title in titles.items():
        middle, low, high = np.array([one[name] for one in found.values()]).T
        (line,) = axes.plot(places, middle, marker=".", label=title)
        axes.fill_between(places, low, high, alpha=0.15, color=line.get_color())
    axes.set_xticks(places, ["∞" if name == "inf" else name for name in found])
    axes.set(xlabel="α: weight of the trajectory score beside the mean step score", ylim=(0, 1))
    axes.legend(loc="lower right")
    figure.savefig(path, dpi=150)


def report(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['num_questions']} questions, 4 solutions each")
    columns = ("picked by", "right", "of the gap from random to oracle", "over majority vote")
    for column in columns:
        table.add_column(column, justify="left" if column == "picked by" else "right")
    for name, found in measured["methods"].items():
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*found[key]) for key in found]
        table.add_row(name, *cells)
    console = Console(width=130, highlight=False)
    console.print(table)
    table = Table(title="the reward with other weights")
    for column in ("α", "AUC within a question", "of the gap from random to oracle"):
        table.add_column(column, justify="right")
    for name, found in measured["by_alpha"].items():
        table.add_row(name, *("{:.3f} [{:.3f}, {:.3f}]".format(*found[key]) for key in found))
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "scores", type=Path, help="the output folder of rfprm cross-validate, or a scored file"
    )
    parser.add_argument("--checkpoint", type=Path, help="a PRM of the folds' recipe")
    add_result_options(parser, "reranking")
    options = parser.parse_args(arguments)
    if options.scores.is_dir() == (options.checkpoint is None):
        parser.error("folds need --checkpoint, and a scored file takes none")
    about: dict[str, Any] = {}
    if options.checkpoint is None:
        scored = [(pair[0].question, *pair) for pair in scored_pairs(options.scores)]
        content = content_of(options.scores)
    else:
        checkpoint = read_checkpoint(options.checkpoint)
        about = {"prm": checkpoint.name, "alpha": checkpoint.alpha}
        scored = [
            (example.group, example.trajectory, as_calibrated(score, checkpoint))
            for example, score in read_out_of_fold(options.scores)
        ]
        content = content_of(options.scores / SCORES_NAME)
    grouped: dict[str, list[Trajectory]] = {}
    for name, trajectory, _ in scored:
        grouped.setdefault(name, []).append(trajectory)
    for name, group in grouped.items():
        # The file has weaker models first, and ties go to the first candidate.
        random.Random(name).shuffle(group)
    groups = list(grouped.values())
    scorer = KnownScores((trajectory, score) for _, trajectory, score in scored)
    right = rank(groups, scorer)
    if (picked := picked_by_source(groups)) is not None:
        right["better source"] = picked
    outcomes = [[bool(trajectory.outcome) for trajectory in group] for group in groups]
    right["random"] = [float(np.mean(group)) for group in outcomes]
    right["oracle"] = [float(any(group)) for group in outcomes]
    measured: dict[str, Any] = {
        "environment": environment(),
        **about,
        "scores_sha256": content,
        "num_questions": len(outcomes),
        "methods": {
            name: estimates(values, right["random"], right["oracle"], right["majority vote"])
            for name, values in right.items()
        },
        "by_alpha": by_alpha(groups, scorer),
    }
    path = write_result(options, measured)
    plot(measured["by_alpha"], path.with_suffix(".png"))
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
