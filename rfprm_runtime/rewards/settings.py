"""How completions are scored: settings that adapters share, checked before anything is scored.

Knows manifests, but loads no model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache, lru_cache
from pathlib import Path
from typing import Any, get_args

from rfprm_runtime.answers.rules import AnswerRules, BoxRule, FormatRule, PercentRule
from rfprm_runtime.artifact.manifest import MANIFEST_NAME, Manifest, read_manifest
from rfprm_runtime.errors import InvalidArgumentError
from rfprm_runtime.ground.arguments import (
    check_choice,
    check_finite,
    check_flag,
    check_not_negative,
    check_positive,
    check_whole,
)
from rfprm_runtime.ground.parsing import SplitRule
from rfprm_runtime.hub.artifacts import find_artifact
from rfprm_runtime.rewards.advantages import DEFAULT_BETA, mixed_reward
from rfprm_runtime.scorer import check_prefixes
from rfprm_runtime.scores.aggregation import Aggregation, check_aggregation, value_bounds
from rfprm_runtime.scores.bounds import Bounds
from rfprm_runtime.types import Overflow, TrajectoryScore, Windows, windows_of


@dataclass(frozen=True)
class RewardSettings:
    """How completions are scored. Can be pickled; equal settings share a scorer within a process.

    Raises ``ValueError`` for an invalid setting and :class:`ArtifactError` if the folder holds no
    artifact. Unpickling checks nothing: it may happen on another machine.
    """

    artifact: str
    beta: float = DEFAULT_BETA
    """Weight of the process reward (Eq. 12); without outcomes it is 1."""
    process: Aggregation | Callable[[TrajectoryScore], float] = "reward"
    """r̂: Eq. 11 or another aggregation; writing more easy steps cannot raise ``min``."""
    unit_scale: bool = False
    """Whether to bring r̂ to [0, 1] before mixing, as
    :func:`~rfprm_runtime.scores.bounds.unit_scale` does: Eq. 11 of probabilities is divided by its
    largest value, 1 + α."""
    score_prefixes: bool = False
    """For a reward model of whole sequences: make step scores, as :meth:`Scorer.load` does."""
    split: SplitRule = "blank_lines"
    overflow: Overflow = "error"
    """As of :meth:`Scorer.score_batch`. :meth:`build` also takes the fields of
    :class:`~rfprm_runtime.Windows` as a mapping, which is how YAML spells them."""
    backend: str = "auto"
    num_threads: int | None = None
    """Cores each process scores with; None for all of them."""
    answer_timeout: float = 5.0
    """Seconds one comparison of answers may take."""
    answer_budget: float = 5.0
    """Seconds all comparisons of one call may take together; what is undecided then is wrong."""
    answer_format: FormatRule = "any"
    answer_boxes: BoxRule = "list"
    answer_percent: PercentRule = "either"
    answer_tolerance: float = 0.0
    """The last four are those of :class:`~rfprm_runtime.answers.rules.AnswerRules`."""
    max_batch: int = 64
    max_wait_ms: float = 5.0
    """The last two are for stacks that ask for one completion per call."""

    def __post_init__(self) -> None:
        if not self.artifact:
            raise InvalidArgumentError(
                "no artifact: pass artifact=FOLDER (one that rfprm export wrote), or set "
                "RFPRM_ARTIFACT"
            )
        # Fail now, not at the first training step.
        manifest = _manifest_in(self.artifact)
        mixed_reward(0.0, 0.0, self.beta)
        check_flag("score_prefixes", self.score_prefixes)
        check_prefixes(self.score_prefixes, manifest)
        check_aggregation("process", self.process, manifest, score_prefixes=self.score_prefixes)
        check_choice("split", self.split, get_args(SplitRule))
        windows_of(self.overflow)  # checks it
        check_flag("unit_scale", self.unit_scale)
        check_positive("answer_timeout", self.answer_timeout, "seconds")
        check_positive("answer_budget", self.answer_budget, "seconds")
        _ = self.answer_rules  # checks them
        check_whole("max_batch", self.max_batch)
        check_not_negative("max_wait_ms", self.max_wait_ms)
        if self.num_threads is not None:
            check_whole("num_threads", self.num_threads, more=", or None for all cores")
        if self.unit_scale and callable(self.process):
            raise InvalidArgumentError(
                "unit_scale only knows the range of named aggregations; have the function return "
                "a number in [0, 1] and leave unit_scale out"
            )

    @property
    def answer_rules(self) -> AnswerRules:
        """How answers are found and compared."""
        return AnswerRules(
            percent=self.answer_percent,
            tolerance=self.answer_tolerance,
            boxes=self.answer_boxes,
            format=self.answer_format,
        )

    @classmethod
    def build(
        cls, artifact: str, settings: Mapping[str, Any], *, adapters_own: Sequence[str]
    ) -> RewardSettings:
        """Settings from an adapter's keyword arguments. Raises as the constructor does, and
        ``ValueError`` for an unknown one, listing the known ones and ``adapters_own``."""
        known = [field.name for field in fields(cls) if field.name != "artifact"]
        for name in settings:
            if name not in known:
                raise InvalidArgumentError(
                    f"unknown setting {name!r}, expected some of {[*adapters_own, *known]}"
                )
        return cls(artifact, **{**settings, "overflow": _overflow(settings)})

    def bounds(self, manifest: Manifest) -> Bounds:
        """The lowest and the highest r̂ that the PRM of ``manifest`` can give, before mixing.

        A function's are not known; they are taken to be [0, 1].
        """
        if callable(self.process) or self.unit_scale:
            return 0.0, 1.0
        return value_bounds(manifest, self.process)

    def check_mixing(self) -> None:
        """Raises ``ValueError`` if r̂ has no bounds and is to be mixed with outcomes, which lie in
        [0, 1]: β would not say which of the two decides."""
        manifest = _manifest_in(self.artifact)
        if 0.0 < self.beta < 1.0 and self.bounds(manifest) is None:
            raise InvalidArgumentError(
                f"the PRM {manifest.name!r} has no bounds for {self.process!r}, so it cannot be "
                "mixed with outcomes in [0, 1]: either would drown the other. Pass "
                "unit_scale=True, which takes σ of it, a function as process that brings it to "
                "[0, 1], or beta=1 or no outcome"
            )

    def unscorable_reward(self, given: float | None, *, with_outcome: bool) -> float:
        """The reward of a completion that cannot be scored, for stacks that have no missing reward:
        the one ``given``, by default the lowest that Eq. 12 can give.

        Raises ``ValueError`` if it is not a finite number, or not given and there is no lowest.
        """
        if given is not None:
            check_finite("unscorable", given)
            return given
        manifest = _manifest_in(self.artifact)
        beta = self.beta if with_outcome else 1.0
        bounds = self.bounds(manifest)
        if bounds is None and beta:
            raise InvalidArgumentError(
                f"the PRM {manifest.name!r} has no lowest {self.process!r} that a completion which "
                "cannot be scored could get; pass unscorable=NUMBER, or unit_scale=True"
            )
        return 0.0 if bounds is None else beta * bounds[0]


def _overflow(settings: Mapping[str, Any]) -> Any:
    """The setting ``overflow``, with a mapping made :class:`Windows`."""
    given = settings.get("overflow", "error")
    if not isinstance(given, Mapping):
        return given
    known = [field.name for field in fields(Windows)]
    for name in given:
        if name not in known:
            raise InvalidArgumentError(f"overflow has {name!r}, expected some of {known}")
    return Windows(**given)


@cache
def _folder_of(artifact: str) -> Path:
    """Where an artifact is. The Hub is asked once a process, not for every sample."""
    return find_artifact(artifact)


def _manifest_in(artifact: str) -> Manifest:
    """The manifest of an artifact. Read again only if the file has changed, because verl builds
    settings for every sample."""
    path = Path(artifact, MANIFEST_NAME)
    if not path.is_file():
        path = _folder_of(artifact) / MANIFEST_NAME
    if not path.is_file():
        return read_manifest(path.parent)  # says what is there instead
    about = path.stat()
    return _read_once(path.parent, about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=16)
def _read_once(folder: Path, mtime_ns: int, num_bytes: int) -> Manifest:
    return read_manifest(folder)
