"""What a manifest records of how its models were made: precisions, fidelity, TensorRT engines."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from rfprm_runtime.artifact.record import Count, Record, Size
from rfprm_runtime.errors import ManifestError


class ProductRecord(Record):
    """How many bits the weights and inputs of one linear have."""

    name: str
    """``layers.3.down`` for the native kernels, whose parts are ``qkv``, ``output``, ``gate_up``
    and ``down``; the name of the weight for a graph."""
    bits: Literal[8, 16]
    difference: float | None = None
    """Mean difference of a score when this linear (in a graph, its layer) has 8 bits and the
    others have 16; None if all of them could have 8."""


class Parity(Record):
    """How far the exported model is from the reference network, measured at export."""

    reference: str
    """What the scores were compared with, and its version."""
    measured_on: str = ""
    """The backend whose scores were compared."""
    traces: str
    num_trajectories: Count
    num_scores: Count
    max_difference: float
    mean_difference: float
    """Both as shares of ``unit``."""
    unit: float = Field(default=1.0, gt=0)
    """How far the scores reach: the width of their bounds, or for scores without bounds that of an
    even spread with the reference's standard deviation."""
    spearman: float | None
    """Rank agreement of all scores; None if every score is the same."""
    num_groups: Count = 0
    """Questions with four trajectories or more; the first four compete."""
    same_best_of_4: float | None = None
    """Share of those groups in which both give the highest reward to the same trajectory."""


class Range(Record):
    """The sizes of one dimension, and the one that a TensorRT engine is optimised for."""

    min: Size
    opt: Size
    max: Size

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.min <= self.opt <= self.max:
            raise ManifestError(f"got {self.min}, {self.opt}, {self.max}, expected min ≤ opt ≤ max")
        return self

    def __contains__(self, size: int) -> bool:
        return self.min <= size <= self.max


class EngineProfile(Record):
    """Shapes that a TensorRT engine takes: ``token_ids`` [batch, length], ``marker_positions``
    [num_markers]."""

    batch: Range
    length: Range
    num_markers: Range

    def takes(self, batch: int, length: int, num_markers: int) -> bool:
        return batch in self.batch and length in self.length and num_markers in self.num_markers


EngineFlavour = Literal["tensorrt", "tensorrt_rtx"]


class EngineRecord(Record):
    """How ``model.plan`` was built, and what it therefore runs on."""

    flavour: EngineFlavour
    version: str
    compute_capabilities: tuple[str, ...]
    """``8.9``, …: the GPUs it was built for."""
    hardware_compatibility: Literal["none", "ampere_plus", "same_compute_capability"] = "none"
    """Which other GPUs run it too (``tensorrt`` only)."""
    version_compatible: bool = False
    """Whether later versions of the flavour run it too."""
    profiles: tuple[EngineProfile, ...] = Field(min_length=1)
    graph_sha256: str
    """Of ``model.onnx``, which does not depend on the network's weights."""
    model_positions: Size | None = None
    """The model's positions; the profiles may cover fewer."""
    weights: Literal["inside", "stripped"] = "inside"
    """``stripped``: the plan has none and gets those of ``model.onnx`` when it is loaded."""
    build_seconds: float
    peak_host_bytes: Count | None
    """Of the whole process that built it."""
    device_bytes: Count | None = None
    """What the largest profile takes besides the weights, if the builder says."""
    parity: Parity | None = None
    """Measured on the TensorRT engine itself; None if it was built without a GPU to run it."""
