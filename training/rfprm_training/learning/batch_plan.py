"""Which token trees each step trains on, and which are held out. Knows no network.

The plan depends on examples, settings and seed alone, so every process, and a resumed run, has the
same one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rfprm_training import TrainingError
from rfprm_training.example import Example
from rfprm_training.learning.config import OptimizerConfig
from rfprm_training.learning.dataset import group_batches
from rfprm_training.learning.trees import TokenTree


class BatchPlan:
    """The batches of a run, as indices of token trees."""

    def __init__(
        self,
        examples: Sequence[Example],
        trees: Sequence[TokenTree],
        settings: OptimizerConfig,
        seed: int,
    ) -> None:
        self._trees = trees
        self._settings = settings
        self._seed = seed
        # A question is held out as a whole, and a tree holds one question.
        firsts = [examples[tree.members[0]] for tree in trees]
        self._groups = [example.group for example in firsts]
        self._held_out = [example.held_out for example in firsts]

    def training_batches(self, num_processes: int = 1) -> list[list[list[int]]]:
        """The trees of each process at each optimiser step. Raises :class:`TrainingError` if there
        are none."""
        chosen = [index for index, held_out in enumerate(self._held_out) if not held_out]
        batches = []
        for epoch in range(self._settings.num_epochs):
            batches += self._batches(chosen, random.Random(f"{self._seed} {epoch}"))
        if not batches:
            raise TrainingError("no example is left to train on; raise num_constructed")
        # The last step wraps around, so that every process has a batch.
        batches += batches[: -len(batches) % num_processes]
        starts = range(0, len(batches), num_processes)
        return [batches[start : start + num_processes] for start in starts]

    def evaluation_batches(self) -> list[list[int]]:
        """Held-out trees, the same every time: whole groups, up to ``max_evaluation_examples``.
        Raises :class:`TrainingError` if there are none."""
        groups: dict[str, list[int]] = {}
        for index, held_out in enumerate(self._held_out):
            if held_out:
                groups.setdefault(self._groups[index], []).append(index)
        if not groups:
            raise TrainingError(
                "evaluate_every_steps is set, but the config holds out no examples to evaluate on"
            )
        keys = sorted(groups)
        random.Random(self._seed).shuffle(keys)
        chosen: list[int] = []
        for key in keys:
            if self.num_trajectories(chosen) < self._settings.max_evaluation_examples:
                chosen += groups[key]
        return self._batches(chosen, random.Random(0))

    def held_out_batches(self) -> list[list[int]]:
        """All held-out trees, the same every time."""
        chosen = [index for index, held_out in enumerate(self._held_out) if held_out]
        return self._batches(chosen, random.Random(0))

    def num_trajectories(self, batch: Sequence[int]) -> int:
        return sum(len(self._trees[index].members) for index in batch)

    def _batches(self, chosen: list[int], rng: random.Random) -> list[list[int]]:
        """``chosen`` trees in batches of whole groups."""
        groups = [self._groups[index] for index in chosen]
        lengths = [self._trees[index].num_tokens for index in chosen]
        batches = group_batches(groups, lengths, self._settings.batch_tokens, rng)
        return [[chosen[index] for index in batch] for batch in batches]
