"""A batch of a run: the states below the trained layers, and what its trajectories should score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rfprm_runtime.backends.torch import Tree
from rfprm_training.example import Example
from rfprm_training.learning.activations import ActivationCache
from rfprm_training.learning.losses import Targets
from rfprm_training.learning.trained_prm import TrainedPRM
from rfprm_training.learning.trees import TokenTree, TreeBatch, pad_trees


@dataclass(frozen=True)
class Batch:
    """Padded hidden states of some token trees, and what their trajectories should score."""

    hidden: Tensor  # [batch, length, hidden_size]
    tree: Tree | None
    step_positions: Tensor  # int64 [num_steps], into the flattened [batch * length]
    trajectory_positions: Tensor  # int64 [num_trajectories]
    targets: Targets


class BatchLoader:
    """Makes batches of token trees for a PRM in training."""

    def __init__(
        self,
        prm: TrainedPRM,
        examples: Sequence[Example],
        trees: Sequence[TokenTree],
        cache: ActivationCache | None,
    ) -> None:
        """Without ``cache``, the layers below the trained ones run for every batch."""
        self._prm, self._examples, self._trees, self._cache = prm, examples, trees, cache

    def load(self, indices: list[int]) -> Batch:
        """The trees at ``indices``, on the device of the PRM."""
        trees = [self._trees[index] for index in indices]
        device = next(self._prm.network.parameters()).device
        padded = pad_trees(trees, device)
        hidden = self._states(indices, padded)
        markers = [
            torch.from_numpy(positions) + row * hidden.shape[1]
            for row, tree in enumerate(trees)
            for positions in tree.marker_positions
        ]
        targets = make_targets([self._examples[i] for tree in trees for i in tree.members])
        return Batch(
            hidden,
            padded.tree,
            torch.cat([positions[:-1] for positions in markers]).to(device),
            torch.cat([positions[-1:] for positions in markers]).to(device),
            Targets(*(getattr(targets, name).to(device) for name in vars(targets))),
        )

    def _states(self, indices: list[int], padded: TreeBatch) -> Tensor:
        network = self._prm.network
        embeddings = network.model.embed_tokens.weight
        if self._cache is not None:
            rows = [self._cache[index] for index in indices]
            states = nn.utils.rnn.pad_sequence(rows, batch_first=True)
            return states.to(embeddings.device, embeddings.dtype)
        first = self._prm.config.network.first_trained_layer
        with torch.no_grad():
            embedded = network.embed(padded.token_ids)
            return network.run_layers(embedded, 0, first, tree=padded.tree)


def make_targets(examples: Sequence[Example]) -> Targets:
    """The targets of a batch, in the order of its markers."""
    owner = [row for row, example in enumerate(examples) for _ in example.step_labels]
    names = sorted({example.group for example in examples})
    beginnings: dict[tuple[str, ...], int] = {}
    siblings = [
        beginnings.setdefault((example.group, *example.trajectory.steps[:index]), len(beginnings))
        for example in examples
        for index in range(len(example.step_labels))
    ]
    return Targets(
        step_labels=torch.tensor([label for example in examples for label in example.step_labels]),
        step_owner=torch.tensor(owner),
        trajectory_labels=torch.tensor([example.trajectory_label for example in examples]),
        groups=torch.tensor([names.index(example.group) for example in examples]),
        siblings=torch.tensor(siblings),
    )
