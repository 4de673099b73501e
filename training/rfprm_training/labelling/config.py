"""Settings of labelling: what the paper leaves open, with our choices as defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from rfprm_training import ConfigError
from rfprm_training.labelling.encoders import DEFAULT_ENCODER
from rfprm_training.labelling.expert.config import ExpertConfig
from rfprm_training.labelling.pairing import Pairing
from rfprm_training.toml_config import Section, read_toml

Component = Literal["alignment", "quality", "coherence"]


class StepRewardConfig(Section):
    components: tuple[Component, ...] = ("alignment", "quality", "coherence")
    encoder: str = DEFAULT_ENCODER
    """Φ, not published: a model name or folder that sentence-transformers loads."""
    pairing: Pairing = "assigned"
    """Which response step a thinking step is aligned with; see :mod:`.pairing`."""
    coherence_temperature: float = Field(default=0.1, gt=0)
    """τ, not published."""
    num_negatives: int = Field(default=64, gt=0)
    """Steps of other questions to compare a step with; not published."""
    reservoir_size: int = Field(default=2048, gt=0)
    """Steps to sample in a first pass over the data; negatives are drawn from them."""
    first_step: Literal["question", "unknown"] = "question"
    """What the first step must cohere with: the question, or nothing (its coherence is unknown)."""
    fusion_temperature: float = Field(default=1.0, gt=0)
    """Temperature of the softmax that weights the components; 1 is the paper's."""
    quality: Literal["verifier", "llm", "both"] = "verifier"
    """Who judges quality. ``both``: the LLM, but 0 where the verifier finds a false equation."""
    right_solutions: int = Field(default=0, ge=0)
    """How many right traces to the same question, of those that are labelled, show the verifier
    where a wrong one goes astray, beside a reference in the row. They are kept in memory."""
    quality_scale: tuple[float, float] = (1.0, 5.0)
    """The lowest and highest grade of the LLM's scale; the prompt must use the same ones."""

    @model_validator(mode="after")
    def _components_are_named_once(self) -> StepRewardConfig:
        if not self.components:
            raise ConfigError("components is empty, expected at least one")
        if len(set(self.components)) < len(self.components):
            raise ConfigError(f"components names one twice: {self.components}")
        return self


class TrajectoryRewardConfig(Section):
    kind: Literal["outcome", "template", "none"] = "outcome"
    """``template``, the paper's: the share of right answers when a template of the trace guides a
    policy. ``outcome``: whether the trace's own answer is right, which costs nothing."""
    num_answers: int = Field(default=8, gt=0)
    """N, the number of answers from the policy; not published."""
    temperature: float = Field(default=0.8, ge=0)
    max_answer_tokens: int = Field(default=1024, gt=0)
    answer_timeout: float = Field(default=5.0, gt=0)
    """Seconds to compare two answers; a slower comparison counts as unknown."""


class LabelConfig(Section):
    seed: int = 0
    steps: StepRewardConfig = StepRewardConfig()
    trajectory: TrajectoryRewardConfig = TrajectoryRewardConfig()
    expert: ExpertConfig | None = None
    """The LLM that judges steps and extracts templates."""
    policy: ExpertConfig | None = None
    """The model that answers questions by a template; by default the expert."""
    batch_size: int = Field(default=16, gt=0)
    """Trajectories to encode together and to have in flight at the expert."""

    @model_validator(mode="after")
    def _experts_are_there(self) -> LabelConfig:
        needs = []
        if "quality" in self.steps.components and self.steps.quality != "verifier":
            needs.append(f'steps.quality = "{self.steps.quality}"')
        if self.trajectory.kind == "template":
            needs.append('trajectory.kind = "template"')
        if needs and self.expert is None:
            raise ConfigError(f"{' and '.join(needs)} needs an LLM; add a section [expert]")
        if self.policy is not None and self.policy.prompts:
            raise ConfigError(
                "policy.prompts is not read; all prompts are set in expert.prompts, that of the "
                "policy as answer_by_template"
            )
        return self


def read_label_config(path: Path) -> LabelConfig:
    """Read a TOML file. Raises :class:`rfprm_training.ConfigError` naming every bad field."""
    return read_toml(path, LabelConfig, "labelling config")
