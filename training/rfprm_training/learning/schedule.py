"""Which packs are trained on at which step, and which are held out. Knows no network.

Depends on nothing but examples, settings and seed, so every process, and a run that goes on after a
kill, has the same.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rfprm_training import TrainingError
from rfprm_training.example import Example
from rfprm_training.learning.config import OptimizerConfig
from rfprm_training.learning.dataset import group_batches
from rfprm_training.learning.packing import Pack


class Schedule:
    """The batches of a run, as indices of packs."""

    def __init__(
        self,
        examples: Sequence[Example],
        packs: Sequence[Pack],
        settings: OptimizerConfig,
        seed: int,
    ) -> None:
        self._packs = packs
        self._settings = settings
        self._seed = seed
        # Questions are held out whole, and a pack holds one question.
        firsts = [examples[pack.members[0]] for pack in packs]
        self._groups = [example.group for example in firsts]
        self._held_out = [example.held_out for example in firsts]

    def training_batches(self, num_processes: int = 1) -> list[list[list[int]]]:
        """The packs of every process at every optimiser step. Raises :class:`TrainingError` where
        there are none."""
        chosen = [index for index, held_out in enumerate(self._held_out) if not held_out]
        batches = []
        for epoch in range(self._settings.num_epochs):
            batches += self._batches(chosen, random.Random(f"{self._seed} {epoch}"))
        if not batches:
            raise TrainingError("no example is left to train on; raise num_constructed")
        # The last step begins again at the front, so that every process has something to do.
        batches += batches[: -len(batches) % num_processes]
        starts = range(0, len(batches), num_processes)
        return [batches[start : start + num_processes] for start in starts]

    def evaluation_batches(self) -> list[list[int]]:
        """The same held-out packs every time: whole groups, up to the number asked for. Raises
        :class:`TrainingError` where there are none."""
        groups: dict[str, list[int]] = {}
        for index, held_out in enumerate(self._held_out):
            if held_out:
                groups.setdefault(self._groups[index], []).append(index)
        if not groups:
            raise TrainingError(
                "evaluate_every_steps is set, but the config holds out no example to evaluate on"
            )
        keys = sorted(groups)
        random.Random(self._seed).shuffle(keys)
        chosen: list[int] = []
        for key in keys:
            if self.num_trajectories(chosen) < self._settings.max_evaluation_examples:
                chosen += groups[key]
        return self._batches(chosen, random.Random(0))

    def num_trajectories(self, batch: Sequence[int]) -> int:
        return sum(len(self._packs[index].members) for index in batch)

    def _batches(self, chosen: list[int], rng: random.Random) -> list[list[int]]:
        """``chosen`` packs in batches of whole groups."""
        groups = [self._groups[index] for index in chosen]
        lengths = [self._packs[index].num_tokens for index in chosen]
        batches = group_batches(groups, lengths, self._settings.batch_tokens, rng)
        return [[chosen[index] for index in batch] for batch in batches]
