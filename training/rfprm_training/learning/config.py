"""The one file that drives a training run; it is saved beside the result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from rfprm_export.named_base import FolderBase, GgufBase
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_training import ConfigError
from rfprm_training.construction.config import ConstructionConfig
from rfprm_training.construction.procedures import PROCEDURES
from rfprm_training.toml_config import Section, read_toml


class NetworkConfig(Section):
    num_layers: int = Field(gt=0)
    """Layers of the base to keep; the heads read the output of the last one."""
    first_trained_layer: int = Field(ge=0)
    """Layers below it are frozen, and their activations are computed once."""
    method: Literal["lora", "full"] = "lora"
    """``full`` trains the layers' own weights; the checkpoint then holds them."""
    lora_rank: int = Field(default=16, gt=0)
    lora_alpha: int = Field(default=32, gt=0)
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    lora_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Type of the frozen weights and the activations; trained weights are float32. ``auto`` is
    bfloat16 on a GPU and on CPUs with AMX or AVX-512 BF16, and float32 on others, which only
    emulate bfloat16. A run that has begun keeps its type."""
    gradient_checkpointing: bool = False
    """Keep only each layer's input and recompute the rest in the backward pass: less memory, about
    a third more time."""

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
    """Rewarded trajectories, as ``rfprm label`` writes them, with rewards as soft targets. Paths
    are relative to the working directory."""

    kind: Literal["rewarded"]
    train: tuple[Path, ...] = Field(min_length=1)
    evaluation: tuple[Path, ...] = ()
    """Files to hold out. A question both here and in ``train`` is an error."""
    held_out_share: float = Field(default=0.05, ge=0, lt=1)
    """Without ``evaluation``: the share of the questions to hold out, chosen by a hash."""
    num_folds: int = Field(default=5, gt=1)
    """Into how many folds a hash divides the questions, for ``rfprm cross-validate``."""
    held_out_fold: int | None = Field(default=None, ge=0)
    """The fold to hold out, in place of a share."""

    @model_validator(mode="after")
    def _one_part_is_held_out(self) -> RewardedDataConfig:
        if self.held_out_fold is None:
            return self
        if self.evaluation:
            raise ConfigError(
                "data.evaluation names what is held out, and so does data.held_out_fold; give one"
            )
        if self.held_out_fold >= self.num_folds:
            raise ConfigError(
                f"data.held_out_fold is {self.held_out_fold}, but the last of {self.num_folds} "
                f"folds is {self.num_folds - 1}"
            )
        return self


class DataConfig(Section):
    """GSM8K's files. Paths are relative to the working directory."""

    kind: Literal["gsm8k"] = "gsm8k"
    gold: Path
    """``gsm8k_train.jsonl``: right solutions, which are also corrupted."""
    model_solutions: Path | None = None
    """``gsm8k_model_solutions.jsonl``: real solutions with their outcomes. None trains on
    constructed trajectories alone."""
    num_constructed: int = Field(ge=0)
    """Number of ``gold`` questions to construct a right and at least one wrong trajectory for."""
    skip_constructed: int = Field(default=0, ge=0)
    """Number of questions to skip first, because an earlier run has seen them."""
    variant: int = Field(default=0, ge=0)
    """Another variant draws other errors for the same questions, and other ``procedures``. The
    held-out examples stay the same."""
    num_constructed_held_out: int = Field(default=300, ge=0)
    """Number of further ``gold`` questions, held out to measure first-error accuracy."""
    next_steps: Path | None = None
    """Output of ``rfprm sample``: next steps that a small model wrote after the beginning of a
    solution, graded against that solution. Held-out questions are skipped."""
    rewarded: tuple[Path, ...] = ()
    """Files of ``rfprm label`` to train on as well, for example solutions of another model with
    their outcomes. Held-out questions are skipped."""
    procedures: dict[str, Annotated[int, Field(ge=0)]] = Field(default={})
    """How many made-up problems of each kind to add (chains of sums, who holds what, expressions,
    sorting, brackets, liars). Each gives a right trajectory and wrong ones, like a ``gold``
    question."""
    construction: ConstructionConfig = ConstructionConfig()
    num_folds: int = Field(default=5, gt=1)
    sampled_steps: SampledSteps = "last"
    """How to label the steps of a real solution, of which only the outcome was judged. All steps of
    a right solution are right. In a wrong one, ``last`` marks only the last step as wrong,
    ``outcome`` marks every step as wrong, and ``verified`` compares its values with right
    solutions. ``none`` labels no steps of either, so that the number of steps cannot pass for
    their quality."""
    sampled_repeats: int = Field(default=1, gt=0)
    """How often an epoch shows a real solution: first as written, then in other wordings."""
    held_out_fold: int | None = None
    """Questions with index % num_folds equal to this are never trained on. None trains on all."""

    @model_validator(mode="after")
    def _procedures_are_known(self) -> DataConfig:
        unknown = sorted(set(self.procedures) - set(PROCEDURES))
        if unknown:
            raise ConfigError(f"procedures names {unknown}, expected some of {sorted(PROCEDURES)}")
        return self


class LossConfig(Section):
    kind: Literal["mse", "bce"] = "bce"
    """``mse`` is the paper's; ``bce`` also takes soft targets."""
    lambda_step: float = Field(default=1.0, ge=0)
    lambda_final: float = Field(default=1.0, ge=0)
    lambda_pair: float = Field(default=0.0, ge=0)
    """Logistic loss on pairs of a right and a wrong trajectory to the same question. The paper does
    not have it; we add it because scores are used to rank within a question."""
    lambda_pair_step: float = Field(default=0.0, ge=0)
    """The same for the mean step logit, the other half of the reward (Eq. 11)."""
    lambda_sibling: float = Field(default=0.0, ge=0)
    """The same for a right and a wrong step after the same beginning, which a search compares."""


class OptimizerConfig(Section):
    learning_rate: float = Field(gt=0)
    head_learning_rate: float = Field(gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    warmup_steps: int = Field(default=20, ge=0)
    num_epochs: int = Field(gt=0)
    batch_tokens: int = Field(gt=0)
    """Maximum of padded tokens per optimiser step, which has at least one group of trajectories."""
    pack_tokens: int = Field(default=2048, ge=0)
    """Trajectories of one question share a row (a token tree) of at most this many tokens, in which
    shared tokens are computed once. 0 gives each its own row, with causal attention and no mask."""
    max_gradient_norm: float = Field(default=1.0, gt=0)
    save_every_steps: int = Field(default=50, gt=0)
    evaluate_every_steps: int | None = Field(default=None, gt=0)
    """How often to measure the loss on held-out examples; None never does."""
    max_evaluation_examples: int = Field(default=256, gt=0)
    patience: int | None = Field(default=None, gt=0)
    """Training stops after this many evaluations without a new lowest loss. The checkpoint is then
    the one with the lowest loss."""

    @model_validator(mode="after")
    def _patience_needs_evaluations(self) -> OptimizerConfig:
        if self.patience is not None and self.evaluate_every_steps is None:
            raise ConfigError("patience counts evaluations; set evaluate_every_steps too")
        return self


def _data_kind(data: Any) -> str:
    kind = data.get("kind", "gsm8k") if isinstance(data, dict) else getattr(data, "kind", "gsm8k")
    return str(kind)


class TrainingConfig(Section):
    name: str
    seed: int = 0
    start_from: Path | None = None
    """A checkpoint of the same network whose weights to start from, relative to the working
    directory; it may have trained fewer layers or modules. None starts from the base model, with
    heads that score 0.5."""
    start_share: float = Field(default=0.0, ge=0, lt=1)
    """Share of ``start_from``'s weights in the finished ones, which are the mean of both (WiSE-FT,
    Wortsman et al. 2022; of LoRA, its factors). A run on other data then forgets less of what the
    start had learnt."""
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

    @model_validator(mode="after")
    def _a_share_needs_a_start(self) -> TrainingConfig:
        if self.start_share and self.start_from is None:
            raise ConfigError("start_share is of the weights of a start; set start_from too")
        return self


def for_another_folder(config: TrainingConfig, folder: Path) -> TrainingConfig:
    """``config``, read from ``folder``, as it must be written elsewhere: the path of a base model
    counts from its config."""
    if not isinstance(config.base, FolderBase):
        return config
    path = str((folder / config.base.path).resolve())
    return config.model_copy(update={"base": FolderBase(path=path)})


def read_config(path: Path) -> TrainingConfig:
    """Read a TOML file. Raises :class:`rfprm_training.ConfigError` naming every bad field."""
    return read_toml(path, TrainingConfig, "training config")


def write_config(config: TrainingConfig, path: Path) -> None:
    """Write what :func:`read_config` reads. TOML has no null: what is None is left out."""
    import tomli_w  # of the extra `train`; reading a config needs less

    write_whole(path, tomli_w.dumps(config.model_dump(mode="json", exclude_none=True)))
