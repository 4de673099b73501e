from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from rfprm_runtime import (
    ArtifactError,
    InvalidTrajectoryError,
    MissingExtraError,
    TraceTooLongError,
    Trajectory,
    TrajectoryScore,
)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"question": "q", "steps": []}, "got 0 steps, expected at least 1"),
        ({"question": "q", "steps": ["a", ""]}, r"step 1 \(from 0\) is empty"),
        ({"question": "q", "steps": ["a", " \t\n"]}, "only white space"),
        ({"question": "q", "steps": ["a"], "response": [""]}, "response: step 0"),
        ({"question": " ", "steps": ["a"]}, "the question is blank"),
        ({"question": "q", "steps": "one string"}, r"split it with split_steps\(text\)"),
        ({"question": "q", "steps": [1]}, r"steps\.0: .*string.*got int"),
        ({"question": "q", "steps": None}, "steps"),
        ({"question": "q", "steps": 3}, r"steps: expected a list \(got int\)"),
        ({"question": 3, "steps": ["a"]}, "question: expected a valid string.*got int"),
        ({"steps": ["a"]}, "question: is missing"),
        ({"question": "q", "steps": ["a"], "outcome": 1.5}, "outcome is 1.5"),
        ({"question": "q", "steps": ["a"], "reponse": []}, "reponse: is not a field"),
        ({"question": "q", "steps": ["\ud800"]}, "steps: character 0 is a lone surrogate"),
    ],
)
def test_what_cannot_be_scored_is_refused_by_name(fields: dict, message: str) -> None:
    with pytest.raises(InvalidTrajectoryError, match=message):
        Trajectory.build(**fields)
    with pytest.raises(InvalidTrajectoryError, match=message):
        Trajectory(**fields)
    with pytest.raises(InvalidTrajectoryError, match=message):
        Trajectory.model_validate(fields)


def test_fields_by_place_are_refused_with_their_names() -> None:
    build: Any = Trajectory
    with pytest.raises(InvalidTrajectoryError, match=r"takes its fields by name: question=…, st"):
        build("q", ["a"])


def test_outcome_keeps_its_type() -> None:
    assert Trajectory(question="q", steps=["a"], outcome=True).outcome is True
    assert Trajectory(question="q", steps=["a"], outcome=0.25).outcome == 0.25


def test_a_trajectory_cannot_be_changed() -> None:
    trajectory = Trajectory(question="q", steps=["a"])
    with pytest.raises(ValidationError, match="frozen"):
        trajectory.question = "other"


def test_a_score_survives_json_and_pickle_to_the_bit() -> None:
    score = TrajectoryScore(
        step_scores=np.array([0.1, 1 / 3], dtype=np.float32),
        trajectory_score=0.7,
        reward=0.9,
        num_tokens=12,
        windowed_from=1,
    )
    assert TrajectoryScore.model_validate(json.loads(score.model_dump_json())) == score
    assert pickle.loads(pickle.dumps(score)) == score
    assert score != score.model_copy(update={"reward": 0.8})
    assert score != "something else"


@pytest.mark.parametrize(
    "error",
    [
        TraceTooLongError(10, 5),
        TraceTooLongError(10, 5, windowed=True),
        MissingExtraError("rich", "cli", "a progress bar"),
        ArtifactError("gone"),
    ],
)
def test_errors_cross_process_boundaries(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
