"""Compares the reranker's methods with chance, majority vote and oracle on real solutions.

python -m experiments.reranking --solutions ../shared/data/gsm8k_model_solutions.jsonl \\
    --folds runs/smollm2-135m-gsm8k-folds

Each question is ranked by the PRM of the fold that holds it out, from `rfprm cross-validate`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.report import over_questions, write_json
from benchmarks.runner import environment
from experiments import RESULTS
from rfprm_export.artifact_writer import export_artifact
from rfprm_runtime import Ranking, Reranker, Scorer, Trajectory
from rfprm_training.gsm8k import read_model_solutions

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


def questions(path: Path, num_folds: int) -> list[list[list[Trajectory]]]:
    """For each fold, the candidates of each question it holds out.

    In random order, because the file has weaker models first and ties go to the first candidate.
    """
    grouped: dict[int, list[Trajectory]] = {}
    for trajectory in read_model_solutions(path):
        grouped.setdefault(trajectory.metadata["question_index"], []).append(trajectory)
    folds: list[list[list[Trajectory]]] = [[] for _ in range(num_folds)]
    for index, candidates in grouped.items():
        random.Random(index).shuffle(candidates)
        folds[index % num_folds].append(candidates)
    return folds


class ScoredOnce(Scorer):
    """Caches the scores of the last batch, which all methods rank."""

    _last: tuple[list[Trajectory], Any] = ([], None)

    def score_batch(self, trajectories: Any, **options: Any) -> Any:
        if trajectories != self._last[0]:
            self._last = list(trajectories), super().score_batch(trajectories, **options)
        return self._last[1]


def rank_fold(artifact: Path, fold: Sequence[Sequence[Trajectory]]) -> dict[str, list[bool]]:
    """For each method, whether its best candidate is right, question by question."""
    found: dict[str, list[bool]] = {}
    with ScoredOnce.load(artifact) as scorer:
        for name, options in METHODS.items():
            options = dict(options)
            method = options.pop("method", "best_of_n")
            with Reranker(scorer, **options) as reranker:
                asked = [group[0].question for group in fold]
                rankings = reranker.rank_many(asked, fold, method=method)
            found[name] = [_is_right(*pair) for pair in zip(rankings, fold, strict=True)]
    return found


def _is_right(ranking: Ranking, candidates: Sequence[Trajectory]) -> bool:
    return bool(candidates[ranking.best.index].outcome)


def estimates(values: Sequence[float], chance: Sequence[float], oracle: Sequence[float]) -> Any:
    """Accuracy and the share of the gap from chance to oracle, with 95 % intervals over
    questions."""
    rows = np.stack([values, chance, oracle], axis=1).astype(np.float64)

    def gap(some: np.ndarray) -> float:
        picked, random_pick, best = some.mean(axis=0)
        return float((picked - random_pick) / (best - random_pick))

    return {
        "accuracy": over_questions(lambda some: float(some[:, 0].mean()), rows),
        "gap_recovered": over_questions(gap, rows),
    }


def report(measured: dict[str, Any]) -> None:
    table = Table(title=f"{measured['num_questions']} questions, 4 solutions each")
    for column in ("picked by", "right", "of the gap from random to oracle"):
        table.add_column(column, justify="left" if column == "picked by" else "right")
    for name, found in measured["methods"].items():
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*found[key]) for key in found]
        table.add_row(name, *cells)
    Console(width=110, highlight=False).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--solutions", type=Path, required=True)
    parser.add_argument("--folds", type=Path, required=True)
    parser.add_argument("--precision", default="int16")
    options = parser.parse_args()
    checkpoints = sorted(options.folds.glob("fold-?/checkpoint.json"))
    folds = questions(options.solutions, len(checkpoints))
    right: dict[str, list[float]] = {}
    for path, fold in zip(checkpoints, folds, strict=True):
        name = path.parent.name
        artifact = Path("artifacts/benchmarks/folds") / f"{name}-{options.precision}"
        if not artifact.exists():
            export_artifact(path.parent, artifact, precision=options.precision)
        for method, picks in rank_fold(artifact, fold).items():
            right.setdefault(method, []).extend(map(float, picks))
        print(f"{name} ranked", flush=True)
    outcomes = [[bool(t.outcome) for t in group] for fold in folds for group in fold]
    right["random"] = [float(np.mean(group)) for group in outcomes]
    right["oracle"] = [float(any(group)) for group in outcomes]
    measured = {
        "environment": environment(),
        "precision": options.precision,
        "num_questions": len(outcomes),
        "methods": {
            name: estimates(values, right["random"], right["oracle"])
            for name, values in right.items()
        },
    }
    path = write_json("reranking", json.loads(json.dumps(measured)), RESULTS)
    report(measured)
    print(f"→ {path}")


if __name__ == "__main__":
    main()
