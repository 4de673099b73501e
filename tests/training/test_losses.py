from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from rfprm_training.learning.config import LossConfig
from rfprm_training.learning.losses import Targets, joint_loss, pair_loss

UNKNOWN = math.nan
# Two trajectories of one question: two known steps, then one known and one unknown.
TARGETS = Targets(
    step_labels=torch.tensor([1.0, 0.0, 1.0, UNKNOWN]),
    step_owner=torch.tensor([0, 0, 1, 1]),
    trajectory_labels=torch.tensor([0.0, 1.0]),
    groups=torch.tensor([0, 0]),
    siblings=torch.tensor([0, 1, 0, 2]),
)
STEP_LOGITS = torch.tensor([0.0, 1.0, 2.0, 50.0])
TRAJECTORY_LOGITS = torch.tensor([0.5, -0.5])


def cross_entropy(logit: float, label: float) -> float:
    chance = 1 / (1 + math.exp(-logit))
    return -(label * math.log(chance) + (1 - label) * math.log(1 - chance))


def test_steps_are_averaged_within_their_trajectory_first() -> None:
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, TARGETS, LossConfig())
    first = (cross_entropy(0.0, 1) + cross_entropy(1.0, 0)) / 2
    second = cross_entropy(2.0, 1)
    assert float(losses["step"]) == pytest.approx((first + second) / 2, rel=1e-5)


def test_mse_is_the_papers() -> None:
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, TARGETS, LossConfig(kind="mse"))
    chance = 1 / (1 + math.exp(-0.5))
    # 0.5 for a wrong one and -0.5 for a right one are equally far off.
    assert float(losses["final"]) == pytest.approx(chance**2, rel=1e-5)


def test_the_total_is_the_weighted_sum() -> None:
    weights = LossConfig(
        lambda_step=2.0, lambda_final=3.0, lambda_pair=5.0, lambda_pair_step=7.0, lambda_sibling=11
    )
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, TARGETS, weights)
    total = 2 * losses["step"] + 3 * losses["final"] + 5 * losses["pair"]
    total = total + 7 * losses["pair_step"] + 11 * losses["sibling"]
    assert float(losses["total"]) == pytest.approx(float(total), rel=1e-6)


def test_an_unknown_step_has_no_loss() -> None:
    logits = STEP_LOGITS.clone().requires_grad_()
    joint_loss(logits, TRAJECTORY_LOGITS, TARGETS, LossConfig())["total"].backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[3] == 0
    assert (logits.grad[:3] != 0).all()


def test_a_batch_with_nothing_known_has_no_loss() -> None:
    unknown = replace(
        TARGETS,
        step_labels=torch.full((4,), UNKNOWN),
        trajectory_labels=torch.full((2,), UNKNOWN),
    )
    config = LossConfig(lambda_pair=1.0, lambda_sibling=1.0)
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, unknown, config)
    assert float(losses["total"]) == 0.0


def test_pairs_are_formed_within_a_question_only() -> None:
    logits = torch.tensor([2.0, 1.0, 9.0, -9.0])
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
    alone = pair_loss(logits, labels, torch.tensor([0, 0, 1, 2]))
    assert float(alone) == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-5)


def test_questions_without_a_pair_have_no_pair_loss() -> None:
    same = pair_loss(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 1.0]), torch.tensor([0, 0]))
    assert float(same) == 0.0


def test_pair_step_compares_mean_step_logits() -> None:
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, TARGETS, LossConfig())
    # The mean is 0.5 for the wrong one and 26 for the right one.
    assert float(losses["pair_step"]) == pytest.approx(math.log1p(math.exp(-25.5)), abs=1e-9)
    swapped = joint_loss(
        STEP_LOGITS,
        TRAJECTORY_LOGITS,
        replace(TARGETS, trajectory_labels=torch.tensor([1.0, 0.0])),
        LossConfig(),
    )
    assert float(swapped["pair_step"]) == pytest.approx(25.5, rel=1e-5)


def test_siblings_are_steps_after_the_same_beginning() -> None:
    labels = torch.tensor([1.0, 0.0, 0.0, UNKNOWN])
    targets = replace(TARGETS, step_labels=labels)
    losses = joint_loss(STEP_LOGITS, TRAJECTORY_LOGITS, targets, LossConfig())
    # The first (right, 0) and the third (wrong, 2) are; the second has another beginning.
    assert float(losses["sibling"]) == pytest.approx(math.log1p(math.exp(2)), rel=1e-5)
