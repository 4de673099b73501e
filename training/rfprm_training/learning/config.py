"""The one file that drives a training run; it is saved beside the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rfprm_export.checkpoint import FolderBase, GgufBase
from rfprm_training import ConfigError
from rfprm_training.construction.config import ConstructionConfig
from rfprm_training.construction.procedures import PROCEDURES
from rfprm_training.settings import Section, read_toml


class NetworkConfig(Section):
    num_layers: int = Field(gt=0)
    """Layers of the base that are kept; the heads read after the last of them."""
    first_trained_layer: int = Field(ge=0)
    """Layers below it stay as they are, and their activations are computed once."""
    method: Literal["lora", "full"] = "lora"
    """``full`` trains the whole weights of the trained layers; the checkpoint then holds them."""
    lora_rank: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the frozen weights and the activations; what is trained is float32. ``auto`` is bfloat16
    on a GPU and float32 on a CPU, most of which only emulate bfloat16."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and compute the rest again in the backward pass: less memory for
    about a third more time."""

    @model_validator(mode="after")
    def _something_is_trained(self) -> NetworkConfig:
        if self.first_trained_layer >= self.num_layers:
            raise ConfigError(
                f"first_trained_layer {self.first_trained_layer} leaves none of the "
                f"{self.num_layers} layers to train"
            )
        return self


SampledSteps = Literal["none", "last", "outcome", "verified"]


class RewardedDataConfig(Section):
    """Rewarded trajectories, as ``rfprm label`` writes them; their rewards are soft targets. Paths
    are relative to the working directory."""

    kind: Literal["rewarded"]
    train: tuple[Path, ...] = Field(min_length=1)
    evaluation: tuple[Path, ...] = ()
    """Files that are held out whole; a question that is in both kinds of file is an error."""
    held_out_share: float = Field(default=0.05, ge=0, lt=1)
    """Without ``evaluation``: the share of the questions that is held out, by a hash."""


class DataConfig(Section):
    """GSM8K's files. Paths are relative to the working directory."""

    kind: Literal["gsm8k"] = "gsm8k"
    gold: Path
    """``gsm8k_train.jsonl``: right solutions, which are also corrupted."""
    model_solutions: Path | None = None
    """``gsm8k_model_solutions.jsonl``: real solutions with their outcomes; None trains on what is
    constructed alone."""
    num_constructed: int = Field(ge=0)
    """Questions of ``gold`` that give a right and at least one wrong trajectory."""
    skip_constructed: int = Field(default=0, ge=0)
    """Questions that are passed over before them, because an earlier run has seen them."""
    variant: int = Field(default=0, ge=0)
    """Another one draws other errors of the same questions, and other ``procedures``. What is held
    out stays as it is."""
    num_constructed_held_out: int = Field(default=300, ge=0)
    """Further questions of ``gold``, kept for measuring first-error accuracy."""
    next_steps: Path | None = None
    """A file of ``rfprm sample``: what a small model would say next after the beginning of a
    solution, graded against it. Of held-out questions nothing is used."""
    procedures: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    """How many problems of each kind are made up (chains of sums, who holds what, expressions,
    sorting, brackets, liars), each with a right trajectory and wrong ones as for a question of
    ``gold``."""
    construction: ConstructionConfig = ConstructionConfig()
    num_folds: int = Field(default=5, gt=1)
    sampled_steps: SampledSteps = "last"
    """What is known of the steps of a real solution, of which only the outcome was judged. Where it
    is right, all its steps are. Where it is wrong: ``last``, only that its last step is wrong;
    ``outcome``, every step is taken to be; ``verified``, what the verifier finds by comparing its
    values with right solutions. ``none`` says nothing of the steps of either, so that how many
    steps a solution has cannot pass for how good they are."""
    sampled_repeats: int = Field(default=1, gt=0)
    """How often a real solution is shown an epoch: as it is, then in other wordings."""
    held_out_fold: int | None = None
    """Questions with index % num_folds equal to it are never trained on. Left out, all are."""

    @model_validator(mode="after")
    def _procedures_are_known(self) -> DataConfig:
        unknown = sorted(set(self.procedures) - set(PROCEDURES))
        if unknown:
            raise ConfigError(f"procedures names {unknown}, expected some of {sorted(PROCEDURES)}")
        return self


class LossConfig(Section):
    kind: Literal["mse", "bce"] = "bce"
    """``mse`` is the paper's; ``bce`` takes the same soft targets."""
    lambda_step: float = Field(default=1.0, ge=0)
    lambda_final: float = Field(default=1.0, ge=0)
    lambda_pair: float = Field(default=0.0, ge=0)
    """Logistic loss on pairs of a right and a wrong trajectory to the same question: an addition
    to the paper's loss, because ranking within a question is what the score is used for."""
    lambda_pair_step: float = Field(default=0.0, ge=0)
    """The same on the mean of the step logits, which is the other half of the reward (Eq. 11)."""
    lambda_sibling: float = Field(default=0.0, ge=0)
    """The same on pairs of steps, a right and a wrong one, that follow the same beginning: what a
    search compares."""


class OptimizerConfig(Section):
    learning_rate: float = Field(gt=0)
    head_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=20, ge=0)
    num_epochs: int = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    """Padded tokens of one optimiser step, at most; one group of trajectories at least."""
    pack_tokens: int = Field(default=2048, ge=0)
    """Trajectories to one question are packed into rows of at most so many tokens, in which what
    they share is computed once. 0 gives each a row of its own, and with it causal attention without
    a mask."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    save_every_steps: int = Field(default=50, gt=0)
    evaluate_every_steps: int | None = Field(default=None, gt=0)
    """How often the loss on held-out examples is taken; None never does."""
    max_evaluation_examples: int = Field(default=256, gt=0)
    patience: int | None = Field(default=None, gt=0)
    """Evaluations without a new lowest loss after which training ends. The checkpoint is then that
    of the lowest loss."""

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> OptimizerConfig:
        if self.patience is not None and self.evaluate_every_steps is None:
            raise ConfigError("patience counts evaluations: set evaluate_every_steps too")
        return self


def _data_kind(data: Any) -> str:
    kind = data.get("kind", "gsm8k") if isinstance(data, dict) else getattr(data, "kind", "gsm8k")
    return str(kind)


class TrainingConfig(Section):
    name: str
    seed: int = 0
    start_from: Path | None = None
    """A checkpoint of the same network, whose weights training begins with; relative to the working
    directory. None begins with the base model and heads that score 0.5."""
    base: Annotated[GgufBase | FolderBase, Field(discriminator="kind")]
    family: str = "rfprm"
    alpha: float = Field(default=1.0, ge=0)
    """α of Eq. 11, written into the checkpoint."""
    network: NetworkConfig
    data: Annotated[
        Annotated[DataConfig, Tag("gsm8k")] | Annotated[RewardedDataConfig, Tag("rewarded")],
        Discriminator(_data_kind),
    ]
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig


def read_config(path: Path) -> TrainingConfig:
    """Read a TOML file. Raises :class:`rfprm_training.ConfigError` naming every field that is
    wrong."""
    return read_toml(path, TrainingConfig, "training config")
