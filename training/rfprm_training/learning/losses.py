"""The joint loss of ReasonFlux-PRM over a batch of trajectories.

λ_step · mean_t loss(R(s_t), r_t) + λ_final · loss(R(x, y), r_final), averaged over trajectories,
plus optional losses on pairs within a question. Knows tensors, no text.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rfprm_training.learning.config import LossConfig

PARTS = ("total", "step", "final", "pair", "pair_step", "sibling")


@dataclass(frozen=True)
class Targets:
    """What a batch should score; steps and trajectories in the order of the logits."""

    step_labels: Tensor  # float [num_steps], NaN where unknown
    step_owner: Tensor  # int64 [num_steps], the trajectory of each step
    trajectory_labels: Tensor  # float [num_trajectories], NaN where unknown
    groups: Tensor  # int64 [num_trajectories], equal for the same question
    siblings: Tensor  # int64 [num_steps], equal for steps that follow the same beginning


def joint_loss(
    step_logits: Tensor, trajectory_logits: Tensor, targets: Targets, config: LossConfig
) -> dict[str, Tensor]:
    """Each part, unweighted, and their weighted sum as ``total``."""
    num_trajectories = len(targets.trajectory_labels)
    step = _mean_by_owner(
        *_known(step_logits, targets.step_labels, config), targets.step_owner, num_trajectories
    )
    losses, known = _known(trajectory_logits, targets.trajectory_labels, config)
    final = losses.sum() / known.sum().clamp(min=1)
    pair = pair_loss(trajectory_logits, targets.trajectory_labels, targets.groups)
    pair_step = pair_loss(
        _mean_logits(step_logits, targets.step_owner, num_trajectories),
        targets.trajectory_labels,
        targets.groups,
    )
    sibling = pair_loss(step_logits, targets.step_labels, targets.siblings)
    total = (
        config.lambda_step * step
        + config.lambda_final * final
        + config.lambda_pair * pair
        + config.lambda_pair_step * pair_step
        + config.lambda_sibling * sibling
    )
    return dict(zip(PARTS, (total, step, final, pair, pair_step, sibling), strict=True))


def pair_loss(logits: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Mean of −log σ(better − worse) over pairs in a group whose labels differ; 0 if there are
    none."""
    better = labels[:, None] > labels[None, :]  # false for NaN
    pairs = better & (groups[:, None] == groups[None, :])
    margins = (logits[:, None] - logits[None, :])[pairs]
    return F.softplus(-margins).sum() / max(len(margins), 1)


def _known(logits: Tensor, labels: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Loss of each element, 0 where the label is unknown, and which labels are known."""
    known = ~torch.isnan(labels)
    targets = torch.where(known, labels, torch.zeros_like(labels))
    if config.kind == "bce":
        losses = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    else:
        losses = (torch.sigmoid(logits) - targets) ** 2
    return losses * known, known


def _mean_logits(step_logits: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """Mean step logit of each trajectory, float [num_owners]."""
    sums = torch.zeros(num_owners, device=step_logits.device).index_add(0, owner, step_logits)
    counts = torch.bincount(owner, minlength=num_owners)
    return sums / counts.clamp(min=1)


def _mean_by_owner(losses: Tensor, known: Tensor, owner: Tensor, num_owners: int) -> Tensor:
    """Mean over the steps of each trajectory, then over trajectories that have known steps."""
    sums = torch.zeros(num_owners, device=losses.device).index_add(0, owner, losses)
    counts = torch.zeros(num_owners, device=losses.device).index_add(0, owner, known.float())
    return (sums / counts.clamp(min=1)).sum() / (counts > 0).sum().clamp(min=1)
