"""Scores reasoning traces with process reward models, in your own process.

Importing this package is cheap: :meth:`Scorer.load` loads the tokenizer, the model and the backend.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from rfprm_runtime.artifact.manifest import Manifest
    from rfprm_runtime.errors import (
        ArtifactError,
        BackendError,
        InvalidArgumentError,
        InvalidOperationError,
        InvalidTrajectoryError,
        ManifestError,
        MissingExtraError,
        RfprmError,
        SourceError,
        TokenizerMismatchError,
        TraceTooLongError,
    )
    from rfprm_runtime.ground.parsing import merge_steps, split_steps
    from rfprm_runtime.ground.thinking import parse_trace
    from rfprm_runtime.ranking import RankedCandidate, Ranking
    from rfprm_runtime.reranker import Reranker
    from rfprm_runtime.scorer import Scorer
    from rfprm_runtime.sessions.session import Session
    from rfprm_runtime.traces.choosing import FieldNames
    from rfprm_runtime.traces.formats import fields_read, trajectory_from_record
    from rfprm_runtime.types import Trajectory, TrajectoryScore, Windows

_HOMES = {
    "Scorer": "scorer",
    "Session": "sessions.session",
    "RankedCandidate": "ranking",
    "Ranking": "ranking",
    "Reranker": "reranker",
    "Trajectory": "types",
    "TrajectoryScore": "types",
    "Windows": "types",
    "FieldNames": "traces.choosing",
    "fields_read": "traces.formats",
    "trajectory_from_record": "traces.formats",
    "Manifest": "artifact.manifest",
    "merge_steps": "ground.parsing",
    "parse_trace": "ground.thinking",
    "split_steps": "ground.parsing",
    "RfprmError": "errors",
    "SourceError": "errors",
    "ArtifactError": "errors",
    "BackendError": "errors",
    "InvalidArgumentError": "errors",
    "InvalidOperationError": "errors",
    "InvalidTrajectoryError": "errors",
    "ManifestError": "errors",
    "MissingExtraError": "errors",
    "TokenizerMismatchError": "errors",
    "TraceTooLongError": "errors",
}

__all__ = [
    "ArtifactError",
    "BackendError",
    "FieldNames",
    "InvalidArgumentError",
    "InvalidOperationError",
    "InvalidTrajectoryError",
    "Manifest",
    "ManifestError",
    "MissingExtraError",
    "RankedCandidate",
    "Ranking",
    "Reranker",
    "RfprmError",
    "Scorer",
    "Session",
    "SourceError",
    "TokenizerMismatchError",
    "TraceTooLongError",
    "Trajectory",
    "TrajectoryScore",
    "Windows",
    "__version__",
    "fields_read",
    "merge_steps",
    "parse_trace",
    "split_steps",
    "trajectory_from_record",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rfprm_runtime' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rfprm_runtime.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
