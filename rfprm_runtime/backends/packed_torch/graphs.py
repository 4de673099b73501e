"""Short passes as CUDA graphs.

A pass is some ten launches a layer. On a short one the host takes longer to ask for them than the
GPU to do them: 15 ms against 1.4 ms for 512 tokens of a 135M model. A graph asks once.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rfprm_runtime.backends.packed_torch.forward import PassInputs, PassOutputs
from rfprm_runtime.backends.packed_torch.plan import PassPlan, PassShape

_MAX_GRAPHS = 64
_CAPTURED_WHEN_SEEN = 2
"""Times: capturing takes as long as a few passes, too much for a shape that never returns."""

Launch = Callable[[], PassOutputs]
Capture = Callable[[Launch], tuple[Callable[[], None], PassOutputs]]
"""Turns launches into a function that repeats them, and the outputs it writes to."""


@dataclass(frozen=True)
class _Captured:
    replay: Callable[[], None]
    indices: Tensor  # the graph reads its inputs from here
    past: Tensor | None
    outputs: PassOutputs


class PassGraphs:
    """For one thread at a time: a graph's inputs and outputs are always in the same place."""

    def __init__(
        self,
        run: Callable[[PassInputs], PassOutputs],
        device: torch.device,
        *,
        capture: Capture | None = None,
        max_past_bytes: int = 2**28,
    ) -> None:
        """Passes with more than ``max_past_bytes`` of pasts are not graphs: a graph needs them
        copied into its own memory."""
        self._run, self._device, self._max_past_bytes = run, device, max_past_bytes
        self._capture = capture or GpuCapture(device)
        self._captured: OrderedDict[PassShape, _Captured] = OrderedDict()
        self._times_seen: dict[PassShape, int] = {}
        self._past: Tensor | None = None

    def replay(self, plan: PassPlan) -> PassOutputs | None:
        """Outputs that hold until the next replay, with rows behind those of ``plan``; None where
        the pass is not a graph."""
        shape = plan.shape.rounded_up()
        past = plan.pasts.content
        if past is not None and _bytes_of(past, shape.past_tokens) > self._max_past_bytes:
            return None
        captured = self._captured.get(shape)
        if captured is None:
            self._times_seen[shape] = self._times_seen.get(shape, 0) + 1
            if self._times_seen[shape] < _CAPTURED_WHEN_SEEN:
                return None
        indices = torch.from_numpy(plan.indices(shape))
        if captured is None:
            captured = self._add(shape, indices.to(self._device), past)
        self._captured.move_to_end(shape)
        captured.indices.copy_(indices)
        if past is not None and captured.past is not None:
            captured.past[:, : past.shape[1]].copy_(past)
        captured.replay()
        return captured.outputs

    def _add(self, shape: PassShape, indices: Tensor, past: Tensor | None) -> _Captured:
        room = None if past is None else self._room_for(past, shape.past_tokens)
        inputs = PassInputs.of(indices, shape, room)
        replay, outputs = self._capture(lambda: self._run(inputs))
        while len(self._captured) >= _MAX_GRAPHS:
            self._captured.popitem(last=False)
        self._captured[shape] = _Captured(replay, indices, room, outputs)
        return self._captured[shape]

    def _room_for(self, past: Tensor, tokens: int) -> Tensor:
        """A place for the pasts of every graph, since one at a time is replayed. A graph that was
        captured on a smaller one keeps that alive."""
        layers, _, size = past.shape
        if self._past is None or self._past.shape[1] < tokens:
            self._past = past.new_zeros(layers, tokens, size)
        return self._past[:, :tokens]


class GpuCapture:
    """CUDA graphs that share one pool of memory: none runs beside another."""

    def __init__(self, device: torch.device) -> None:
        with torch.cuda.device(device):
            self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, launch: Launch) -> tuple[Callable[[], None], PassOutputs]:
        # Once outside the graph: kernels are compiled, and libraries take their workspaces.
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            launch()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # Other threads may run passes of their own meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            outputs = launch()
        return graph.replay, outputs


def _bytes_of(past: Tensor, tokens: int) -> int:
    layers, _, size = past.shape
    return int(layers * tokens * size * past.element_size())
