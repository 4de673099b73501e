"""Real problems that the shipped PRM was not trained on."""

from __future__ import annotations

from collections.abc import Sequence

from rfprm_export.shipped import shipped_checkpoint
from rfprm_training.gsm8k import GoldSolution
from rfprm_training.learning.config import DataConfig, read_config
from rfprm_training.learning.dataset import construct_examples


def held_out_questions(solutions: Sequence[GoldSolution]) -> set[str]:
    """The questions among ``solutions`` that all training runs of the PRM hold out."""
    config = read_config(shipped_checkpoint() / "config.toml")
    assert isinstance(config.data, DataConfig)
    # The held-out questions do not depend on how many others are trained on.
    data = config.data.model_copy(update={"num_constructed": 1})
    examples = construct_examples(list(solutions), data, config.seed)
    return {example.trajectory.question for example in examples if example.held_out}
