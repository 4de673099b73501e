"""Reads the contents of a tensorrt_rtx plan without a GPU.

TensorRT's own inspector needs a GPU to load the engine. A plan built ahead of time holds, as text,
the kernels to compile where it is loaded, the ops of each, and the memory they share. NVIDIA does
not document this, so every figure is optional, and only reports and tests depend on it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

_KERNEL = re.compile(
    rb"(?:function|fully_connected)=\{ name=\"?([\w.]+)\"?[^\n]*? layers=\"([^\"\n]*)\""
)
_OP = re.compile(r"\[ONNX Layer: (\w+)\]")
_TENSOR = re.compile(rb'tensor=\{ [^\n]*?name="([^"\n]+)"[^\n]*? type=(\w+) \}')
_REGION = re.compile(rb"region = \{ name=devmem\w+ size=(\d+)")
_BOUND = re.compile(
    rb"int32_t col_(left|right)_bound\(\s*int32_t row\) const\s*\{\s*return ([^;]+);"
)
_GROUP = re.compile(rb"HEAD_GROUP_SIZE = (\d+);")


@dataclass(frozen=True)
class Kernel:
    name: str
    ops: tuple[str, ...]
    """Names of the graph nodes that it computes, at least in part."""


@dataclass(frozen=True)
class PlanContents:
    kernels: tuple[Kernel, ...]
    tensor_types: dict[str, str]
    """Types of the tensors in device memory: ``half``, ``bf16``, ``float``, ``fp8_e4m3``, …"""
    region_bytes: int | None
    """Device memory for activations in the largest profile; None if the plan does not tell."""
    visible: frozenset[tuple[str, str]]
    """The first and the last key that fused attention lets a query at ``row`` see, as C
    expressions: causal attention ends at ``row``."""
    head_group_sizes: frozenset[int]
    """Query heads per key and value head in fused attention."""

    def fused_attention(self, num_profiles: int = 1) -> list[str]:
        """The Attention nodes that one kernel computes whole, softmax included, in every profile; a
        plan holds its kernels once per profile."""
        found = Counter(
            op
            for kernel in self.kernels
            if "mha" in kernel.name
            for op in kernel.ops
            if op.startswith("Attention_")
        )
        return sorted(op for op, count in found.items() if count == num_profiles)


def read_plan(plan: bytes) -> PlanContents:
    # Each profile's kernels follow a header that names the memory they share.
    regions = [sum(map(int, _REGION.findall(part))) for part in plan.split(b"header {\n")]
    return PlanContents(
        kernels=tuple(_kernels(plan)),
        tensor_types={
            name.decode(errors="replace"): kind.decode() for name, kind in _TENSOR.findall(plan)
        },
        region_bytes=max(regions, default=0) or None,
        visible=frozenset((side.decode(), bound.decode()) for side, bound in _BOUND.findall(plan)),
        head_group_sizes=frozenset(int(size) for size in _GROUP.findall(plan)),
    )


def _kernels(plan: bytes) -> Iterator[Kernel]:
    for name, ops in _KERNEL.findall(plan):
        yield Kernel(name.decode(), tuple(_OP.findall(ops.decode(errors="replace"))))
