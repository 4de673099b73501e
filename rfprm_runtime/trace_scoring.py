"""Scores whole traces.

    render → encode → plan → run → read out

Each stage lives in its own module; this one only walks the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.engine.engine import Engine
from rfprm_runtime.engine.rows import Extension
from rfprm_runtime.errors import UNSCORABLE, RfprmError, around_errors, raise_first
from rfprm_runtime.ground.progress import ProgressBar, progress_bar
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.prompt.prepared import Prepared, prepare
from rfprm_runtime.scores.readout import assemble_score, read_step_scores
from rfprm_runtime.traces.items import Scorable, trajectory_of
from rfprm_runtime.types import TrajectoryScore, Windows

OnScored = Callable[[int], object]


@dataclass(frozen=True)
class TraceScoring:
    """What scores the traces of one model."""

    manifest: Manifest
    encoder: TrajectoryEncoder
    engine: Engine
    score_prefixes: bool

    def score(
        self,
        traces: Iterable[Scorable],
        windows: Windows | None,
        *,
        show_progress_bar: bool,
        on_scored: OnScored | None,
        raise_errors: bool,
    ) -> list[TrajectoryScore | RfprmError]:
        """One result for each trace, as :meth:`rfprm_runtime.Scorer.score_batch` documents."""
        with self.engine.call():
            prepared = [self._prepare(item, windows) for item in traces]
            if raise_errors:
                raise_first(prepared, "item")
            rows = [row for item in prepared if isinstance(item, Prepared) for row in item.rows]
            total = sum(row.num_tokens for row in rows)
            with closing(progress_bar(total, "tokens", show=show_progress_bar)) as bar:
                return around_errors(prepared, lambda items: self._run(items, bar, on_scored))

    def _prepare(self, item: Scorable, windows: Windows | None) -> Prepared | RfprmError:
        """Render and encode. Whatever cannot be scored is found here, before anything runs."""
        trajectory = trajectory_of(item)
        if isinstance(trajectory, RfprmError):
            return trajectory
        try:
            return prepare(
                trajectory,
                self.encoder,
                self.manifest,
                windows=windows,
                score_prefixes=self.score_prefixes,
            )
        except UNSCORABLE as error:
            return error

    def _run(
        self, items: list[Prepared], bar: ProgressBar, on_scored: OnScored | None
    ) -> list[TrajectoryScore]:
        rows = [row for item in items for row in item.rows]
        owners = [owner for owner, item in enumerate(items) for _ in item.rows]
        num_left = [len(item.rows) for item in items]

        def on_row_done(index: int) -> None:
            bar.advance(rows[index].num_tokens)
            num_left[owners[index]] -= 1
            if on_scored is not None and num_left[owners[index]] == 0:
                on_scored(1)

        extensions = [Extension(row.token_ids, row.marker_positions) for row in rows]
        done = iter(self.engine.run(extensions, on_row_done))
        return [
            self._read_out(item, np.concatenate([next(done).logits for _ in item.rows]))
            for item in items
        ]

    def _read_out(self, item: Prepared, logits: NDArray[np.float32]) -> TrajectoryScore:
        """``logits`` [num_markers, num_labels]: of steps or prefixes, then of the trajectory."""
        num_steps = item.num_step_scores
        return assemble_score(
            self.manifest,
            read_step_scores(logits[:num_steps], self.manifest),
            logits[num_steps:],
            num_tokens=item.row.num_tokens,
            windowed_from=item.windowed_from,
            num_run_tokens=item.num_run_tokens,
        )
