"""A published model, opened far enough to tell what it is: a whole one, or an adapter over a base.

What it is can be asked before a weight is read or fetched. Knows no families.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rfprm_export import ExportError
from rfprm_export.base_model import (
    CONFIG_NAME,
    BaseModel,
    architectures_in,
    backbone_from_config,
    check_base_model,
    read_base_model,
    read_config,
)
from rfprm_export.chat_template import TEMPLATE_NAMES, TOKENIZER_CONFIG_NAME
from rfprm_export.gguf_reader import gguf_architecture
from rfprm_export.given_base import check_shape, check_tokens, doubt_about
from rfprm_export.lora import ADAPTER_NAMES, AdapterConfig, merge_lora, read_adapter_config
from rfprm_export.source import Place, Source, open_source
from rfprm_export.vocabulary.folder import has_tokenizer, open_tokenizer
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.hub.ids import HubId, parse_hub_id

# What PEFT's task types say about the head over the base.
_HEADS = {
    "CAUSAL_LM": "ForCausalLM",
    "TOKEN_CLS": "ForTokenClassification",
    "SEQ_CLS": "ForSequenceClassification",
}

_WHAT = {"adapter": "an adapter", "checkpoint": "a training checkpoint"}


@dataclass(frozen=True)
class OpenedModel:
    """A model of which nothing but its description is read."""

    source: Source
    architectures: tuple[str, ...]
    """What it is, by the names of transformers' classes; empty if nothing tells."""
    config: dict[str, Any]
    """The ``config.json`` of the model, or of the one under an adapter."""
    texts: Path
    """The folder with the tokenizer's config."""
    chat: Path
    """The folder with the chat template."""
    read: Callable[[], BaseModel]
    """Fetches what is missing, and opens the weights. Raises :class:`ExportError`."""
    record: dict[str, Any]
    """Where the weights came from, for a manifest."""


def open_model(source: Source, base: Place | None = None) -> OpenedModel:
    """``base``: the base model of an adapter, if it is not the one that the adapter names.

    Raises :class:`ExportError`, also for a ``base`` that does not apply.
    """
    if source.kind == "adapter":
        return _open_adapter(source, base)
    if base is not None:
        raise ExportError(
            f"{source.path} holds no checkpoint.json and no adapter, so it is read as a whole PRM, "
            "which needs no --base; leave it out, or give a training checkpoint"
        )
    config = read_config(source.path)
    return OpenedModel(
        source,
        _architectures(source, config),
        config,
        source.path,
        source.path,
        lambda: _read_whole(source),
        source.record,
    )


def _architectures(source: Source, config: dict[str, Any]) -> tuple[str, ...]:
    if source.kind == "gguf":
        return (gguf_architecture(source.path),)
    return architectures_in(config)


def fetch_whole(source: Source) -> None:
    """Get all files of a whole model, the largest last: what is wrong with the small ones is said
    before gigabytes are fetched. Raises :class:`ExportError`."""
    if source.repository is None:
        return
    check_base_model(source.path)
    source.fetch_tokenizer()
    open_tokenizer(source.path, read_config(source.path))
    source.fetch_weights()


def _read_whole(source: Source) -> BaseModel:
    fetch_whole(source)
    return read_base_model(source.path)


def _open_adapter(source: Source, base: Place | None) -> OpenedModel:
    adapter = read_adapter_config(source.path)
    under = open_source(_base_of(source, adapter) if base is None else base)
    if under.kind not in ("model", "gguf"):
        raise ExportError(
            f"the base model {under.path} is itself {_WHAT[under.kind]}, expected a whole model; "
            "give it with --base"
        )
    config = read_config(under.path)
    doubt = None if base is None else doubt_about(adapter.base_model_name_or_path, under, config)
    return OpenedModel(
        source,
        _adapted(_architectures(under, config), adapter),
        config,
        _owner((TOKENIZER_CONFIG_NAME,), source, under),
        _owner((TOKENIZER_CONFIG_NAME, *TEMPLATE_NAMES), source, under),
        lambda: _read_adapted(source, under),
        {**source.record, "base": under.record, **({"base_doubt": doubt} if doubt else {})},
    )


def _owner(names: tuple[str, ...], adapter: Source, base: Source) -> Path:
    """The folder of an adapter if it has one of these files, or else of its base."""
    return adapter.path if adapter.file_names & set(names) else base.path


def _base_of(source: Source, config: AdapterConfig) -> HubId:
    """The base that an adapter of the Hub names. A folder is data and does not choose what is read
    elsewhere; a repository may name another repository."""
    named = config.base_model_name_or_path
    try:
        found = parse_hub_id(named or "", refusal=ExportError)
    except ExportError:
        raise ExportError(
            f"{source.path} is an adapter, and names its base model as {shown(named)}, which is "
            "not a model of the Hub; give the folder or the org/name of its base with --base"
        ) from None
    if config.revision:
        found = parse_hub_id(f"{found.repo}@{config.revision}", refusal=ExportError)
    if source.repository is None:
        raise ExportError(
            f"{source.path} is an adapter over {found}; a folder does not choose what is fetched: "
            f"if you trust it, add --base {found}, or a folder with that model"
        )
    return found


def _adapted(architectures: tuple[str, ...], config: AdapterConfig) -> tuple[str, ...]:
    """What a base model is with an adapter: its decoder, and the head of the adapter's task."""
    head = _HEADS.get(config.task_type or "")
    if head is not None:
        return tuple(_decoder(name) + head for name in architectures)
    whole = (config.auto_mapping or {}).get("base_model_class")
    return (whole,) if isinstance(whole, str) else architectures


def _decoder(architecture: str) -> str:
    """``Qwen2`` of ``Qwen2ForCausalLM`` and of ``Qwen2Model``."""
    return architecture.partition("For")[0].removesuffix("Model")


def _read_adapted(source: Source, under: Source) -> BaseModel:
    source.fetch_tokenizer()
    source.fetch(ADAPTER_NAMES[:1] if ADAPTER_NAMES[0] in source.file_names else ADAPTER_NAMES)
    if under.kind == "model" and CONFIG_NAME in source.file_names:  # before gigabytes are fetched
        check_shape(source, backbone_from_config(read_config(under.path)), under.path)
    model = _read_whole(under)
    check_shape(source, model.backbone, under.path)
    own = open_tokenizer(source.path, {}) if has_tokenizer(source.path) else None
    if own is not None:
        check_tokens(own.tokenizer, model.tokenizer, source.path, under.path)
    weights = merge_lora(model.weights, source.path)
    # New tokens come with rows of the embedding, and with a tokenizer.
    embedding = weights.stored.get("model.embed_tokens.weight")
    rows = model.backbone.vocab_size if embedding is None else embedding.shape[0]
    return replace(
        model,
        backbone=model.backbone.model_copy(update={"vocab_size": rows}),
        weights=weights,
        tokenizer=model.tokenizer if own is None else own.tokenizer,
        tokenizer_origin=model.tokenizer_origin if own is None else own.origin,
    )
