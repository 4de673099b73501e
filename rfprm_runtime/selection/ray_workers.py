"""Scores shards in actors on a Ray cluster. Needs the extra ``ray``.

A worker gets a shard's description and reads the rows itself. Scores come back as the bytes of the
shard's file, so they are the same as without Ray. The input and the artifact must have the same
paths on every machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

from rfprm_runtime.backends.table import KINDS
from rfprm_runtime.errors import BackendError, MissingExtraError, RfprmError
from rfprm_runtime.selection.scores import score_block
from rfprm_runtime.selection.scoring import check_artifact, loaded_scorer
from rfprm_runtime.selection.settings import RayWorkers, Scoring
from rfprm_runtime.traces.shards import Shard
from rfprm_runtime.traces.sources import open_source


def scoring_for_workers(scoring: Scoring, backend: str, workers: RayWorkers) -> Scoring:
    """``scoring`` with the device and the number of threads of a worker.

    Raises :class:`BackendError` if the workers have GPUs that ``backend`` cannot use.
    """
    options, kind = dict(scoring.backend_options), KINDS[backend]
    if workers.gpus_per_worker:
        if kind.gpu_options is None:
            on_gpus = [name for name, other in KINDS.items() if other.gpu_options is not None]
            raise BackendError(
                f"backend {backend!r} runs on CPUs; leave out --gpus-per-worker, or export the "
                f"artifact for one of {on_gpus}"
            )
        options = {**kind.gpu_options, **options}
    elif kind.cores_option is not None:
        options.setdefault(kind.cores_option, workers.cpus_per_worker)
    return replace(scoring, backend=backend, backend_options=options)


class ShardWorker:
    """One actor: holds the model and scores the shards it is sent."""

    def __init__(
        self, artifact: str, source: str, scoring: Scoring, digest: str | None = None
    ) -> None:
        """``digest``: the :func:`~.scoring.digest_of` that the artifact must have."""
        self._scorer = loaded_scorer(artifact, scoring)
        if digest is not None:
            check_artifact(self._scorer.manifest, digest)
        self._source = open_source(source)
        self._scoring = scoring

    def __call__(self, batch: Any) -> Any:
        """Turn a ``pyarrow.Table`` of shards into one of their indices and scores, or errors."""
        import pyarrow

        return pyarrow.Table.from_pylist(
            [self._answer(Shard(**row)) for row in batch.to_pylist()],
            schema=pyarrow.schema(
                [
                    ("index", pyarrow.int64()),
                    ("scores", pyarrow.large_binary()),
                    ("error", pyarrow.string()),
                ]
            ),
        )

    def _answer(self, shard: Shard) -> dict[str, Any]:
        try:
            block = self._source.read(shard, self._scoring.reading)
            scores = score_block(self._scorer, block, self._scoring)
        except Exception as error:  # returned as data: Ray would bury it under its own tracebacks
            return {"index": shard.index, "error": f"{type(error).__name__}: {error}"}
        return {"index": shard.index, "scores": scores.to_bytes()}


def score_on_ray(
    artifact: str,
    digest: str,
    source: str,
    scoring: Scoring,
    workers: RayWorkers,
    shards: Sequence[Shard],
) -> Iterator[tuple[Shard, bytes]]:
    """Each shard with the bytes of its scores, in the order they finish.

    Ray Data restarts a worker that dies and repeats its shard. Uses the Ray this process is
    connected to, or the cluster that ``RAY_ADDRESS`` names, or starts Ray here for the duration.
    Raises :class:`RfprmError` if a worker fails.
    """
    by_index = {shard.index: shard for shard in shards}
    with _connected(workers) as ray:
        # One block per shard: scores arrive as they finish, and a dead worker loses one shard.
        data = ray.data.from_items([asdict(s) for s in shards], override_num_blocks=len(shards))
        data.context.enable_progress_bars = False
        scored = data.map_batches(
            ShardWorker,
            fn_constructor_args=(artifact, source, scoring, digest),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=workers.count),
            num_cpus=workers.cpus_per_worker,
            num_gpus=workers.gpus_per_worker or None,
        )
        try:
            for batch in scored.iter_batches(batch_size=None, batch_format="pyarrow"):
                for row in batch.to_pylist():
                    if row["error"] is not None:
                        raise _stopped(row["error"])
                    yield by_index[row["index"]], row["scores"]
        except ray.exceptions.RayError as error:
            raise _stopped(_last_line(error)) from error


def _stopped(reason: str) -> RfprmError:
    return RfprmError(
        f"scoring on Ray stopped: {reason}; finished shards are kept, and the same command resumes"
    )


def _last_line(error: BaseException) -> str:
    """Ray's last line holds what a worker raised as it started; above it are tracebacks."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]


@contextmanager
def _connected(workers: RayWorkers) -> Iterator[Any]:
    try:
        import ray
        import ray.data
    except ImportError:
        raise MissingExtraError("ray", "ray", "scoring on Ray") from None
    if ray.is_initialized():
        yield ray
        return
    ray.init(log_to_driver=False, include_dashboard=False)
    try:
        available: dict[str, float] = ray.cluster_resources()
        _check_resources(workers, available)
        yield ray
    finally:
        ray.shutdown()


def _check_resources(workers: RayWorkers, available: Mapping[str, float]) -> None:
    """Refuse more than this machine has; Ray would wait forever for the rest."""
    for name, asked in (
        ("CPU", workers.count * workers.cpus_per_worker),
        ("GPU", workers.count * workers.gpus_per_worker),
    ):
        if asked > available.get(name, 0):
            raise RfprmError(
                f"{workers.count} workers need {asked:g} {name}s, but Ray was started on this "
                f"machine alone, which has {available.get(name, 0):g}; use fewer workers, or "
                "connect to a cluster (RAY_ADDRESS)"
            )
