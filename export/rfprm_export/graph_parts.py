"""Runs a written graph in parts, for graphs larger than the memory. Knows ONNX, no networks.

The graph is cut between nodes, so that each part has a limited amount of weights. All rows go
through one part after another, and only its weights are in memory, beside what rows carry from part
to part.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from rfprm_export.graph_cut import Part, cut, outputs_first
from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.onnx_file import check_listed, external_files
from rfprm_runtime.backends.walk import Walk
from rfprm_runtime.engine.cores import usable_cores
from rfprm_runtime.engine.rows import ALL_ROWS_AT_ONCE, TokenBatch, TokenRow, rows_of

PART_BYTES = 2**30
"""The most weights of a part, unless a single node has more."""
Tensors = dict[str, NDArray[Any]]


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
        nodes = outputs_first(list(graph.node), self.outputs)
        sizes = {name: _num_bytes(tensor) for name, tensor in self._weights.items()}
        self._parts = cut(nodes, sizes, self.outputs, PART_BYTES)

    def run(self, rows: Sequence[Mapping[str, NDArray[Any]]], threads: int) -> list[Tensors]:
        """The outputs for the inputs of each row; ``threads`` rows run at once."""
        carried: list[Tensors] = [dict(row) for row in rows]
        with ThreadPoolExecutor(threads) as pool:
            for index, part in enumerate(self._parts):
                session = self._session(part, carried[0])

                def step(tensors: Tensors, part: Part = part, session: Any = session) -> Tensors:
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

    def _session(self, part: Part, row: Tensors) -> Any:
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


def _num_bytes(tensor: TensorProto) -> int:
    for entry in tensor.external_data:
        if entry.key == "length":
            return int(entry.value)
    return int(tensor.ByteSize())


def _value(name: str, array: NDArray[Any]) -> onnx.ValueInfoProto:
    """Of the type and with the dimensions of ``array``, of any size."""
    kind = helper.np_dtype_to_tensor_dtype(array.dtype)
    return helper.make_tensor_value_info(name, kind, [None] * array.ndim)
