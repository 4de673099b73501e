"""rfprm_runtime as its README shows it; rendering and tokenising are inside the clock."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.engines.base import Engine, Row


def load(folder: Path, option: str) -> Engine:
    return OurEngine(folder / f"artifact-{option}")


class OurEngine:
    def __init__(self, artifact: Path) -> None:
        from rfprm_runtime import Scorer

        self._scorer = Scorer.load(artifact)
        self.versions = self._scorer.backend_description

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        from rfprm_runtime import Trajectory

        scores = self._scorer.score_batch([Trajectory(**row.trace) for row in rows])
        return [np.append(score.step_scores, score.trajectory_score or 0.0) for score in scores]

    def run_search(self, question: str, depths: list[list[tuple[int, str]]]) -> list[np.ndarray]:
        """Scores of the candidates of each depth; a candidate is a parent and its next step."""
        beams, scores = [self._scorer.session(question)], []
        for candidates in depths:
            beams = [beams[parent].fork() for parent, _ in candidates]
            new = self._scorer.extend_sessions(beams, [[step] for _, step in candidates])
            scores.append(np.array([own[-1] for own in new]))
        return scores
