"""The first half of a selection: scores every shard that has no scores yet."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from rfprm_runtime.artifact.manifest import Manifest, read_manifest
from rfprm_runtime.backends.table import KINDS, choose_backend
from rfprm_runtime.errors import ArtifactError, InvalidArgumentError, RfprmError
from rfprm_runtime.ground.progress import progress_bar
from rfprm_runtime.scorer import Scorer, check_prefixes
from rfprm_runtime.selection.scores import ShardScores, score_block
from rfprm_runtime.selection.settings import RayWorkers, Scoring
from rfprm_runtime.selection.work_folder import WorkFolder
from rfprm_runtime.traces.shards import Block, Plan, Shard
from rfprm_runtime.traces.sources import Source
from rfprm_runtime.types import windows_of

Scored = Generator[tuple[Shard, bytes], None, None]
"""Shards with the bytes of their scores, as they finish."""
OnBlock = Callable[[Block, ShardScores], object]


def settle(
    scorer: Scorer | str | Path, scoring: Scoring, workers: RayWorkers | None
) -> tuple[Manifest, Scoring]:
    """The manifest, and ``scoring`` with the name of the backend in place of ``auto``; of a loaded
    scorer with the settings that it was loaded with.

    Raises as :meth:`Scorer.load` does, but loads no model.
    """
    if isinstance(scorer, Scorer):
        if workers is not None:
            raise RfprmError(
                "a loaded scorer cannot be sent to workers; pass the folder of its artifact"
            )
        if scoring.score_prefixes and not scorer.score_prefixes:
            raise InvalidArgumentError(
                "the scorer was loaded without score_prefixes; load it with score_prefixes=True"
            )
        own = replace(
            scoring,
            backend=scorer.backend_name,
            backend_options=scorer.backend_options,
            score_prefixes=scorer.score_prefixes,
        )
        return scorer.manifest, own
    manifest = read_manifest(Path(scorer))
    check_prefixes(scoring.score_prefixes, manifest)
    backend = choose_backend(manifest, scoring.backend, scoring.backend_options)
    if workers is None:
        return manifest, replace(scoring, backend=backend)
    from rfprm_runtime.selection.ray_workers import scoring_for_workers

    return manifest, scoring_for_workers(scoring, backend, workers)


def digest_of(manifest: Manifest) -> str:
    """Identifies an artifact by content: the manifest holds the sha256 of every file."""
    return hashlib.sha256(manifest.to_json().encode()).hexdigest()


def check_artifact(loaded: Manifest, expected: str) -> None:
    """Raises :class:`ArtifactError` if it is no longer the artifact that the run began with."""
    found = digest_of(loaded)
    if found != expected:
        raise ArtifactError(
            f"the artifact {loaded.name!r} was replaced during the run (manifest_sha256 was "
            f"{expected}, is {found}); restore it, or start again with the new one"
        )


def provenance(plan: Plan, manifest: Manifest, scoring: Scoring) -> dict[str, Any]:
    """Everything the scores depend on."""
    # A scorer's backend may be one that is not in the table.
    same_scores = KINDS[scoring.backend].same_scores if scoring.backend in KINDS else ()
    options = {
        name: value if isinstance(value, (str, int, float, dict)) else str(value)
        for name, value in scoring.backend_options.items()
        if name not in same_scores
    }
    windows = windows_of(scoring.overflow)
    return {
        "input": plan.fingerprint,
        "artifact": {"name": manifest.name, "manifest_sha256": digest_of(manifest)},
        "scoring": {
            "split": scoring.split,
            "overflow": "error" if windows is None else "window",
            **({} if windows is None else {"window_context": float(windows.context)}),
            "shard_rows": scoring.shard_rows,
            **scoring.names.given_names(),
            **({"score_prefixes": True} if scoring.score_prefixes else {}),
            "backend": scoring.backend,
            **options,
        },
    }


def loaded_scorer(artifact: str | Path, scoring: Scoring) -> Scorer:
    """A scorer with these settings."""
    return Scorer.load(
        artifact,
        backend=scoring.backend,
        score_prefixes=scoring.score_prefixes,
        **scoring.backend_options,
    )


def score_missing(
    scorer: Scorer | str | Path,
    opened: Source,
    plan: Plan,
    work: WorkFolder,
    scoring: Scoring,
    source: str,
    workers: RayWorkers | None,
    *,
    show: bool,
    on_block: OnBlock | None = None,
) -> int:
    """Score the shards that are missing in ``work``, and return how many there were.

    ``on_block`` is called with each shard scored in this process, and its scores."""
    missing = [shard for shard in plan.shards if not work.has(shard.index)]
    if missing:
        scored = _score(
            scorer, opened, scoring, source, workers, missing, on_block, work.artifact_digest
        )
        total = sum(shard.count for shard in missing)
        with closing(progress_bar(total, "rows", show=show)) as bar, closing(scored):
            for shard, content in scored:
                work.save(shard.index, content)
                bar.advance(shard.count)
    return len(missing)


def _score(
    scorer: Scorer | str | Path,
    opened: Source,
    scoring: Scoring,
    source: str,
    workers: RayWorkers | None,
    shards: Sequence[Shard],
    on_block: OnBlock | None,
    artifact: str,
) -> Scored:
    """``artifact``: its :func:`digest_of`, which what is loaded must have."""
    if isinstance(scorer, Scorer):
        yield from _score_here(scorer, opened, scoring, shards, on_block)
    elif workers is None:
        with loaded_scorer(scorer, scoring) as loaded:
            check_artifact(loaded.manifest, artifact)
            yield from _score_here(loaded, opened, scoring, shards, on_block)
    else:
        from rfprm_runtime.selection.ray_workers import score_on_ray

        # Workers have other working directories.
        path = str(Path(source).absolute()) if Path(source).exists() else source
        folder = str(Path(scorer).absolute())
        yield from score_on_ray(folder, artifact, path, scoring, workers, shards)


def _score_here(
    scorer: Scorer,
    opened: Source,
    scoring: Scoring,
    shards: Iterable[Shard],
    on_block: OnBlock | None,
) -> Scored:
    for shard in shards:
        block = opened.read(shard, scoring.reading)
        scores = score_block(scorer, block, scoring)
        if on_block is not None:
            on_block(block, scores)
        yield shard, scores.to_bytes()
