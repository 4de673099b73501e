"""Which branches to go on with: beam search, diverse verifier tree search, best-first. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.search.tree import Node


@dataclass(frozen=True)
class Choice:
    """What to do in the next round. With nothing to expand the search is over."""

    expand: Sequence[tuple[Node, int]]
    """What to go on from, and how many next steps to ask for there."""
    prune: Sequence[Node] = field(default=())
    """What will never be gone on from; the rest stays open."""


class Strategy(Protocol):
    """A rule of search; any object with this method is one. It keeps no state, so that one object
    may steer many searches."""

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        """From the nodes that can be gone on from (at first the root alone) and the traces that are
        complete, both in the order in which they came, to the next round."""
        ...


def by_value(nodes: Sequence[Node]) -> list[Node]:
    """The best first; of equals the one that came first."""
    return sorted(nodes, key=lambda node: (-node.value, node.id))


@dataclass(frozen=True)
class BeamSearch:
    """Keep the best ``num_beams`` traces and try ``num_expansions`` next steps of each (arXiv
    2408.03314). Complete traces compete for the beams too, and the search ends when they hold all
    of them; a complete trace that holds none is kept as a result all the same."""

    num_beams: int = 4
    num_expansions: int = 4

    def __post_init__(self) -> None:
        _check_positive(num_beams=self.num_beams, num_expansions=self.num_expansions)

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        if _is_beginning(open_nodes):
            return Choice([(open_nodes[0], self.num_beams * self.num_expansions)])
        kept = {node.id for node in by_value([*open_nodes, *finished])[: self.num_beams]}
        return Choice(
            [(node, self.num_expansions) for node in by_value(open_nodes) if node.id in kept],
            [node for node in open_nodes if node.id not in kept],
        )


@dataclass(frozen=True)
class DiverseTreeSearch:
    """Several trees that do not compete, so that beams cannot collapse into one (DVTS, of Hugging
    Face's search-and-learn): each goes on with its own best step, until that one is complete."""

    num_trees: int = 4
    num_expansions: int = 4

    def __post_init__(self) -> None:
        _check_positive(num_trees=self.num_trees, num_expansions=self.num_expansions)

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        if _is_beginning(open_nodes):
            return Choice([(open_nodes[0], self.num_trees * self.num_expansions)])
        best: dict[int, Node] = {}
        for node in by_value([*open_nodes, *finished]):
            best.setdefault(node.lineage % self.num_trees, node)
        chosen = {node.id for node in best.values()}
        return Choice(
            [(node, self.num_expansions) for node in by_value(open_nodes) if node.id in chosen],
            [node for node in open_nodes if node.id not in chosen],
        )


@dataclass(frozen=True)
class BestFirstSearch:
    """Always go on from the ``width`` most promising traces, however long they are, until
    ``num_finished`` are complete. Nothing is pruned: a branch may be returned to."""

    num_finished: int = 1
    num_expansions: int = 4
    width: int = 1

    def __post_init__(self) -> None:
        _check_positive(
            num_finished=self.num_finished, num_expansions=self.num_expansions, width=self.width
        )

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        if len(finished) >= self.num_finished:
            return Choice([])
        best = by_value(open_nodes)[: self.width]
        return Choice([(node, self.num_expansions) for node in best])


@dataclass(frozen=True)
class BestOfN:
    """No steering: ``num_traces`` traces are written independently and scored at their end. What
    the others are compared with."""

    num_traces: int = 16

    def __post_init__(self) -> None:
        _check_positive(num_traces=self.num_traces)

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        if _is_beginning(open_nodes):
            return Choice([(open_nodes[0], self.num_traces)])
        # A step that came more than once is one node, and goes on as often as it came.
        return Choice([(node, node.num_proposed) for node in open_nodes])


def _is_beginning(open_nodes: Sequence[Node]) -> bool:
    return len(open_nodes) == 1 and open_nodes[0].parent is None


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        check_whole(name, number)
