"""The tree of a search: every proposed step, its score and its fate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rfprm_runtime.errors import MissingExtraError, RfprmError
from rfprm_runtime.ground.strict_json import read_json
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_runtime.sessions.session import Session
from rfprm_runtime.types import Float32Array, Trajectory, TrajectoryScore

if TYPE_CHECKING:
    from matplotlib.figure import Figure

State = Literal["open", "expanded", "finished", "pruned", "hopeless", "too_deep", "failed"]
_MAX_BYTES = 256 * 2**20
_FORMAT = 1
_COLORS = {"finished": "#0b6e4f", "expanded": "#3a6ea5", "open": "#3a6ea5", "failed": "#b00020"}


@dataclass
class Node:
    """One step of the tree; the root has no step."""

    id: int
    parent: int | None
    depth: int
    """Number of steps from the question to here."""
    step: str = ""
    step_scores: Float32Array = field(default_factory=lambda: np.zeros(0, np.float32))
    """float32 [depth], of the whole path."""
    value: float = 0.0
    """Value of the trace so far, by which branches are compared."""
    num_proposed: int = 1
    """How often this very step was proposed here."""
    num_tokens: int = 0
    """Tokens the policy spent on it, counted once."""
    state: State = "open"
    reason: str = ""
    """Why it failed or was given up."""
    lineage: int = 0
    """Which child of the root it descends from, counted from 0 in order of the proposals."""
    response: tuple[str, ...] = ()
    score: TrajectoryScore | None = None
    """Set for finished traces."""
    final_value: float | None = None
    """Value of a finished trace, by which finished traces are compared."""
    session: Session | None = field(default=None, repr=False, compare=False)

    def leave(self, state: State, reason: str = "") -> None:
        """Take the node out of the search and free its session."""
        self.state, self.reason = state, reason
        self.free()

    def free(self) -> None:
        """Close its session, if there is one."""
        if self.session is not None:
            self.session.close()
            self.session = None


class SearchTree:
    """Nodes in order of creation; ``nodes[i].id == i``."""

    def __init__(self, question: str) -> None:
        self.question = question
        self.nodes = [Node(id=0, parent=None, depth=0)]
        self._num_lineages = 0

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def add(self, parent: Node, step: str) -> Node:
        lineage = parent.lineage
        if parent.id == 0:
            lineage = self._num_lineages
            self._num_lineages += 1
        node = Node(len(self.nodes), parent.id, parent.depth + 1, step, lineage=lineage)
        self.nodes.append(node)
        return node

    def path(self, node: Node) -> tuple[str, ...]:
        """The steps from the question to ``node``, without a blank one that only ends the trace."""
        steps = [n.step for n in self.ancestors(node) if n.step]
        return tuple(steps[::-1])

    def trajectory(self, node: Node) -> Trajectory:
        """The trace that ends at ``node``, with its response."""
        return Trajectory(question=self.question, steps=self.path(node), response=node.response)

    def ancestors(self, node: Node) -> Iterator[Node]:
        """``node`` and its ancestors, without the root."""
        while node.parent is not None:
            yield node
            node = self.nodes[node.parent]

    def with_state(self, state: State) -> list[Node]:
        return [node for node in self.nodes if node.state == state]

    def as_dict(self) -> dict[str, Any]:
        """The whole tree as JSON values."""
        return {
            "format": _FORMAT,
            "question": self.question,
            "nodes": [
                {
                    "id": node.id,
                    "parent": node.parent,
                    "step": node.step,
                    "step_score": float(node.step_scores[-1]) if len(node.step_scores) else None,
                    "value": node.value,
                    "final_value": node.final_value,
                    "num_proposed": node.num_proposed,
                    "num_tokens": node.num_tokens,
                    "state": node.state,
                    "reason": node.reason,
                    "response": list(node.response),
                    "score": None if node.score is None else node.score.model_dump(),
                }
                for node in self.nodes
            ],
        }

    def save(self, path: str | Path) -> None:
        """Write the tree as JSON, whole or not at all."""
        write_whole(Path(path), json.dumps(self.as_dict(), ensure_ascii=False, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> SearchTree:
        """Read what :meth:`save` wrote. Raises :class:`RfprmError` for any other file."""
        content = read_json(
            Path(path), refusal=RfprmError, way_out="save the tree again", max_bytes=_MAX_BYTES
        )
        try:
            if content["format"] != _FORMAT:
                raise RfprmError(
                    f"{path} holds no search tree of format {_FORMAT} but of format "
                    f"{content['format']!r}; save it again"
                )
            tree = cls(content["question"])
            for row in content["nodes"]:
                _read_node(tree, row)
        except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise RfprmError(f"{path} holds no search tree: {error!r}; save it again") from None
        return tree

    def plot(self, best: Node | None = None) -> Figure:
        """Draw the tree from left to right. The colour shows what became of a step, the number is
        its score, and the path to ``best`` is bold. The number in brackets after the last step of a
        complete trace is its final value, by which the best is chosen. Needs the extra ``plots``.

        Raises :class:`MissingExtraError` if matplotlib is not installed."""
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise MissingExtraError("matplotlib", "plots", "drawing a tree") from None
        heights = _leaf_heights(self)
        depth = max(node.depth for node in self.nodes)
        figure = Figure(figsize=(2 + 1.6 * depth, 1 + 0.3 * max(heights)), layout="constrained")
        axes = figure.subplots()
        bold = set() if best is None else {node.id for node in self.ancestors(best)}
        for node in self.nodes[1:]:
            assert node.parent is not None
            width = 2.5 if node.id in bold else 0.8
            ends = (node.depth - 1, node.depth), (heights[node.parent], heights[node.id])
            color = _COLORS.get(node.state, "0.6")
            axes.plot(*ends, color=color if node.id in bold else "0.75", linewidth=width, zorder=1)
            axes.plot(node.depth, heights[node.id], "o", color=color, markersize=5, zorder=2)
            if len(node.step_scores):
                whole = "" if node.final_value is None else f" ({node.final_value:.2f})"
                axes.annotate(
                    f"{node.step_scores[-1]:.2f}{whole}",
                    (node.depth, heights[node.id]),
                    xytext=(0, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=color,
                    fontweight="bold" if best is not None and node.id == best.id else "normal",
                    ha="center",
                )
        axes.plot(0, heights[0], "o", color="black", markersize=6)
        for state in ("finished", "expanded", "pruned", "failed"):
            axes.plot([], [], "o", color=_COLORS.get(state, "0.6"), label=state)
        axes.legend(fontsize="x-small", loc="lower left", frameon=False)
        axes.set(xlabel="steps", xlim=(-0.3, depth + 0.3), yticks=[], xticks=range(depth + 1))
        axes.set_title(self.question[:70], parse_math=False)  # "$3 and $5" is not a formula
        axes.spines[["left", "right", "top"]].set_visible(False)
        return figure


def _read_node(tree: SearchTree, row: dict[str, Any]) -> None:
    if row["parent"] is None:
        node = tree.root
    else:
        node = tree.add(tree.nodes[row["parent"]], row["step"])
        before = tree.nodes[row["parent"]].step_scores
        if row["step_score"] is not None:  # failed nodes have none
            own = [np.float32(row["step_score"])] if row["step"] else []
            node.step_scores = np.append(before, own).astype(np.float32)
    node.value, node.state, node.reason = row["value"], row["state"], row["reason"]
    node.final_value = row["final_value"]
    node.num_proposed, node.num_tokens = row["num_proposed"], row["num_tokens"]
    node.response = tuple(row["response"])
    node.score = None if row["score"] is None else TrajectoryScore(**row["score"])


def _leaf_heights(tree: SearchTree) -> list[float]:
    """The height of each node: leaves one below another, parents centred on their children."""
    children: list[list[int]] = [[] for _ in tree.nodes]
    for node in tree.nodes[1:]:
        assert node.parent is not None
        children[node.parent].append(node.id)
    heights = [0.0] * len(tree.nodes)
    leaves = 0
    order, stack = [], [0]
    while stack:
        order.append(stack.pop())
        stack.extend(children[order[-1]])
    for index in order:
        if not children[index]:
            heights[index] = float(leaves)
            leaves += 1
    for index in reversed(order):
        if children[index]:
            heights[index] = float(np.mean([heights[child] for child in children[index]]))
    return heights
