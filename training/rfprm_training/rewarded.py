"""Files of rewarded trajectories, one JSON object per line: labelling writes and training reads
them.

An unknown value is ``null`` in the file and NaN in memory. Each component of a step reward is kept
beside the fused value, so an ablation needs no new labelling.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.traces.bytes import Bytes, suffix_of
from rfprm_runtime.traces.jsonl import json_line, parse_object
from rfprm_runtime.traces.sources import JSONL_SUFFIXES, is_data_file
from rfprm_runtime.types import Trajectory
from rfprm_training import DataError, TrainingError
from rfprm_training.example import UNKNOWN, Example

Reward = float | None


class RewardedTrajectory(Validated):
    """A trajectory with its rewards in [0, 1]; None if one is unknown."""

    refusal = DataError

    trajectory: Trajectory
    step_rewards: tuple[Reward, ...]
    """The fused reward of each step."""
    components: dict[str, tuple[Reward, ...]] = Field(default_factory=dict)
    """``alignment``, ``quality``, ``coherence``, as configured."""
    quality_reasons: tuple[str, ...] | None = None
    """The expert's reason for each grade, if it gives any."""
    trajectory_reward: Reward = None
    errors: tuple[str, ...] = ()
    """Which rewards of this trajectory are unknown, and why."""

    @model_validator(mode="after")
    def _one_reward_a_step(self) -> RewardedTrajectory:
        num_steps = len(self.trajectory.steps)
        for name, values in {"step_rewards": self.step_rewards, **self.components}.items():
            if len(values) != num_steps:
                raise DataError(f"{name} has {len(values)} values for {num_steps} steps")
            for value in values:
                if value is not None and not 0 <= value <= 1:
                    raise DataError(f"{name} holds {value}, expected [0, 1] or null")
        reward = self.trajectory_reward
        if reward is not None and not 0 <= reward <= 1:
            raise DataError(f"trajectory_reward is {reward}, expected [0, 1] or null")
        return self

    def to_line(self) -> str:
        """One line of JSON with its line end; the trajectory's fields are at the top level."""
        fields = self.model_dump(mode="json")
        return json_line({**fields.pop("trajectory"), **fields})

    def as_example(self, *, held_out: bool = False) -> Example:
        """The example that training reads. Trajectories to one question share a group."""
        return Example(
            trajectory=self.trajectory,
            step_labels=known_or_nan(self.step_rewards),
            trajectory_label=UNKNOWN if self.trajectory_reward is None else self.trajectory_reward,
            group=question_key(self.trajectory.question),
            kind="rewarded",
            held_out=held_out,
        )


def question_key(question: str) -> str:
    """A key that ignores case and white space."""
    text = " ".join(question.lower().split())
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_held_out(key: str, share: float) -> bool:
    """Whether the question with this key (:func:`question_key`) is one of the ``share`` that is
    held out: a hash decides, so the same ones are in every file."""
    return int(key[:12], 16) < int(share * 16**12)


def fold_of(key: str, num_folds: int) -> int:
    """The fold of the question with this key (:func:`question_key`): the same one in every file."""
    return int(key[:12], 16) % num_folds


def known_or_nan(values: Sequence[Reward]) -> tuple[float, ...]:
    """Values of a file as labels: None becomes NaN."""
    return tuple(UNKNOWN if value is None else value for value in values)


def known_or_none(values: Any) -> tuple[Reward, ...]:
    """An array as a file holds it: NaN becomes None."""
    return tuple(None if math.isnan(value) else float(value) for value in values)


_TRAJECTORY_FIELDS = set(Trajectory.model_fields)


def read_rewarded(path: Path) -> Iterator[RewardedTrajectory]:
    """Every line of a file, which may be packed (``.gz`` and the like), lazily.

    Raises :class:`DataError` naming a bad line, :class:`TrainingError` for a missing file or
    another format, and :class:`SourceError` for one that cannot be unpacked.
    """
    if is_data_file(path) and suffix_of(path) not in JSONL_SUFFIXES:
        raise TrainingError(
            f"{path} is not a JSONL file; rewarded trajectories are read as rfprm label writes "
            "them, an object on each line"
        )
    try:
        opened = Bytes(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise TrainingError(f"cannot read {path}: {error}") from None
    with closing(opened) as file:
        for number, line in enumerate(iter(file.readline, b""), start=1):
            if line.strip():
                yield _parse(path, number, line)


def _parse(path: Path, number: int, line: bytes) -> RewardedTrajectory:
    try:
        fields = parse_object(line)
    except InvalidTrajectoryError as error:
        raise DataError(f"{path}, line {number} is not a JSON object: {error}") from None
    trajectory = {name: fields.pop(name) for name in _TRAJECTORY_FIELDS & set(fields)}
    try:
        return RewardedTrajectory(trajectory=Trajectory.build(**trajectory), **fields)
    except (InvalidTrajectoryError, DataError) as error:
        has_others = fields.keys() - RewardedTrajectory.model_fields.keys()
        more = "; put other fields into metadata" if has_others else ""
        raise DataError(
            f"{path}, line {number} is not a rewarded trajectory: {error}{more}"
        ) from None
