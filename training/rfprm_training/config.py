"""The one file that drives a training run; it is saved beside the result."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rfprm_export.checkpoint import FolderBase, GgufBase
from rfprm_training import TrainingError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class NetworkConfig(_Section):
    num_layers: int = Field(gt=0)
    """Layers of the base that are kept; the heads read after the last of them."""
    first_trained_layer: int = Field(ge=0)
    """Layers below it stay as they are, and their activations are computed once."""
    lora_rank: int = Field(gt=0)
    lora_alpha: int = Field(gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")

    @model_validator(mode="after")
    def _something_is_trained(self) -> NetworkConfig:
        if self.first_trained_layer >= self.num_layers:
            raise ValueError(
                f"first_trained_layer {self.first_trained_layer} leaves none of the "
                f"{self.num_layers} layers to train"
            )
        return self


class DataConfig(_Section):
    """Paths are relative to the working directory."""

    gold: Path
    """``gsm8k_train.jsonl``: right solutions, which are also corrupted."""
    model_solutions: Path
    """``gsm8k_model_solutions.jsonl``: real solutions with their outcomes."""
    num_constructed: int = Field(ge=0)
    """Questions of ``gold`` that give a right and a corrupted trajectory each."""
    num_constructed_held_out: int = Field(default=300, ge=0)
    """Further questions of ``gold``, kept for measuring first-error accuracy."""
    num_folds: int = Field(default=5, gt=1)
    sampled_steps: Literal["none", "last", "outcome"] = "last"
    """What is known of the steps of a real solution, of which only the outcome was judged. Where it
    is right, all its steps are. Where it is wrong: ``last``, only that its last step is wrong;
    ``outcome``, every step is taken to be. ``none`` says nothing of the steps of either, so that
    how many steps a solution has cannot pass for how good they are."""
    held_out_fold: int | None = 0
    """Questions with index % num_folds equal to it are never trained on; None trains on all."""
    corruption_weights: dict[str, float] = Field(
        default={
            "wrong_result": 1.0,
            "wrong_operand": 1.0,
            "wrong_operator": 1.0,
            "skipped_step": 1.0,
        }
    )
    """How often each kind of error is tried first."""


class LossConfig(_Section):
    kind: Literal["mse", "bce"] = "bce"
    """``mse`` is the paper's; ``bce`` takes the same soft targets."""
    lambda_step: float = Field(default=1.0, ge=0)
    lambda_final: float = Field(default=1.0, ge=0)
    lambda_pair: float = Field(default=0.0, ge=0)
    """Logistic loss on pairs of a right and a wrong trajectory to the same question: an addition
    to the paper's loss, because ranking within a question is what the score is used for."""
    lambda_pair_step: float = Field(default=0.0, ge=0)
    """The same on the mean of the step logits, which is the other half of the reward (Eq. 11)."""


class OptimizerConfig(_Section):
    learning_rate: float = Field(gt=0)
    head_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=20, ge=0)
    num_epochs: int = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    """Padded tokens of one optimiser step, at most; one group of trajectories at least."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    save_every_steps: int = Field(default=50, gt=0)


class TrainingConfig(_Section):
    name: str
    seed: int = 0
    base: Annotated[GgufBase | FolderBase, Field(discriminator="kind")]
    family: str = "rfprm"
    alpha: float = Field(default=1.0, ge=0)
    """α of Eq. 11, written into the checkpoint."""
    network: NetworkConfig
    data: DataConfig
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig


def read_config(path: Path) -> TrainingConfig:
    """Read a TOML file. Raises :class:`TrainingError` naming every field that is wrong."""
    try:
        return TrainingConfig.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise TrainingError(f"cannot read the config {path}: {error.strerror}") from None
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{path} is not TOML: {error}") from None
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}"
            for problem in error.errors(include_url=False)
        )
        raise TrainingError(f"{path} is not a training config: {problems}") from None
