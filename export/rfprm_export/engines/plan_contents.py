"""What is inside a plan of tensorrt_rtx, read without a GPU.

TensorRT's own inspector needs a GPU to load the engine. A plan that was built ahead of time holds,
in text, the kernels that will be compiled where it is loaded, with the ops that each one covers,
and the memory that they share; that is what is read here. Undocumented by NVIDIA, so every figure
is optional and nothing but reports and tests depends on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_KERNEL = re.compile(
    rb"(?:function|fully_connected)=\{ name=\"?([\w.]+)\"?[^\n]*? layers=\"([^\"\n]*)\""
)
_OP = re.compile(r"\[ONNX Layer: (\w+)\]")
_TENSOR = re.compile(rb'tensor=\{ [^\n]*?name="([^"\n]+)"[^\n]*? type=(\w+) \}')
_REGION = re.compile(rb"region = \{ name=devmem\w+ size=(\d+)")
_MASK = re.compile(rb"bool mask_pred\([^{}]*?\) const\s*[{\x00-\x1f\s]*return ([^;]+);")
_GROUP = re.compile(rb"HEAD_GROUP_SIZE = (\d+);")


@dataclass(frozen=True)
class Kernel:
    name: str
    ops: tuple[str, ...]
    """Names of the graph's nodes that it computes, or a part of."""


@dataclass(frozen=True)
class PlanContents:
    kernels: tuple[Kernel, ...]
    tensor_types: dict[str, str]
    """``half``, ``bfloat16``, ``float``, … of what lies in device memory."""
    region_bytes: int | None
    """Device memory for activations at the largest profile; None where the plan does not tell."""
    masks: frozenset[str]
    """Which key (``col``) a query (``row``) of fused attention sees, in C."""
    head_group_sizes: frozenset[int]
    """Query heads to a key and value head, of fused attention."""

    def fused_attention(self) -> list[str]:
        """The Attention nodes that one kernel computes, softmax included."""
        return sorted(
            op
            for kernel in self.kernels
            if "mha" in kernel.name
            for op in kernel.ops
            if op.startswith("Attention_")
        )


def read_plan(plan: bytes) -> PlanContents:
    regions = [int(size) for size in _REGION.findall(plan)]
    return PlanContents(
        kernels=tuple(_kernels(plan)),
        tensor_types={
            name.decode(errors="replace"): kind.decode() for name, kind in _TENSOR.findall(plan)
        },
        region_bytes=sum(regions) if regions else None,
        masks=frozenset(" ".join(mask.decode().split()) for mask in _MASK.findall(plan)),
        head_group_sizes=frozenset(int(size) for size in _GROUP.findall(plan)),
    )


def _kernels(plan: bytes) -> Iterator[Kernel]:
    for name, ops in _KERNEL.findall(plan):
        yield Kernel(name.decode(), tuple(_OP.findall(ops.decode(errors="replace"))))
