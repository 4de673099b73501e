"""rfprm_runtime as its README shows it. Its times include rendering and tokenising."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.engines.base import Engine, Row

if TYPE_CHECKING:
    from rfprm_runtime import Scorer


def load(folder: Path, option: str) -> Engine:
    precision, _, kernels = option.partition("/kernels=")
    return OurEngine(folder / f"artifact-{precision}", kernels or None)


class OurEngine:
    def __init__(self, artifact: Path, kernels: str | None) -> None:
        from rfprm_runtime import Scorer

        self._artifact = artifact
        self._scorer = Scorer.load(artifact, kernels=kernels)
        self._for_one_trace: Scorer | None = None
        self.versions = self._scorer.backend_description

    def run(self, rows: list[Row]) -> list[np.ndarray]:
        from rfprm_runtime import Scorer, Trajectory

        scorer = self._scorer
        if len(rows) == 1 and self.versions.startswith("onnxruntime"):
            # The README's advice for one trace at a time; the native kernels need no mode.
            if self._for_one_trace is None:
                self._for_one_trace = Scorer.load(self._artifact, mode="latency")
            scorer = self._for_one_trace
        scores = scorer.score_batch([Trajectory(**row.trace) for row in rows])
        return [np.append(score.step_scores, score.trajectory_score or 0.0) for score in scores]

    def run_search(self, question: str, depths: list[list[tuple[int, str]]]) -> list[np.ndarray]:
        """The scores of the candidates at each depth; a candidate is a parent and a next step."""
        beams, scores = [self._scorer.session(question)], []
        for candidates in depths:
            beams = [beams[parent].fork() for parent, _ in candidates]
            new = self._scorer.extend_sessions(beams, [[step] for _, step in candidates])
            scores.append(np.array([own[-1] for own in new]))
        return scores
