"""Runs a written graph in parts, for graphs larger than the memory. Knows ONNX, no networks.

The graph is cut between nodes, so that each part has a limited amount of weights. All rows go
through one part after another, and only its weights are in memory, beside what rows carry from part
to part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.onnx_file import check_listed, external_files
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.engine.rows import ALL_ROWS_AT_ONCE, TokenBatch, TokenRow, rows_of

PART_BYTES = 2**30
"""The most weights of a part, unless a single node has more."""
_NARROW = {TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN}
Tensors = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class _Part:
    nodes: list[onnx.NodeProto]
    inputs: list[str]
    """What earlier parts, or the caller, have to give."""
    outputs: list[str]
    """What later parts, or the caller, need."""


class GraphParts:
    """A graph whose weights stay in its file."""

    def __init__(self, file: ModelFile, walk: Walk | None = None) -> None:
        """Raises :class:`ArtifactError` if a file of it cannot be read, or is not what its record
        says. So does running, once it was changed."""
        self._folder, self.walk = file.path.parent, walk or Walk()
        self._watched = [file.watch()]
        names = external_files(file.path)
        check_listed(names, file.path, file.files.records or None)
        self._watched += [file.files.watch(name) for name in sorted(names)]
        self._model = onnx.load(str(file.path), load_external_data=False)
        graph = self._model.graph
        self._weights = {tensor.name: tensor for tensor in graph.initializer}
        self.inputs = [value.name for value in graph.input]
        self.outputs = [value.name for value in graph.output]
        nodes = _outputs_first(list(graph.node), self.outputs)
        sizes = {name: _num_bytes(tensor) for name, tensor in self._weights.items()}
        self._parts = cut(nodes, sizes, self.outputs, PART_BYTES)

    def run(self, rows: Sequence[Mapping[str, NDArray[Any]]], threads: int) -> list[Tensors]:
        """The outputs for the inputs of each row; ``threads`` rows run at once."""
        carried: list[Tensors] = [dict(row) for row in rows]
        with ThreadPoolExecutor(threads) as pool:
            for index, part in enumerate(self._parts):
                session = self._session(part, carried[0])

                def step(tensors: Tensors, part: _Part = part, session: Any = session) -> Tensors:
                    self.walk.check()
                    feeds = {name: tensors[name] for name in part.inputs}
                    found = session.run(part.outputs, feeds)
                    return tensors | dict(zip(part.outputs, found, strict=True))

                needed = self._needed_after(index)
                found = list(pool.map(step, carried))
                carried = [{n: x for n, x in row.items() if n in needed} for row in found]
                for file in self._watched:
                    file.check()
                self.walk.reached(index + 1, len(self._parts))
        return carried

    def _needed_after(self, index: int) -> set[str]:
        later = {name for part in self._parts[index + 1 :] for name in part.inputs}
        return later | set(self.outputs)

    def _session(self, part: _Part, row: Tensors) -> Any:
        """A session of one part. ``row`` has its inputs, whose types it then has."""
        import onnxruntime as ort

        used = {name for node in part.nodes for name in node.input}
        graph = helper.make_graph(
            part.nodes,
            "part",
            [_value(name, row[name]) for name in part.inputs],
            [onnx.ValueInfoProto(name=name) for name in part.outputs],
            [tensor for name, tensor in self._weights.items() if name in used],
        )
        model = helper.make_model(
            graph, opset_imports=self._model.opset_import, ir_version=self._model.ir_version
        )
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.enable_mem_pattern = False
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry(
            "session.model_external_initializers_file_folder_path", str(self._folder)
        )
        return ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


class OnnxInParts:
    """A backend that runs ``model.onnx`` on a CPU, all rows of a call at once."""

    limits = ALL_ROWS_AT_ONCE

    def __init__(self, file: ModelFile, manifest: Manifest, walk: Walk | None = None) -> None:
        """Raises what :class:`GraphParts` raises."""
        import onnxruntime as ort

        self._graph, self._threads = GraphParts(file, walk), usable_cores(None)
        self.walk = self._graph.walk
        self.description = (
            f"onnxruntime {ort.__version__}, CPUExecutionProvider, {self._threads} thread(s), in "
            "parts"
        )

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        rows = [feeds_of(row, self._graph.inputs) for row in rows_of(batch)]
        return np.concatenate([found["logits"] for found in self._graph.run(rows, self._threads)])

    def close(self) -> None:
        pass  # between runs it holds no weights


def feeds_of(row: TokenRow, names: Collection[str]) -> dict[str, NDArray[np.int64]]:
    """The inputs of a PRM's graph for one row."""
    feeds = {
        "token_ids": row.token_ids[None],
        "lengths": np.array([row.num_tokens], np.int64),
        "marker_positions": row.marker_positions,
    }
    return {name: feeds[name] for name in names}


def cut(
    nodes: Sequence[onnx.NodeProto],
    sizes: Mapping[str, int],
    outputs: Collection[str],
    most_bytes: int,
) -> list[_Part]:
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
) -> _Part:
    made = {name for node in nodes for name in node.output if name}
    used = {name for node in nodes for name in node.input if name}
    needed = {name for node in later for name in node.input} | set(outputs)
    return _Part(list(nodes), sorted(used - made - set(sizes)), sorted(made & needed))


def _outputs_first(
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


def _num_bytes(tensor: TensorProto) -> int:
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return int(tensor.ByteSize())


def _value(name: str, array: NDArray[Any]) -> onnx.ValueInfoProto:
    """Of the type and with the dimensions of ``array``, of any size."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)
