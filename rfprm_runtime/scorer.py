"""Scorer: trajectories in, scores out.

    render → encode → plan → run → read out

Each of these lives in a module of its own; this one only walks the path.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.aggregation import trajectory_reward
from rfprm_runtime.artifact import check_files
from rfprm_runtime.backends import choose_backend, open_backend
from rfprm_runtime.backends.base import Backend
from rfprm_runtime.batching import pad_batch, plan_batches
from rfprm_runtime.encoding import EncodedTrajectory, TrajectoryEncoder
from rfprm_runtime.errors import InvalidTrajectoryError, RfprmError, TraceTooLongError
from rfprm_runtime.manifest import Manifest, read_manifest
from rfprm_runtime.progress import ProgressBar, progress_bar
from rfprm_runtime.readout import read_scores
from rfprm_runtime.types import Trajectory, TrajectoryScore


class Scorer:
    """Scores reasoning traces with one process reward model. Safe to share between threads."""

    def __init__(self, manifest: Manifest, encoder: TrajectoryEncoder, backend: Backend) -> None:
        self.manifest = manifest
        self._encoder = encoder
        self._backend = backend
        self._pool = ThreadPoolExecutor(
            backend.limits.max_concurrent_runs, thread_name_prefix="rfprm"
        )

    @classmethod
    def load(
        cls,
        artifact: str | Path,
        *,
        backend: str = "auto",
        check_integrity: bool = True,
        **backend_options: Any,
    ) -> Scorer:
        """Open an artifact folder (``prm.json``, ``tokenizer.json``, a model).

        ``backend``: ``auto`` picks by what the artifact holds; ``onnx``, ``torch`` or ``fake`` is
        used or an error is raised. ``check_integrity=False`` skips the sha256 of the files.
        ``backend_options`` go to the backend: ``num_threads`` and ``provider`` for ``onnx``,
        ``device`` for ``torch``.

        Raises :class:`~rfprm_runtime.errors.ArtifactError` (or one of its kinds) where the folder
        is missing, incomplete, modified or made for another version, and
        :class:`~rfprm_runtime.errors.BackendError` where the backend cannot run it.
        """
        folder = Path(artifact)
        manifest = read_manifest(folder)
        name = choose_backend(manifest, backend)
        if check_integrity:
            check_files(folder, manifest)
        encoder = TrajectoryEncoder.load(
            folder, manifest.prompt, vocab_size=manifest.backbone.vocab_size
        )
        return cls(manifest, encoder, open_backend(name, folder, manifest, **backend_options))

    def score(
        self, question: str, steps: Sequence[str], response: Sequence[str] = ()
    ) -> TrajectoryScore:
        """Score one trace. Raises as :meth:`score_batch` does."""
        trajectory = Trajectory.build(question=question, steps=steps, response=response)
        return self.score_batch([trajectory])[0]

    @overload
    def score_batch(
        self,
        trajectories: Iterable[Trajectory],
        *,
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[TrajectoryScore]: ...

    @overload
    def score_batch(
        self,
        trajectories: Iterable[Trajectory],
        *,
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: Literal["return"],
    ) -> list[TrajectoryScore | RfprmError]: ...

    def score_batch(
        self,
        trajectories: Iterable[Trajectory],
        *,
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: Literal["raise", "return"] = "raise",
    ) -> Any:
        """Score many traces; results in input order, one for each.

        On a CPU the score of a trace is the same to the bit whatever else is in the batch.

        With ``on_error="raise"`` nothing is scored unless every trace can be:
        :class:`InvalidTrajectoryError` for what is no trajectory, :class:`TraceTooLongError` for
        one with more tokens than the model has positions. With ``"return"`` the error takes the
        place of the score and the other traces are scored.

        ``show_progress_bar`` draws tokens done of tokens to do on stderr; ``on_scored`` is called
        with the number of traces that were just scored (``tqdm.update`` fits).
        """
        prepared = [self._prepare(item, index) for index, item in enumerate(trajectories)]
        errors = [item for item in prepared if isinstance(item, RfprmError)]
        if errors and on_error == "raise":
            raise errors[0]
        rows = [item for item in prepared if isinstance(item, EncodedTrajectory)]
        total = sum(row.num_tokens for row in rows)
        with closing(progress_bar(total, "tokens", show=show_progress_bar)) as bar:
            scores = iter(self._score_encoded(rows, bar, on_scored or (lambda count: None)))
        return [item if isinstance(item, RfprmError) else next(scores) for item in prepared]

    def _prepare(self, trajectory: Any, index: int) -> EncodedTrajectory | RfprmError:
        """Render and encode; what cannot be scored is found here, before anything runs."""
        if not isinstance(trajectory, Trajectory):
            return InvalidTrajectoryError(
                f"item {index} is {type(trajectory).__name__}, expected a Trajectory; build one "
                "with Trajectory(question=…, steps=[…]) or Trajectory.from_text(question, text)"
            )
        row = self._encoder.encode(trajectory)
        if row.num_tokens > self.manifest.max_positions:
            return TraceTooLongError(row.num_tokens, self.manifest.max_positions)
        return row

    def _score_encoded(
        self, rows: list[EncodedTrajectory], bar: ProgressBar, on_scored: Callable[[int], object]
    ) -> list[TrajectoryScore]:
        batches = plan_batches([row.num_tokens for row in rows], self._backend.limits)
        futures: dict[Future[NDArray[np.float32]], list[int]] = {
            self._pool.submit(self._run, [rows[index] for index in batch]): batch
            for batch in batches
        }
        results: dict[int, TrajectoryScore] = {}
        try:
            for future in as_completed(futures):
                batch = futures[future]
                chosen = [rows[index] for index in batch]
                results.update(zip(batch, self._read(chosen, future.result()), strict=True))
                bar.advance(sum(row.num_tokens for row in chosen))
                on_scored(len(batch))
        finally:
            for future in futures:  # after an error or Ctrl-C: what has not begun never will
                future.cancel()
        return [results[index] for index in range(len(rows))]

    def _run(self, rows: list[EncodedTrajectory]) -> NDArray[np.float32]:
        return self._backend.run(pad_batch(rows))

    def _read(
        self, rows: list[EncodedTrajectory], logits: NDArray[np.float32]
    ) -> Iterable[TrajectoryScore]:
        ends = np.cumsum([len(row.marker_positions) for row in rows])
        for row, own_logits in zip(rows, np.split(logits, ends[:-1]), strict=True):
            yield self._read_one(row, own_logits)

    def _read_one(self, row: EncodedTrajectory, logits: NDArray[np.float32]) -> TrajectoryScore:
        manifest = self.manifest
        step_scores = read_scores(logits[: row.num_steps], manifest.step_readout)
        trajectory_score = (
            float(read_scores(logits[row.num_steps :], manifest.trajectory_readout)[0])
            if manifest.trajectory_readout is not None
            else None
        )
        return TrajectoryScore(
            step_scores=step_scores,
            trajectory_score=trajectory_score,
            reward=trajectory_reward(step_scores, trajectory_score, manifest.alpha),
            num_tokens=row.num_tokens,
        )

    @property
    def backend_description(self) -> str:
        """Which engine, version and device scores, for people."""
        return self._backend.description

    def close(self) -> None:
        """Wait for running batches and free the model."""
        self._pool.shutdown()
        self._backend.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()
