"""Cuts the nodes of an ONNX graph into parts that run one after another. Reads no weights."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import onnx
from onnx import TensorProto

_NARROW = {TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN}


@dataclass(frozen=True)
class Part:
    nodes: list[onnx.NodeProto]
    inputs: list[str]
    """What earlier parts, or the caller, have to give."""
    outputs: list[str]
    """What later parts, or the caller, need."""


def cut(
    nodes: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    outputs: Collection[str],
    most_bytes: int,
) -> list[Part]:
    """``nodes`` in consecutive parts with weights of at most ``most_bytes``, cut where rows have to
    carry the fewest tensors: between layers, that is the residual stream and the positions.

    ``sizes``: bytes of the weights by name. ``outputs``: of the graph.
    """
    narrow = {name for node in nodes if _is_narrow(node) for name in node.output}
    carried = [None, *_crossing(nodes, outputs)]
    costs = {at: len(c) for at, c in enumerate(carried) if c is not None and not c & narrow}
    bounds, start = [0], 0
    while start < len(nodes):
        stop = _as_far_as(nodes, sizes, start, most_bytes)
        if stop < len(nodes):
            places = [at for at in range(start + 1, stop + 1) if at in costs]
            # The last of the best, so that parts are few.
            best = min(places, key=lambda at: (costs[at], -at), default=None)
            stop = best or next(at for at in range(stop + 1, len(nodes) + 1) if at in costs)
        bounds.append(stop)
        start = stop
    parts = [_part(nodes[a:b], nodes[b:], sizes, outputs) for a, b in pairwise(bounds)]
    return [part for part in parts if part.outputs]  # nobody uses what is in the others


def _as_far_as(
    nodes: Sequence[onnx.NodeProto], sizes: Mapping[str, int], start: int, most_bytes: int
) -> int:
    """Where a part that begins at ``start`` has to end, with one node or more."""
    seen: set[str] = set()
    total = 0
    for stop in range(start, len(nodes)):
        new = {name for name in nodes[stop].input if name in sizes} - seen
        total += sum(sizes[name] for name in new)
        seen |= new
        if total > most_bytes:
            return max(stop, start + 1)
    return len(nodes)


def _crossing(nodes: Sequence[onnx.NodeProto], outputs: Collection[str]) -> list[set[str]]:
    """For each node, what later nodes need of it and of those before."""
    last_use = {name: at for at, node in enumerate(nodes) for name in node.input}
    crossing: list[set[str]] = []
    alive: set[str] = set()
    for at, node in enumerate(nodes):
        alive = {name for name in (*alive, *node.output) if last_use.get(name, -1) > at}
        crossing.append(alive - set(outputs))
    return crossing


def _is_narrow(node: onnx.NodeProto) -> bool:
    """Whether it gives floats that numpy does not have, so that no row can carry them."""
    if node.op_type == "Cast":
        return any(item.name == "to" and item.i in _NARROW for item in node.attribute)
    return bool(node.op_type == "QuantizeLinear")


def _part(
    nodes: Sequence[onnx.NodeProto],
    later: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    outputs: Collection[str],
) -> Part:
    made = {name for node in nodes for name in node.output if name}
    used = {name for node in nodes for name in node.input if name}
    needed = {name for node in later for name in node.input} | set(outputs)
    return Part(list(nodes), sorted(used - made - set(sizes)), sorted(made & needed))


def outputs_first(
    nodes: Sequence[onnx.NodeProto], outputs: Collection[str]
) -> list[onnx.NodeProto]:
    """The nodes, with those that only name an output right after what they name, so that no row
    carries it to the end."""
    naming = {n.input[0]: n for n in nodes if n.op_type == "Identity" and n.output[0] in outputs}
    ordered: list[onnx.NodeProto] = []
    for node in nodes:
        if node not in naming.values():
            ordered.append(node)
            ordered += [naming[name] for name in node.output if name in naming]
    return ordered
