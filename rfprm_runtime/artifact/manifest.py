"""``prm.json``: everything the runtime must know about a PRM besides its weights.

The manifest is data; differences between model families live here, not in subclasses.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, ValidationError, model_validator

from rfprm_runtime.artifact.migrations import migrate
from rfprm_runtime.artifact.rope_scaling import RopeScaling, YarnScaling
from rfprm_runtime.errors import ArtifactError, ManifestError
from rfprm_runtime.ground.arguments import check_sha256
from rfprm_runtime.ground.names import FileName, file_in, holds_file
from rfprm_runtime.ground.strict_json import MAX_BYTES, parse_json
from rfprm_runtime.ground.validated import Validated, one_line

Precision = Literal["fp32", "fp16", "bf16", "fp8", "w8a16", "int16", "int8"]
GPU_PRECISIONS = ("fp16", "bf16", "fp8", "w8a16")
MANIFEST_NAME = "prm.json"
# Model files that more than their own backend has to do with.
ONNX_NAME = "model.onnx"
NATIVE_NAME = "model.native.safetensors"
PLAN_NAME = "model.plan"
TORCH_NAME = "model.safetensors"
TOKENIZER_NAME = "tokenizer.json"
_AGAIN = "export the artifact again"


# Far beyond every model; what is within them fits every type and product that it goes into.
Size = Annotated[int, Field(gt=0, le=2**24)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Record(Validated):
    """No number of a manifest is NaN or infinite."""

    model_config = ConfigDict(allow_inf_nan=False)
    refusal = ManifestError

    @classmethod
    def _refuse(cls, error: ValidationError) -> ManifestError:
        unknown = any(problem["type"] == "extra_forbidden" for problem in error.errors())
        hint = "; if a later rfprm_runtime wrote it, upgrade this one" if unknown else ""
        return ManifestError(one_line(error) + hint)


class Backbone(_Record):
    """Shape of a Llama-style decoder (Llama, Qwen2, Qwen3, …)."""

    hidden_size: Size
    num_layers: Size
    num_heads: Size
    num_kv_heads: Size
    head_dim: Size = Field(multiple_of=2)
    intermediate_size: Size
    vocab_size: Size
    rms_norm_eps: float = Field(ge=1e-20, le=1)
    """Large enough to stay above 0 in float32."""
    rope_theta: float = Field(ge=1, le=1e15)
    rope_scaling: RopeScaling | None = None
    qkv_bias: bool = False
    """Qwen2 has biases on the query, key and value projections."""
    output_bias: bool = False
    """Llama's ``attention_bias`` puts one on the output projection too."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """Qwen3 normalises each query and key head before the rotary embedding."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Backbone:
        if self.num_heads % self.num_kv_heads:
            raise ManifestError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        if isinstance(self.rope_scaling, YarnScaling) and self.rope_theta <= 1:
            raise ManifestError(
                "rope_theta is 1, expected more for YaRN, which takes its logarithm"
            )
        return self


class Head(_Record):
    """The network read at marker rows, after the final norm."""

    kind: Literal["linear", "mlp_relu"]
    """``linear``: Linear(hidden, num_labels) ``score.*``. ``mlp_relu`` (Qwen2.5-Math-PRM):
    Linear(hidden, hidden) → ReLU → Linear(hidden, num_labels), ``score.0.*`` and ``score.2.*``."""
    num_labels: Size


class Template(_Record):
    """Fixed text of the prompt, with its special tokens. ``ids`` are filled in at export."""

    kind: Literal["template"] = "template"
    text: str
    ids: tuple[int, ...] | None = None


class Question(_Record):
    kind: Literal["question"] = "question"


class Steps(_Record):
    """Each thinking step, followed by the step marker."""

    kind: Literal["steps"] = "steps"


class Response(_Record):
    """The steps of the final response, joined by ``separator``; nothing if there are none."""

    kind: Literal["response"] = "response"
    separator: str = "\n"


class TrajectoryMarker(_Record):
    kind: Literal["trajectory_marker"] = "trajectory_marker"


Piece = Annotated[
    Template | Question | Steps | Response | TrajectoryMarker, Field(discriminator="kind")
]


class Marker(_Record):
    """The token at whose position a score is read."""

    token: str
    id: int = Field(ge=0)


class Prompt(_Record):
    """The order of the pieces of an encoded trajectory."""

    pieces: tuple[Piece, ...]
    step_marker: Marker
    trajectory_marker: Marker | None = None

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Prompt:
        kinds = [piece.kind for piece in self.pieces]
        for kind in ("question", "steps"):
            if kinds.count(kind) != 1:
                raise ManifestError(
                    f"the prompt has {kinds.count(kind)} '{kind}' pieces, expected 1"
                )
        after = [kinds.index(kind) for kind in ("response", "trajectory_marker") if kind in kinds]
        if not kinds.index("question") < kinds.index("steps") < min(after, default=len(kinds)):
            raise ManifestError(
                f"the pieces of the prompt are {kinds}, expected the question before the steps, "
                "the response and the trajectory_marker after them: a score can only rest on what "
                "comes before its marker"
            )
        if kinds.count("trajectory_marker") != (self.trajectory_marker is not None):
            raise ManifestError(
                "the prompt must hold one 'trajectory_marker' piece exactly when it names the "
                "trajectory marker's token"
            )
        return self


class Calibration(_Record):
    """Temperature scaling (Guo et al., arXiv 1706.04599) with a bias: a score with log-odds z
    becomes σ(z / temperature + bias). The order of scores does not change."""

    temperature: float = Field(ge=1e-6, le=1e6)
    bias: float = Field(default=0.0, ge=-1e6, le=1e6)
    fitted_on: str = ""
    """What it was fitted on, and how much it helped there."""


class Readout(_Record):
    """How the logits of one marker row become a score in [0, 1]."""

    transform: Literal["sigmoid", "softmax"]
    positive: int = Field(ge=0)
    """The label whose probability is the score; with ``sigmoid`` only that column is read."""
    calibration: Calibration | None = None


class FileRecord(_Record):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: Count


class ProductRecord(_Record):
    """How many bits the weights and inputs of one linear have."""

    name: str
    """``layers.3.down`` for the native kernels, whose parts are ``qkv``, ``output``, ``gate_up``
    and ``down``; the name of the weight for a graph."""
    bits: Literal[8, 16]
    difference: float | None = None
    """Mean difference of a score when this linear (in a graph, its layer) has 8 bits and the
    others have 16; None if all of them could have 8."""


class Parity(_Record):
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
    spearman: float | None
    """Rank agreement of all scores; None if every score is the same."""
    num_groups: Count = 0
    """Questions with four trajectories or more; the first four compete."""
    same_best_of_4: float | None = None
    """Share of those groups in which both give the highest reward to the same trajectory."""


class Range(_Record):
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


class EngineProfile(_Record):
    """Shapes that a TensorRT engine takes: ``token_ids`` [batch, length], ``marker_positions``
    [num_markers]."""

    batch: Range
    length: Range
    num_markers: Range

    def takes(self, batch: int, length: int, num_markers: int) -> bool:
        return batch in self.batch and length in self.length and num_markers in self.num_markers


EngineFlavour = Literal["tensorrt", "tensorrt_rtx"]


class EngineRecord(_Record):
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


class Manifest(_Record):
    format_version: Literal[1] = 1
    name: str
    family: str
    backbone: Backbone
    head: Head
    prompt: Prompt
    step_readout: Readout
    trajectory_readout: Readout | None = None
    alpha: float = Field(default=1.0, ge=0, le=1e6)
    """α of Eq. 11, the weight of the trajectory score in the reward."""
    max_positions: Size
    precision: Precision = "fp32"
    products: tuple[ProductRecord, ...] = ()
    """With int8, fp8 and w8a16: every linear of the layers, and why it has its bits."""
    weights_sha256: str | None = None
    """Of the merged fp32 weights, in whatever file format they are stored."""
    files: dict[FileName, FileRecord] = Field(default_factory=dict)
    exporter: dict[str, str] = Field(default_factory=dict)
    """Versions of the packages that wrote the artifact."""
    source: dict[str, Any] = Field(default_factory=dict)
    """Where the weights came from: base model, adapter, licence."""
    parity: Parity | None = None
    engine: EngineRecord | None = None
    """Of ``model.plan``, if there is one."""

    @model_validator(mode="after")
    def _parts_agree(self) -> Manifest:
        labels = self.head.num_labels
        for name, readout in (
            ("step_readout", self.step_readout),
            ("trajectory_readout", self.trajectory_readout),
        ):
            if readout is not None and readout.positive >= labels:
                raise ManifestError(
                    f"{name} reads label {readout.positive} of a head with {labels}"
                )
            if readout is not None and readout.transform == "softmax" and labels == 1:
                raise ManifestError(
                    f"{name} is a softmax over a single label, which is always 1; use sigmoid"
                )
        if (self.trajectory_readout is None) != (self.prompt.trajectory_marker is None):
            raise ManifestError(
                "trajectory_readout and the prompt's trajectory_marker go together: give both or "
                "neither"
            )
        for marker in (self.prompt.step_marker, self.prompt.trajectory_marker):
            if marker is not None and marker.id >= self.backbone.vocab_size:
                raise ManifestError(
                    f"marker {marker.token!r} has id {marker.id}, but the vocabulary ends at "
                    f"{self.backbone.vocab_size - 1}"
                )
        return self

    @property
    def positions_beyond_engine(self) -> int | None:
        """The model's positions, if the profiles of its TensorRT engine cover fewer."""
        positions = None if self.engine is None else self.engine.model_positions
        return None if positions is None or positions <= self.max_positions else positions

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


def read_manifest(folder: Path, *, sha256: str | None = None) -> Manifest:
    """Read ``prm.json`` of an artifact folder. ``sha256``: the digest that it must have.

    Raises :class:`ArtifactError` if the folder or the file is missing or has another digest,
    :class:`ManifestError` if the file is not a manifest, or one of a newer format, and
    :class:`InvalidArgumentError` if ``sha256`` is not a digest.
    """
    if sha256 is not None:
        check_sha256("sha256", sha256)
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        raise ArtifactError(
            f"there is no artifact folder {str(folder)!r}; make one with "
            f"'rfprm export CHECKPOINT -o {folder}', or 'rfprm demo' for the shipped PRM"
        )
    if not holds_file(folder, MANIFEST_NAME):
        hint = (
            f"; this is a training checkpoint, export it first: rfprm export {folder} -o ARTIFACT"
            if holds_file(folder, "checkpoint.json")
            else f" (it holds {_some_names(folder)})"
        )
        raise ArtifactError(f"{str(folder)!r} holds no {MANIFEST_NAME}{hint}")
    path, raw = _manifest_bytes(folder)
    found = hashlib.sha256(raw).hexdigest()
    if sha256 is not None and found != sha256.lower():
        raise ArtifactError(
            f"{path} has sha256 {found}, expected {sha256.lower()}: it is not the manifest you "
            "pinned; get the artifact again, or pin the new digest if you trust it"
        )
    content = parse_json(raw, name=str(path), refusal=ManifestError, way_out=_AGAIN)
    return parse_manifest(content, origin=str(path))


def manifest_digest(folder: Path) -> str:
    """The sha256 of an artifact's ``prm.json``, as :func:`read_manifest` takes it."""
    return hashlib.sha256(_manifest_bytes(folder)[1]).hexdigest()


def _manifest_bytes(folder: Path) -> tuple[Path, bytes]:
    """Where ``prm.json`` is, and its content up to one byte more than it may have."""
    path = file_in(folder, MANIFEST_NAME, refusal=ArtifactError, way_out=_AGAIN)
    try:
        with path.open("rb") as file:
            return path, file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ArtifactError(f"{path} cannot be read ({error}); {_AGAIN}") from None


def _some_names(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())[:8]
    except OSError as error:
        raise ArtifactError(f"{folder} cannot be listed: {error}") from None


def parse_manifest(content: Any, *, origin: str = "the manifest") -> Manifest:
    """Validate the content of ``prm.json``, of this version or an older one.

    Raises :class:`ManifestError`.
    """
    content = migrate(content, known=set(Manifest.model_fields), origin=origin)
    try:
        return Manifest.model_validate(content)
    except ManifestError as error:
        raise ManifestError(f"{origin} is not a valid manifest: {error}") from None
