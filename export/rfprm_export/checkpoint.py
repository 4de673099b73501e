"""Loads a PRM: a training checkpoint (base weights + adapter + heads), or a published PRM."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from rfprm_export import ExportError
from rfprm_export.base_model import read_base_model, read_config
from rfprm_export.family_choice import choose_family
from rfprm_export.given_base import WEIGHTS_DIGEST, check_weights, doubt_about
from rfprm_export.loaded_prm import LoadedPRM, only_used
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAME, merge_lora
from rfprm_export.named_base import (
    FolderBase,
    GgufBase,
    check_gguf,
    find_base_model,
    gguf_of_hub,
)
from rfprm_export.opened_model import fetch_whole, open_model
from rfprm_export.preset import ReadingOptions
from rfprm_export.published import published_prm
from rfprm_export.qwen2_layout import check_is_not_for_servers
from rfprm_export.source import CHECKPOINT_NAME as CHECKPOINT_NAME
from rfprm_export.source import Place, Source, open_source
from rfprm_export.weights_files import open_safetensors
from rfprm_runtime.artifact.manifest import (
    Backbone,
    FirstErrorRule,
    Head,
    Manifest,
    Readout,
)
from rfprm_runtime.artifact.network_tensors import check_tensors
from rfprm_runtime.artifact.prompt_format import Prompt
from rfprm_runtime.ground.names import (
    file_in,
    holds_file,
)
from rfprm_runtime.ground.progress import Step
from rfprm_runtime.ground.strict_json import read_json
from rfprm_runtime.ground.validated import Validated
from rfprm_runtime.prompt.encoding import with_template_ids

HEADS_NAME = "heads.safetensors"
_AGAIN = "save the checkpoint again"
_CHECKPOINT_FILES = (
    ADAPTER_CONFIG_NAME,
    ADAPTER_NAME,
    HEADS_NAME,
    "reference_scores.json",
    "gate_scores.json",
)
"""What is read of a checkpoint that is on the Hub."""


class Checkpoint(Validated):
    """``checkpoint.json``: a PRM as an adapter and heads over a base model."""

    refusal = ExportError

    format_version: Literal[1] = 1
    name: str
    family: str
    base: Annotated[GgufBase | FolderBase, Field(discriminator="kind")]
    num_layers: int | None = Field(default=None, gt=0)
    """Number of layers of the base to keep; None keeps all."""
    head: Head
    prompt: Prompt
    step_readout: Readout | None = None
    trajectory_readout: Readout | None = None
    alpha: float = 1.0
    first_error: FirstErrorRule | None = None
    max_positions: int
    source: dict[str, Any] = Field(default_factory=dict)
    """Licences and provenance, copied into the manifest."""

    def to_json(self) -> str:
        without = {"first_error"} if self.first_error is None else None
        return self.model_dump_json(indent=2, exclude=without) + "\n"


def load_prm(
    path: Place | Source,
    *,
    reading: ReadingOptions | None = None,
    base: Place | None = None,
) -> LoadedPRM:
    """Read a training checkpoint, or a published PRM: a Hugging Face folder or a repository of the
    Hub, as a whole model or as a LoRA adapter.

    ``reading`` is what a published PRM does not tell itself. ``base`` is the base model of a
    checkpoint or an adapter, if it is not found by itself.
    Raises :class:`ExportError`, also for an option that does not apply.
    """
    options = reading or ReadingOptions()
    source = open_source(path)
    if source.kind != "checkpoint":
        return _load_published(source, options, base)
    if options != ReadingOptions():
        raise ExportError(
            f"{source.path} is a training checkpoint, whose {CHECKPOINT_NAME} gives the format; "
            f"leave {' and '.join(options.given())} out"
        )
    return _load_checkpoint(source, base)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Read ``checkpoint.json``. Raises :class:`ExportError` if it is not valid."""
    path = file_in(folder, CHECKPOINT_NAME, refusal=ExportError, way_out=_AGAIN)
    content = read_json(path, refusal=ExportError, way_out=_AGAIN)
    try:
        return Checkpoint.model_validate(content)
    except ExportError as error:
        raise ExportError(f"{path} is not a valid checkpoint description: {error}") from None


def _load_checkpoint(opened: Source, base: Place | None) -> LoadedPRM:
    folder = opened.path
    checkpoint = read_checkpoint(folder)
    base_path, given = _base_of(checkpoint, opened, base)
    opened.fetch(_CHECKPOINT_FILES)
    if isinstance(checkpoint.base, GgufBase):
        check_gguf(base_path, checkpoint.base)
    model = read_base_model(base_path)
    check_weights(model.weights, checkpoint.source, base_path)
    backbone = _kept_layers(model.backbone, checkpoint.num_layers)
    weights = only_used(model.weights, backbone)
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
        first_error=checkpoint.first_error,
        max_positions=min(checkpoint.max_positions, model.max_positions),
        source={
            **checkpoint.source,
            **({} if opened.repository is None else opened.record),
            **({} if given is None else _said_of_base(given, checkpoint)),
            "checkpoint_sha256": checkpoint_digest(folder),
            **model.said_of_tokenizer,
        },
    )
    return LoadedPRM(manifest, weights.kept_if_small(), model.tokenizer)


def _base_of(
    checkpoint: Checkpoint, opened: Source, base: Place | None
) -> tuple[Path, Source | None]:
    """The base model's path, and what it was opened as if a user named one."""
    named = checkpoint.base
    if base is None:
        # A repository may name another one; a folder does not choose what is fetched.
        may_fetch = opened.repository is not None
        return find_base_model(named, opened.path, may_fetch=may_fetch), None
    packed = gguf_of_hub(named, base) if isinstance(named, GgufBase) else None
    if packed is not None:
        return packed, None
    given = open_source(base)
    return _fetched(given), given


def _fetched(source: Source) -> Path:
    """The base model that a user names, which may be one of the Hub."""
    if source.kind == "model":
        fetch_whole(source)
    return source.path


def _said_of_base(given: Source, checkpoint: Checkpoint) -> dict[str, Any]:
    """For the manifest: which base was merged, and whether only its name says that it is right."""
    base, doubt = checkpoint.base, None
    if isinstance(base, FolderBase) and WEIGHTS_DIGEST not in checkpoint.source:
        doubt = doubt_about(base.path, given, read_config(given.path))
    return {"base": given.record, **({"base_doubt": doubt} if doubt else {})}


def is_export_of(manifest: Manifest, folder: Path) -> bool:
    """Whether an artifact was exported from the checkpoint as it is now."""
    return manifest.source.get("checkpoint_sha256") == checkpoint_digest(folder)


def checkpoint_digest(folder: Path) -> str:
    """sha256 over the files of a checkpoint that determine its scores."""
    digest = hashlib.sha256()
    for name in (CHECKPOINT_NAME, ADAPTER_CONFIG_NAME, ADAPTER_NAME, HEADS_NAME):
        if holds_file(folder, name):
            path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _load_published(source: Source, options: ReadingOptions, base: Place | None) -> LoadedPRM:
    opened = open_model(source, base)
    check_is_not_for_servers(source.path, opened.config)
    family, preset = choose_family(
        options.family, source.name, opened.architectures, source.file_names
    )
    source.fetch(preset.side_files)
    return published_prm(
        opened.read(),  # and not before
        preset,
        family_name=family,
        name=source.name,
        folder=source.path.parent if source.kind == "gguf" else source.path,
        texts=opened.texts,
        chat=opened.chat,
        config=opened.config,
        options=options,
        source=opened.record,
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


def weights_digest(
    weights: Mapping[str, NDArray[np.float32]], step: Step = lambda done, total: None
) -> str:
    """sha256 of the tensors in order of their names, whatever file they are stored in. ``step`` is
    called with the tensors done and their number."""
    digest = hashlib.sha256()
    for count, name in enumerate(sorted(weights), start=1):
        tensor = np.ascontiguousarray(weights[name])
        digest.update(f"{name} {tensor.shape}\n".encode())
        digest.update(tensor.data)
        del tensor  # before the next one is read
        step(count, len(weights))
    return digest.hexdigest()
