"""Scorer: trajectories in, scores out. Opens a model and hands whole traces and growing ones to
those that score them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, get_args, overload

from rfprm_runtime.artifact.contents import ArtifactFiles
from rfprm_runtime.artifact.manifest import Manifest, read_manifest
from rfprm_runtime.backends.table import choose_backend, open_backend
from rfprm_runtime.engine.backend import Backend
from rfprm_runtime.engine.engine import DEFAULT_PAST_BYTES, Engine
from rfprm_runtime.errors import InvalidArgumentError, RfprmError
from rfprm_runtime.ground.arguments import check_choice, check_flag, check_whole
from rfprm_runtime.hub.artifacts import find_artifact
from rfprm_runtime.prompt.encoding import TrajectoryEncoder
from rfprm_runtime.scores.first_error import first_error, rule_of
from rfprm_runtime.sessions.host import SessionHost
from rfprm_runtime.sessions.prefix_host import PrefixSessionHost
from rfprm_runtime.sessions.session import Session
from rfprm_runtime.trace_scoring import TraceScoring
from rfprm_runtime.traces.items import Scorable
from rfprm_runtime.types import (
    Float32Array,
    Mode,
    OnError,
    Overflow,
    Trajectory,
    TrajectoryScore,
    windows_of,
)

DEFAULT_SESSION_BYTES = DEFAULT_PAST_BYTES


class Scorer:
    """Scores reasoning traces with one process reward model. Safe to share between threads."""

    def __init__(
        self,
        manifest: Manifest,
        encoder: TrajectoryEncoder,
        backend: Backend,
        *,
        mode: Mode = "auto",
        share_prefixes: bool = True,
        session_bytes: int = DEFAULT_SESSION_BYTES,
        score_prefixes: bool = False,
    ) -> None:
        _check_settings(mode, share_prefixes, session_bytes, score_prefixes)
        check_prefixes(score_prefixes, manifest)
        self.manifest = manifest
        self._encoder = encoder
        self._engine = Engine(
            backend, mode, share_prefixes=share_prefixes, past_bytes=session_bytes
        )
        self._traces = TraceScoring(manifest, encoder, self._engine, score_prefixes)
        host = PrefixSessionHost if score_prefixes else SessionHost
        self._sessions = host(manifest, encoder, self._engine)
        self._loaded_as: tuple[str, dict[str, Any]] = (type(backend).__name__, {})

    @classmethod
    def load(
        cls,
        artifact: str | Path,
        *,
        backend: str = "auto",
        mode: Mode = "auto",
        share_prefixes: bool = True,
        session_bytes: int = DEFAULT_SESSION_BYTES,
        score_prefixes: bool = False,
        check_integrity: bool = True,
        sha256: str | None = None,
        **backend_options: Any,
    ) -> Scorer:
        """Open an artifact folder (``prm.json``, ``tokenizer.json``, a model).

        ``artifact``: the folder; or, as a text, ``org/name`` or ``org/name@revision``: an artifact
        of the Hub, which is fetched into the Hub's cache (:mod:`rfprm_runtime.hub.artifacts`).

        ``backend``: ``auto`` picks one that the artifact has a model for and this machine can run
        (:attr:`backend_description` says which); any other name in
        :data:`rfprm_runtime.backends.table.KINDS` is used or an error is raised. ``mode``:
        ``throughput`` scores one trace on each core, ``latency`` one trace at a time on all of
        them, ``auto`` splits traces only while there are fewer of them than cores (``native``;
        ``onnx`` needs the mode when it is loaded, and splits traces with ``latency`` only); scores
        are bit-identical in every mode. ``share_prefixes``: compute a prefix that traces of a batch
        share only once, if the backend can continue from a past (a
        :class:`~rfprm_runtime.engine.backend.CachingBackend`). ``session_bytes``: how much open
        sessions may keep between calls; beyond it the least recently used pasts are dropped, and
        computed again when their sessions continue. ``score_prefixes``: for a reward model that
        gives one number for a whole sequence, make step scores too: each is the score of the trace
        as if it ended with that step. ``check_integrity=False`` skips the sha256
        check of the files. ``sha256``: the digest that ``prm.json`` must have, which ``rfprm info``
        prints: it holds the digests of the other files, but none is kept of itself.
        ``backend_options`` go to the backend, ``num_threads=2`` for example;
        its class documents them, and :func:`rfprm_runtime.backends.table.option_names` lists them.

        Raises :class:`~rfprm_runtime.errors.ArtifactError` (or a subclass) if the folder is
        missing, incomplete, modified or made for another version,
        :class:`~rfprm_runtime.errors.InvalidArgumentError` for a setting that cannot be used, and
        :class:`~rfprm_runtime.errors.BackendError` if the backend cannot run the model.
        """
        _check_settings(mode, share_prefixes, session_bytes, score_prefixes)
        check_flag("check_integrity", check_integrity)
        folder = find_artifact(artifact, sha256=sha256)
        manifest = read_manifest(folder, sha256=sha256)
        check_prefixes(score_prefixes, manifest)
        name = choose_backend(manifest, backend, backend_options)
        files = ArtifactFiles(folder, manifest.files if check_integrity else None)
        encoder = TrajectoryEncoder.load(
            files, manifest.prompt, vocab_size=manifest.backbone.vocab_size
        )
        was_requested = backend != "auto"
        opened = open_backend(
            name, files, manifest, mode=mode, was_requested=was_requested, **backend_options
        )
        files.check_rest()
        scorer = cls(
            manifest,
            encoder,
            opened,
            mode=mode,
            share_prefixes=share_prefixes,
            session_bytes=session_bytes,
            score_prefixes=score_prefixes,
        )
        scorer._loaded_as = (name, backend_options)
        return scorer

    def score(
        self,
        question: str,
        steps: Sequence[str],
        response: Sequence[str] = (),
        *,
        overflow: Overflow = "error",
    ) -> TrajectoryScore:
        """Score one trace. Raises like :meth:`score_batch`."""
        trajectory = Trajectory.build(question=question, steps=steps, response=response)
        [found] = self.score_batch([trajectory], overflow=overflow, on_error="return")
        if isinstance(found, RfprmError):
            raise found  # without a place: there is only one trace
        return found

    @overload
    def score_batch(
        self,
        trajectories: Iterable[Scorable],
        *,
        overflow: Overflow = "error",
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: Literal["raise"] = "raise",
    ) -> list[TrajectoryScore]: ...

    @overload
    def score_batch(
        self,
        trajectories: Iterable[Scorable],
        *,
        overflow: Overflow = "error",
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: OnError,
    ) -> list[TrajectoryScore | RfprmError]: ...

    def score_batch(
        self,
        trajectories: Iterable[Scorable],
        *,
        overflow: Overflow = "error",
        show_progress_bar: bool = False,
        on_scored: Callable[[int], object] | None = None,
        on_error: OnError = "raise",
    ) -> Any:
        """Score many traces; returns one result for each, in input order.

        A trace is a :class:`Trajectory`, a row such as ``{"problem": …, "completion": …}``
        (:func:`~rfprm_runtime.trajectory_from_record`), or a pair of question and text.
        On a CPU a trace gets the same score, to the bit, whatever else is in the batch.

        A trace with more tokens than the model has positions is an error. With
        ``overflow="window"`` its later steps are scored with the question and the steps just
        before them instead, and ``windowed_from`` says from which step on.
        ``overflow=Windows(context=…)`` also says how much of these: less is faster, more is closer
        to the score of the whole trace. ``num_run_tokens`` of a score says what it cost.

        With ``on_error="raise"`` nothing is scored unless every trace can be:
        :class:`InvalidTrajectoryError` is raised for anything that is not a trace,
        :class:`TraceTooLongError` for one that is too long. With ``"return"`` the error takes the
        place of the score and the other traces are scored. ``trajectories`` may hold errors too,
        say of rows that could not be read: they are treated alike and need no sorting out.

        ``show_progress_bar`` draws tokens done of tokens to do on stderr; ``on_scored`` is called
        with the number of traces just scored (``tqdm.update`` fits).
        """
        windows = windows_of(overflow)
        check_choice("on_error", on_error, get_args(OnError))
        return self._traces.score(
            trajectories,
            windows,
            show_progress_bar=show_progress_bar,
            on_scored=on_scored,
            raise_errors=on_error == "raise",
        )

    def first_error(self, score: TrajectoryScore) -> int | None:
        """The index, from 0, of the step where a trace goes wrong first, by the ``score`` that this
        scorer gave it; None for a trace that is taken for right.

        It is the first step below the threshold that was fitted for the PRM
        (``manifest.first_error``). A PRM without one is read as ProcessBench (arXiv 2412.06559)
        does: the first step that is more likely wrong than right.
        Raises :class:`InvalidArgumentError` for a score without step scores.
        """
        if not len(score.step_scores):
            raise InvalidArgumentError(
                "the score has no step scores to find an error by; load a reward model of whole "
                "sequences with score_prefixes=True"
            )
        return first_error(score, rule_of(self.manifest))

    def session(self, question: str) -> Session:
        """Open a trace that grows: its steps are scored as they come, its past is computed once.

        Scores equal those without a session: to the bit on ``native``, to the rounding of their
        precision on other backends. A backend that keeps no pasts runs the whole trace again in
        each call. Raises :class:`InvalidTrajectoryError` for a blank question,
        :class:`TraceTooLongError` for one that does not fit, and :class:`InvalidArgumentError` for
        a reward model of whole sequences that was loaded without ``score_prefixes``.
        """
        check_has_step_scores(self)
        return self._sessions.open(question)

    @overload
    def extend_sessions(
        self,
        sessions: Sequence[Session],
        steps: Sequence[Sequence[str] | RfprmError],
        *,
        on_error: Literal["raise"] = "raise",
    ) -> list[Float32Array]: ...

    @overload
    def extend_sessions(
        self,
        sessions: Sequence[Session],
        steps: Sequence[Sequence[str] | RfprmError],
        *,
        on_error: OnError,
    ) -> list[Float32Array | RfprmError]: ...

    def extend_sessions(
        self,
        sessions: Sequence[Session],
        steps: Sequence[Sequence[str] | RfprmError],
        *,
        on_error: OnError = "raise",
    ) -> Any:
        """:meth:`Session.extend` for many sessions at once: ``steps[i]`` go to ``sessions[i]``.

        They share the cores and the passes over the weights.

        With ``on_error="raise"`` nothing is extended unless every session can be:
        :class:`InvalidTrajectoryError` is raised for steps that are missing, blank or not text,
        :class:`TraceTooLongError` for too many tokens, :class:`BackendError` for a session that is
        closed or in use by another thread. With ``"return"`` the error takes the place of the
        scores, that session stays as it was, and the others are extended. ``steps`` may hold
        errors too; they are treated alike.

        Either way :class:`BackendError` is raised for a session that belongs to another scorer or
        is given twice, and :class:`InvalidArgumentError`, a ``ValueError``, if the lengths differ.
        """
        return self._sessions.extend(sessions, steps, on_error)

    @overload
    def score_sessions(
        self,
        sessions: Sequence[Session],
        responses: Sequence[Sequence[str] | RfprmError] | None = None,
        *,
        on_error: Literal["raise"] = "raise",
    ) -> list[TrajectoryScore]: ...

    @overload
    def score_sessions(
        self,
        sessions: Sequence[Session],
        responses: Sequence[Sequence[str] | RfprmError] | None = None,
        *,
        on_error: OnError,
    ) -> list[TrajectoryScore | RfprmError]: ...

    def score_sessions(
        self,
        sessions: Sequence[Session],
        responses: Sequence[Sequence[str] | RfprmError] | None = None,
        *,
        on_error: OnError = "raise",
    ) -> Any:
        """:meth:`Session.score` for many sessions at once, by default without responses.

        ``on_error`` and the errors are those of :meth:`extend_sessions`.
        """
        given = [()] * len(sessions) if responses is None else responses
        return self._sessions.score(sessions, given, on_error)

    @property
    def session_bytes(self) -> int:
        """How many bytes open sessions keep at the moment."""
        return self._engine.num_past_bytes()

    @property
    def has_step_scores(self) -> bool:
        """False for a reward model of whole sequences, unless it scores prefixes."""
        return self.manifest.step_readout is not None or self.score_prefixes

    @property
    def score_prefixes(self) -> bool:
        """Whether step scores are those of prefixes, as :meth:`load` was asked to make them."""
        return self._traces.score_prefixes

    @property
    def backend_name(self) -> str:
        """``native``, ``onnx``, … if :meth:`load` opened the backend; otherwise its class."""
        return self._loaded_as[0]

    @property
    def backend_options(self) -> dict[str, Any]:
        """The options that :meth:`load` passed on to the backend."""
        return dict(self._loaded_as[1])

    @property
    def backend_description(self) -> str:
        """The backend's library, version and device, for people to read."""
        return self._engine.description

    def close(self) -> None:
        """Wait for running calls, then free the model. Calling it twice is fine.

        Raises :class:`BackendError` if called from inside one of them (from ``on_scored``).
        """
        self._engine.close()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def check_has_step_scores(scorer: Scorer) -> None:
    """Raises :class:`InvalidArgumentError` if ``scorer`` gives no step scores."""
    if not scorer.has_step_scores:
        raise InvalidArgumentError(
            f"{scorer.manifest.name!r} is a reward model that gives one number for a whole "
            "sequence, and no step scores; load it with score_prefixes=True to score the trace "
            "after each step"
        )


def check_prefixes(score_prefixes: bool, manifest: Manifest) -> None:
    """Raises :class:`InvalidArgumentError` if a PRM with step scores of its own is asked for those
    of prefixes."""
    if score_prefixes and manifest.step_readout is not None:
        raise InvalidArgumentError(
            f"score_prefixes is for reward models that give one number for a whole sequence; "
            f"{manifest.name!r} has step scores of its own, so leave it out"
        )


def _check_settings(
    mode: Any, share_prefixes: Any, session_bytes: Any, score_prefixes: Any
) -> None:
    """Check settings before a model is loaded. Raises :class:`InvalidArgumentError`."""
    check_choice("mode", mode, get_args(Mode))
    check_flag("share_prefixes", share_prefixes)
    check_whole("session_bytes", session_bytes, least=0)
    check_flag("score_prefixes", score_prefixes)
