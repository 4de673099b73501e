"""Which branches to go on with: beam search, diverse verifier tree search, best-first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rfprm_runtime.search.tree import Node


@dataclass(frozen=True)
class Choice:
    """What to do in the next round."""

    expand: list[Node]
    prune: list[Node]
    num_expansions: int
    """Proposals for each node that is expanded."""


class Strategy(Protocol):
    """A rule of search; anything with these two methods is one."""

    def choose(self, open_nodes: Sequence[Node], num_finished: int) -> Choice:
        """From the nodes that can be gone on from (the root alone at first) to the next round.
        What is neither expanded nor pruned stays open."""
        ...

    def is_done(self, num_finished: int) -> bool:
        """Whether enough traces are finished."""
        ...


def best_first(nodes: Sequence[Node]) -> list[Node]:
    """By value; of equals the one that came first."""
    return sorted(nodes, key=lambda node: (-node.value, node.id))


@dataclass(frozen=True)
class BeamSearch:
    """Keep the best ``num_beams`` traces, finished ones included, and try ``num_expansions`` next
    steps of each (arXiv 2408.03314)."""

    num_beams: int = 4
    num_expansions: int = 4

    def __post_init__(self) -> None:
        _check_positive(num_beams=self.num_beams, num_expansions=self.num_expansions)

    def choose(self, open_nodes: Sequence[Node], num_finished: int) -> Choice:
        kept = max(0, self.num_beams - num_finished)
        ranked = best_first(open_nodes)
        # The first round has the root alone, from which all beams come.
        at_root = len(ranked) == 1 and ranked[0].depth == 0
        count = self.num_beams * self.num_expansions if at_root else self.num_expansions
        return Choice(ranked[:kept], ranked[kept:], count)

    def is_done(self, num_finished: int) -> bool:
        return num_finished >= self.num_beams


@dataclass(frozen=True)
class DiverseTreeSearch:
    """Several trees that do not compete: each goes on with its own best step (DVTS, as in
    Hugging Face's search-and-learn), so that beams cannot collapse into one."""

    num_trees: int = 4
    num_expansions: int = 4

    def __post_init__(self) -> None:
        _check_positive(num_trees=self.num_trees, num_expansions=self.num_expansions)

    def choose(self, open_nodes: Sequence[Node], num_finished: int) -> Choice:
        if len(open_nodes) == 1 and open_nodes[0].depth == 0:
            return Choice(list(open_nodes), [], self.num_trees * self.num_expansions)
        best: dict[int, Node] = {}
        for node in best_first(open_nodes):
            best.setdefault(node.lineage % self.num_trees, node)
        chosen = {node.id for node in best.values()}
        rest = [node for node in open_nodes if node.id not in chosen]
        return Choice(best_first(list(best.values())), rest, self.num_expansions)

    def is_done(self, num_finished: int) -> bool:
        return False  # each tree ends by itself


@dataclass(frozen=True)
class BestFirstSearch:
    """Always go on from the ``width`` most promising traces of any length; nothing is pruned."""

    num_finished: int = 1
    """Stop with so many finished traces."""
    num_expansions: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        _check_positive(
            num_finished=self.num_finished, num_expansions=self.num_expansions, width=self.width
        )

    def choose(self, open_nodes: Sequence[Node], num_finished: int) -> Choice:
        return Choice(best_first(open_nodes)[: self.width], [], self.num_expansions)

    def is_done(self, num_finished: int) -> bool:
        return num_finished >= self.num_finished


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}, expected at least 1")
