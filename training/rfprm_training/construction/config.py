"""Settings for constructing trajectories."""

from __future__ import annotations

from pydantic import Field, model_validator

from rfprm_training import ConfigError
from rfprm_training.construction.corruption import CORRUPTIONS
from rfprm_training.construction.wording import WORDINGS
from rfprm_training.toml_config import Section


class ConstructionConfig(Section):
    """What to construct from a right solution."""

    corruption_weights: dict[str, float] = Field(
        default={
            "wrong_result": 1.0,
            "wrong_operand": 1.0,
            "wrong_operator": 1.0,
            "skipped_step": 1.0,
        }
    )
    """How often to try each kind of error first."""
    errors_per_question: int = Field(default=1, gt=0)
    """Maximum of wrong trajectories per question, all different."""
    cut_errors_per_question: int = Field(default=0, ge=0)
    """Further wrong trajectories that end with their first wrong step. They share their beginning
    with the right trajectory, so each costs one step. Held-out questions give none."""
    cut_errors_per_procedure: int = Field(default=0, ge=0)
    """The same for problems of ``procedures``."""
    flawed_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions that also give a trajectory with a flaw of another kind."""
    reordered_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the right trajectories in which two independent steps are swapped."""
    wordings: dict[str, float] = Field(default={"plain": 1.0})
    """How often to draw each wording, for right and wrong trajectories alike."""
    concluding_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions whose trajectories state the answer in a last step instead of a
    response."""
    thinking_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions whose trajectories are worded like a thinking model's, with
    self-correction."""

    @model_validator(mode="after")
    def _names_are_known(self) -> ConstructionConfig:
        for field, known in (
            ("corruption_weights", set(CORRUPTIONS)),
            ("wordings", set(WORDINGS)),
        ):
            named: dict[str, float] = getattr(self, field)
            unknown = sorted(set(named) - known)
            if unknown:
                raise ConfigError(f"{field} names {unknown}, expected some of {sorted(known)}")
            if not any(weight > 0 for weight in named.values()):
                raise ConfigError(f"every weight in {field} is 0; give one of them a weight")
        return self
