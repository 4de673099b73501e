"""Settings of construction."""

from __future__ import annotations

from pydantic import Field, model_validator

from rfprm_training import ConfigError
from rfprm_training.construction.corruption import CORRUPTIONS
from rfprm_training.construction.wording import WORDINGS
from rfprm_training.settings import Section


class ConstructionConfig(Section):
    """What is made of a right solution."""

    corruption_weights: dict[str, float] = Field(
        default={
            "wrong_result": 1.0,
            "wrong_operand": 1.0,
            "wrong_operator": 1.0,
            "skipped_step": 1.0,
        }
    )
    """How often each kind of error is tried first."""
    errors_per_question: int = Field(default=1, gt=0)
    """Wrong trajectories to a question, at most; all different."""
    cut_errors_per_question: int = Field(default=0, ge=0)
    """Further wrong trajectories that end with their first wrong step: beside the right one, whose
    beginning they share, they cost a step each. Held-out questions give none."""
    cut_errors_per_procedure: int = Field(default=0, ge=0)
    """The same for the problems of ``procedures``."""
    flawed_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions that also give a trajectory flawed in another way."""
    reordered_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the right trajectories of which two independent steps change places."""
    wordings: dict[str, float] = Field(default={"plain": 1.0})
    """How often each wording is drawn, for right and wrong trajectories alike."""
    concluding_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions whose trajectories state the answer in a last step instead of a
    response."""
    thinking_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the questions whose trajectories are put as a thinking model would, with
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
                raise ConfigError(f"{field} gives no weight to anything")
        return self
