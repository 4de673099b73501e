"""The backend: checks what it is given, keeps the weights, and runs passes over them."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rfprm_runtime.artifact.contents import ModelFile
from rfprm_runtime.artifact.manifest import Backbone, Manifest
from rfprm_runtime.backends.packed_torch.attention import (
    attend_at_once,
    attend_by_row,
    can_use_flash,
)
from rfprm_runtime.backends.packed_torch.forward import Forward, PassInputs, PassOutputs
from rfprm_runtime.backends.packed_torch.graphs import PassGraphs
from rfprm_runtime.backends.packed_torch.operations import operations_for
from rfprm_runtime.backends.packed_torch.pasts import TorchBlock, TorchPast
from rfprm_runtime.backends.packed_torch.plan import PassPlan, past_of
from rfprm_runtime.backends.packed_torch.weights import PackedWeights, pack_weights
from rfprm_runtime.backends.rotary import rotary_tables
from rfprm_runtime.backends.torch import (
    DType,
    PRMNetwork,
    describe,
    find_device,
    load_network,
    moving_to,
)
from rfprm_runtime.engine.rows import BackendLimits, Extended, Extension, TokenBatch
from rfprm_runtime.errors import BackendError
from rfprm_runtime.ground.arguments import check_choice, check_flag, check_whole

if TYPE_CHECKING:
    from typing_extensions import Self

_GRAPH_OPERATIONS = 6e12
"""A pass with fewer operations runs as a graph, or the GPU would be done before the host has
launched it (measured on an H200; docs/log.md)."""

_GPU_BATCH_TOKENS = 32_768
_CPU_BATCH_TOKENS = 4_096
"""Enough to fill a CPU; progress is told, and memory freed, after every pass."""


class PackedTorchBackend:
    """A :class:`~rfprm_runtime.engine.backend.CachingBackend`, to the rounding of its type: a
    score may differ by about 1e-6 (float32) or 1e-2 (bfloat16) with what runs beside it."""

    def __init__(
        self,
        network: PRMNetwork,
        *,
        device: str | torch.device | None = None,
        dtype: DType = "float32",
        max_batch_tokens: int | None = None,
        cuda_graphs: bool = True,
    ) -> None:
        """``max_batch_tokens``: new tokens of one pass over the weights, by default 32,768 on a GPU
        and 4,096 elsewhere. ``cuda_graphs``: short passes are captured, where the device can.
        ``network`` is copied.

        Raises :class:`InvalidArgumentError` for a device or type that torch does not know, and
        :class:`BackendError` where torch does not have the device.
        """
        if max_batch_tokens is not None:
            check_whole("max_batch_tokens", max_batch_tokens)
        check_choice("dtype", dtype, get_args(DType))
        check_flag("cuda_graphs", cuda_graphs)
        self._device = find_device(device)
        with moving_to(self._device):
            weights = pack_weights(network, self._device, getattr(torch, dtype))
        flash = can_use_flash(self._device, weights.dtype, weights.shape.head_dim)
        attend = attend_at_once if flash else attend_by_row
        self._forward: Forward | None = Forward(weights, operations_for(self._device), attend)
        self._rotary = _RotaryTables(weights.shape, self._device)
        self._graphs: PassGraphs | None = None
        self._graphs_lock = threading.Lock()
        if cuda_graphs and flash:
            self._graphs = PassGraphs(self._launch, self._device)
        self._graph_tokens = int(_GRAPH_OPERATIONS / _operations_of_a_token(weights))
        usual = _GPU_BATCH_TOKENS if self._device.type == "cuda" else _CPU_BATCH_TOKENS
        tokens = max_batch_tokens or usual
        self.limits = BackendLimits(max_batch_size=256, max_batch_tokens=tokens)
        self.description = f"{describe(self._device, dtype)}, packed"

    @classmethod
    def load(cls, file: Path | ModelFile, manifest: Manifest, **options: Any) -> Self:
        """From the ``model.safetensors`` of an artifact; ``options`` are those of the class."""
        return cls(load_network(file, manifest), **options)

    def run(self, batch: TokenBatch, threads: int = 1) -> NDArray[np.float32]:
        length = batch.token_ids.shape[1]
        rows, columns = np.divmod(batch.marker_positions, length)
        items = [
            Extension(ids[:size], columns[rows == row])
            for row, (ids, size) in enumerate(zip(batch.token_ids, batch.lengths, strict=True))
        ]
        return np.concatenate([extended.logits for extended in self.extend(items)])

    def extend(self, extensions: Sequence[Extension], threads: int = 1) -> list[Extended]:
        """See :class:`~rfprm_runtime.engine.backend.CachingBackend`."""
        if self._forward is None:
            raise BackendError("the backend was closed; load the scorer again")
        for item in extensions:
            if not isinstance(item.past, TorchPast | None):
                raise BackendError(
                    f"got a past of type {type(item.past).__name__}, expected one that this "
                    "backend made"
                )
        plan = PassPlan(extensions)
        with self._on_device(plan), torch.inference_mode():
            if self._graphs is not None and plan.shape.tokens <= self._graph_tokens:
                with self._graphs_lock:
                    outputs = self._graphs.replay(plan)
                    if outputs is not None:
                        return _extended(plan, outputs, is_shared=True)
            indices = torch.from_numpy(plan.indices(plan.shape)).to(self._device)
            inputs = PassInputs.of(indices, plan.shape, plan.pasts.content)
            return _extended(plan, self._launch(inputs), is_shared=False)

    def _launch(self, inputs: PassInputs) -> PassOutputs:
        if self._forward is None:
            raise BackendError("the backend was closed; load the scorer again")
        return self._forward(inputs, *self._rotary.of(inputs.spans.longest_key))

    @contextmanager
    def _on_device(self, plan: PassPlan) -> Iterator[None]:
        try:
            if self._device.type != "cuda":
                yield
                return
            with torch.cuda.device(self._device):  # Triton launches on the current one
                yield
        except torch.OutOfMemoryError as error:
            raise BackendError(
                f"the device is out of memory with {plan.shape.tokens} tokens in a pass; load "
                "with a smaller max_batch_tokens or session_bytes"
            ) from error

    def close(self) -> None:
        with self._graphs_lock:
            self._forward = self._graphs = None


def _extended(plan: PassPlan, outputs: PassOutputs, *, is_shared: bool) -> list[Extended]:
    """The result of each row. ``is_shared``: the next pass overwrites the outputs."""
    pasts = _pasts_made(plan, outputs.kept, is_shared=is_shared)
    # This waits for the device, copies of pasts included.
    logits = outputs.logits.cpu().numpy()
    counts = np.cumsum([0, *(len(item.marker_positions) for item in plan.items)])
    return [
        Extended(logits[begin:end].copy(), past)
        for (begin, end), past in zip(itertools.pairwise(counts), pasts, strict=True)
    ]


def _pasts_made(plan: PassPlan, kept: Tensor | None, *, is_shared: bool) -> list[TorchPast | None]:
    pasts: list[TorchPast | None] = []
    begin = 0
    for item in plan.items:
        if not item.keep or kept is None:
            pasts.append(None)
            continue
        content = kept[:, begin : begin + len(item.token_ids)]
        begin += len(item.token_ids)
        # A copy of its own, or it would keep the memory of the rows beside it alive.
        if is_shared or content.shape != kept.shape:
            content = content.clone()
        before = past_of(item)
        pasts.append(TorchPast((*(before.blocks if before else ()), TorchBlock(content))))
    return pasts


def _operations_of_a_token(weights: PackedWeights) -> int:
    linears = [(x.qkv, x.output, x.gate_up, x.down) for x in weights.layers]
    return 2 * sum(linear.weight.numel() for layer in linears for linear in layer)


class _RotaryTables:
    """Of as many positions as were ever asked for."""

    def __init__(self, shape: Backbone, device: torch.device) -> None:
        self._shape, self._device = shape, device
        self._lock = threading.Lock()
        # Shorter ones stay: CUDA graphs go on reading them.
        self._tables = [(torch.empty(0), torch.empty(0))]

    def of(self, longest: int) -> tuple[Tensor, Tensor]:
        """cos and sin, float32 [at least ``longest``, head_dim / 2] each."""
        with self._lock:
            if len(self._tables[-1][0]) < longest:
                room = 1 << (longest - 1).bit_length()
                cos, sin = rotary_tables(room, self._shape)
                on_device = (
                    torch.from_numpy(cos).to(self._device),
                    torch.from_numpy(sin).to(self._device),
                )
                self._tables.append(on_device)
            return self._tables[-1]
