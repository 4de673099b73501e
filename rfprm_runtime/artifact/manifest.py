"""``prm.json``: everything the runtime must know about a PRM besides its weights.

The manifest is data; differences between model families live here, not in subclasses.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializationInfo,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from rfprm_runtime.artifact.build_records import EngineRecord, Parity, ProductRecord
from rfprm_runtime.artifact.migrations import MAY_IGNORE, migrate
from rfprm_runtime.artifact.prompt_format import Prompt
from rfprm_runtime.artifact.record import Count, Record, Size
from rfprm_runtime.artifact.rope_scaling import RopeScaling, YarnScaling
from rfprm_runtime.errors import ArtifactError, ManifestError
from rfprm_runtime.ground.arguments import check_sha256
from rfprm_runtime.ground.names import FileName, file_in, holds_file
from rfprm_runtime.ground.strict_json import MAX_BYTES, parse_json

Precision = Literal["fp32", "fp16", "bf16", "fp8", "w8a16", "int16", "int8"]
GPU_PRECISIONS = ("fp16", "bf16", "fp8", "w8a16")
MANIFEST_NAME = "prm.json"
OF_A_MODEL = ("config.json", "checkpoint.json", "adapter_config.json")
"""Files that a model has which is to be exported first."""
# Model files that more than their own backend has to do with.
ONNX_NAME = "model.onnx"
NATIVE_NAME = "model.native.safetensors"
PLAN_NAME = "model.plan"
TORCH_NAME = "model.safetensors"
TOKENIZER_NAME = "tokenizer.json"
_AGAIN = "export the artifact again"


class Backbone(Record):
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


class Head(Record):
    """The network read at marker rows, after the final norm."""

    kind: Literal["linear", "mlp_relu"]
    """``linear``: Linear(hidden, num_labels) ``score.*``. ``mlp_relu`` (Qwen2.5-Math-PRM):
    Linear(hidden, hidden) → ReLU → Linear(hidden, num_labels), ``score.0.*`` and ``score.2.*``."""
    num_labels: Size


class Calibration(Record):
    """Temperature scaling (Guo et al., arXiv 1706.04599) with a bias: a score with log-odds z
    becomes σ(z / temperature + bias). The order of scores does not change."""

    temperature: float = Field(ge=1e-6, le=1e6)
    bias: float = Field(default=0.0, ge=-1e6, le=1e6)
    fitted_on: str = ""
    """What it was fitted on, and how much it helped there."""


class Readout(Record):
    """How the logits of one marker row become a score."""

    transform: Literal["sigmoid", "softmax", "none"]
    """``none``: the score is the logit itself, without bounds, as reward models give it."""
    positive: Annotated[int, Field(ge=0)] | tuple[Annotated[int, Field(ge=0)], ...]
    """The label whose probability is the score, or with ``softmax`` several whose probabilities are
    added; with the other transforms only that column is read."""
    scale: float = Field(default=1.0, ge=-1e6, le=1e6)
    offset: float = Field(default=0.0, ge=-1e6, le=1e6)
    """The score is ``scale`` · p + ``offset``: p(right) − p(wrong) of two labels is 2 p − 1."""
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _is_a_reading(self) -> Readout:
        if isinstance(self.positive, tuple):
            if self.transform != "softmax" or len(set(self.positive)) != len(self.positive):
                raise ManifestError(
                    f"positive is {list(self.positive)} with the transform {self.transform!r}; "
                    "several labels, each once, can be read with softmax only"
                )
            if not self.positive:
                raise ManifestError("positive is an empty list, expected a label")
        if self.scale == 0:
            raise ManifestError("scale is 0, which makes all scores alike")
        return self

    @property
    def labels(self) -> tuple[int, ...]:
        """The columns whose probabilities are added."""
        return self.positive if isinstance(self.positive, tuple) else (self.positive,)

    @property
    def bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest score there can be; None if there are no bounds."""
        if self.transform == "none" and self.calibration is None:
            return None
        ends = (self.offset, self.scale + self.offset)
        return min(ends), max(ends)


class FirstErrorRule(Record):
    """Which step of a trace is taken for the first wrong one."""

    wrong_below: float
    """The first step with a score below it, in the unit of step scores."""
    fitted_on: str = ""
    """What it was fitted on, and how well it finds first errors there."""


class FileRecord(Record):
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    num_bytes: Count


class Manifest(Record):
    format_version: Literal[1] = 1
    name: str
    family: str
    backbone: Backbone
    head: Head
    prompt: Prompt
    step_readout: Readout | None = None
    """None for a reward model that gives one number for a whole sequence."""
    trajectory_readout: Readout | None = None
    alpha: float = Field(default=1.0, ge=0, le=1e6)
    """α of Eq. 11, the weight of the trajectory score in the reward."""
    first_error: FirstErrorRule | None = None
    """Where a trace goes wrong first, if that was fitted."""
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
        for name in ("step", "trajectory"):
            readout = getattr(self, f"{name}_readout")
            if (readout is None) != (getattr(self.prompt, f"{name}_marker") is None):
                raise ManifestError(
                    f"{name}_readout and the prompt's {name}_marker go together: give both or "
                    "neither"
                )
            if readout is not None:
                _check_labels(f"{name}_readout", readout, self.head.num_labels)
        if self.first_error is not None:
            _check_rule(self.first_error, self.step_readout or self.trajectory_readout)
        for marker in self.prompt.markers:
            for index in marker.all_ids:
                if index >= self.backbone.vocab_size:
                    raise ManifestError(
                        f"marker {marker.token!r} has id {index}, but the vocabulary ends at "
                        f"{self.backbone.vocab_size - 1}"
                    )
        return self

    @property
    def reward_bounds(self) -> tuple[float, float] | None:
        """The lowest and the highest reward there can be (Eq. 11); None if there are no bounds."""
        step, whole = self.step_readout, self.trajectory_readout
        if whole is None:
            return None if step is None else step.bounds
        if step is None or step.bounds is None or whole.bounds is None:
            return whole.bounds if step is None else None
        (low, high), (low_whole, high_whole) = step.bounds, whole.bounds
        return low + self.alpha * low_whole, high + self.alpha * high_whole

    @property
    def positions_beyond_engine(self) -> int | None:
        """The model's positions, if the profiles of its TensorRT engine cover fewer."""
        positions = None if self.engine is None else self.engine.model_positions
        return None if positions is None or positions <= self.max_positions else positions

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"

    @model_serializer(mode="wrap")
    def _for_older_readers(
        self, content_of: SerializerFunctionWrapHandler, info: SerializationInfo
    ) -> dict[str, Any]:
        """JSON leaves ``first_error`` out where it is not needed, and otherwise names it as a field
        that no score depends on: readers that do not know it would refuse it."""
        content: dict[str, Any] = content_of(self)
        if info.mode == "json":
            if content.get("first_error") is None:
                content.pop("first_error", None)
            else:
                content[MAY_IGNORE] = ["first_error"]
        return content


def _check_rule(rule: FirstErrorRule, readout: Readout | None) -> None:
    bounds = None if readout is None else readout.bounds
    if bounds is not None and not bounds[0] <= rule.wrong_below <= bounds[1]:
        raise ManifestError(
            f"first_error has wrong_below {rule.wrong_below:g}, expected a score in "
            f"[{bounds[0]:g}, {bounds[1]:g}]"
        )


def _check_labels(name: str, readout: Readout, num_labels: int) -> None:
    if max(readout.labels) >= num_labels:
        raise ManifestError(f"{name} reads label {max(readout.labels)} of a head with {num_labels}")
    if readout.transform == "softmax" and len(readout.labels) == num_labels:
        raise ManifestError(
            f"{name} is a softmax over a single label, which is always 1; use sigmoid"
            if num_labels == 1
            else f"{name} adds the probabilities of all {num_labels} labels, which is always 1"
        )


def read_manifest(folder: Path, *, sha256: str | None = None) -> Manifest:
    """Read ``prm.json`` of an artifact folder. ``sha256``: the digest that it must have.

    Raises :class:`ArtifactError` if the folder or the file is missing or has another digest,
    :class:`ManifestError` if the file is not a manifest, or one of a newer format, and
    :class:`InvalidArgumentError` if ``sha256`` is not a digest.
    """
    if sha256 is not None:
        check_sha256("sha256", sha256)
    if os.path.isfile(folder):
        raise ArtifactError(
            f"{str(folder)!r} is a file, expected an artifact's folder; a model is exported first: "
            f"rfprm export {folder} -o ARTIFACT"
        )
    if not os.path.isdir(folder):  # Path.is_dir raises for a name that is too long
        raise ArtifactError(
            f"there is no artifact folder {str(folder)!r}; make one with "
            f"'rfprm export CHECKPOINT -o {folder}', or 'rfprm demo' for the shipped PRM"
        )
    if not holds_file(folder, MANIFEST_NAME):
        hint = (
            f"; this is a model, export it first: rfprm export {folder} -o ARTIFACT"
            if any(holds_file(folder, name) for name in OF_A_MODEL)
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
