"""Which branches to expand: beam search, diverse verifier tree search, best-first. All pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rfprm_runtime.ground.arguments import check_whole
from rfprm_runtime.search.tree import Node


@dataclass(frozen=True)
class Choice:
    """What to do in the next round. With nothing to expand, the search is over."""

    expand: Sequence[tuple[Node, int]]
    """The nodes to continue, each with the number of next steps to ask for."""
    prune: Sequence[Node] = field(default=())
    """The nodes to give up; all others stay open."""


class Strategy(Protocol):
    """Decides which branches to expand; any object with this method is a strategy. It keeps no
    state, so one object can steer many searches."""

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        """Choose the next round from the open nodes (at first the root alone) and the ends of
        complete traces, both in order of creation."""
        ...


def by_value(nodes: Sequence[Node]) -> list[Node]:
    """The nodes, best first; ties in order of creation."""
    return sorted(nodes, key=lambda node: (-node.value, node.id))


@dataclass(frozen=True)
class BeamSearch:
    """Keep the best ``num_beams`` traces and try ``num_expansions`` next steps for each (arXiv
    2408.03314). Complete traces compete for the beams too, and the search ends when they hold all
    beams; a complete trace without a beam still is a result."""

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
    """Several trees that do not compete, so beams cannot collapse into one (DVTS, from Hugging
    Face's search-and-learn): each continues its own best step until that trace is complete."""

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
    """Always continue the ``width`` most promising traces, however long they are, until
    ``num_finished`` are complete. It prunes nothing, so it may return to any branch."""

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
    """No steering: ``num_traces`` traces are written independently and scored at the end. The
    baseline for the other strategies."""

    num_traces: int = 16

    def __post_init__(self) -> None:
        _check_positive(num_traces=self.num_traces)

    def choose(self, open_nodes: Sequence[Node], finished: Sequence[Node]) -> Choice:
        if _is_beginning(open_nodes):
            return Choice([(open_nodes[0], self.num_traces)])
        # A step proposed several times is one node; continue it that often.
        return Choice([(node, node.num_proposed) for node in open_nodes])


def _is_beginning(open_nodes: Sequence[Node]) -> bool:
    return len(open_nodes) == 1 and open_nodes[0].parent is None


def _check_positive(**numbers: int) -> None:
    for name, number in numbers.items():
        check_whole(name, number)
