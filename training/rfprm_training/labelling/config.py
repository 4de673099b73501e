"""Settings of labelling: everything that the paper leaves open, with our choice as the default."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rfprm_training import ConfigError
from rfprm_training.labelling.encoders import DEFAULT_ENCODER
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.pairing import Pairing
from rfprm_training.settings import Section, read_toml

Component = Literal["alignment", "quality", "coherence"]


class StepRewardConfig(Section):
    components: tuple[Component, ...] = ("alignment", "quality", "coherence")
    encoder: str = DEFAULT_ENCODER
    """Φ. Not published; any name or folder that sentence-transformers loads."""
    pairing: Pairing = "assigned"
    """Which response step a thinking step is aligned with; see :mod:`.pairing`."""
    coherence_temperature: float = Field(default=0.1, gt=0)
    """τ. Not published."""
    num_negatives: int = Field(default=64, gt=0)
    """Steps of other questions that a step is compared with. Not published."""
    reservoir_size: int = Field(default=2048, gt=0)
    """Steps kept of a first pass over the data, of which negatives are drawn."""
    first_step: Literal["question", "unknown"] = "question"
    """What the first step must cohere with: the question, or nothing (its coherence is unknown)."""
    fusion_temperature: float = Field(default=1.0, gt=0)
    """Of the softmax that weighs the components; 1 is the paper's."""
    quality: Literal["verifier", "llm", "both"] = "verifier"
    """Who judges quality. ``both``: the LLM, but 0 where the verifier finds a false equation."""
    quality_scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and highest grade of the LLM's scale; the prompt must use the same."""

    @model_validator(mode="after")
    def _something_is_asked_for(self) -> StepRewardConfig:
        if not self.components:
            raise ConfigError("no component is asked for, expected at least one")
        if len(set(self.components)) < len(self.components):
            raise ConfigError(f"a component is named twice: {self.components}")
        return self


class TrajectoryRewardConfig(Section):
    kind: Literal["outcome", "template", "none"] = "outcome"
    """``template``, the paper's: the share of a policy's answers that are right when it is guided
    by a template of the trace. ``outcome``: whether the trace's own answer is right, which costs
    nothing."""
    num_answers: int = Field(default=8, gt=0)
    """N, the answers asked of the policy. Not published."""
    temperature: float = Field(default=0.8, ge=0)
    max_answer_tokens: int = Field(default=1024, gt=0)
    answer_timeout: float = Field(default=5.0, gt=0)
    """Seconds for comparing two answers; what takes longer counts as not known."""


class LabelConfig(Section):
    seed: int = 0
    steps: StepRewardConfig = StepRewardConfig()
    trajectory: TrajectoryRewardConfig = TrajectoryRewardConfig()
    expert: ExpertConfig | None = None
    """The LLM that judges steps and extracts templates."""
    policy: ExpertConfig | None = None
    """The model that answers questions by a template; the expert where it is not given."""
    batch_size: int = Field(default=16, gt=0)
    """Trajectories that are encoded together and kept in flight at the expert."""

    @model_validator(mode="after")
    def _experts_are_there(self) -> LabelConfig:
        needs = []
        if "quality" in self.steps.components and self.steps.quality != "verifier":
            needs.append(f'steps.quality = "{self.steps.quality}"')
        if self.trajectory.kind == "template":
            needs.append('trajectory.kind = "template"')
        if needs and self.expert is None:
            raise ConfigError(f"{' and '.join(needs)} needs an LLM: add a section [expert]")
        return self


def read_label_config(path: Path) -> LabelConfig:
    """Raises :class:`rfprm_training.ConfigError` naming every field that is wrong."""
    return read_toml(path, LabelConfig, "labelling config")
