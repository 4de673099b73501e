"""Makes a PRM of a published model: its preset says how it is stored and how it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_export.base_model import BaseModel
from rfprm_export.head_weights import said_of_head, with_head
from rfprm_export.loaded_prm import LoadedPRM, only_used
from rfprm_export.preset import Described, Preset, ReadingOptions
from rfprm_runtime.artifact.families import Family
from rfprm_runtime.artifact.manifest import Manifest
from rfprm_runtime.artifact.network_tensors import check_tensors
from rfprm_runtime.artifact.prompt_format import Template
from rfprm_runtime.prompt.encoding import with_template_ids


def published_prm(
    model: BaseModel,
    preset: Preset,
    *,
    family_name: str,
    name: str,
    folder: Path,
    texts: Path,
    chat: Path,
    config: Mapping[str, Any],
    options: ReadingOptions,
    source: Mapping[str, Any],
) -> LoadedPRM:
    """``name``: the model's, without its owner; ``folder``: where its side files are; ``texts``:
    where its tokenizer's config is; ``chat``: where its chat template is; ``config``: its
    ``config.json``; ``source``: where it came from, for the manifest.

    Raises :class:`ExportError` if the model is not what the preset describes, or if an option does
    not apply.
    """
    _check_options(options, preset, family_name)
    described = Described(texts, chat, name, model.tokenizer, config, options)
    family = preset.family(described)
    _mark_special(model.tokenizer, family)
    if "chat_template" not in preset.options:  # otherwise the texts are the model's own
        _check_special_tokens(model.tokenizer, family, family_name)
    prompt = family.prompt(_marker_ids(model.tokenizer, family, family_name))
    positions = min(model.max_positions, preset.max_positions or model.max_positions)
    manifest = Manifest(
        name=name,
        family=family_name,
        backbone=model.backbone,
        head=family.head,
        prompt=with_template_ids(prompt, model.tokenizer),
        step_readout=family.step_readout,
        trajectory_readout=family.trajectory_readout,
        max_positions=positions,
        source={
            **source,
            **model.said_of_tokenizer,
            **described.notes,
            **said_of_head(model.weights, preset.head),
        },
    )
    weights = with_head(
        model.weights,
        preset.head,
        family.head,
        folder=folder,
        tokenizer=model.tokenizer,
        family=family_name,
        hidden_size=model.backbone.hidden_size,
    )
    weights = only_used(weights, model.backbone)
    check_tensors(weights.stored, model.backbone, family.head, refusal=ExportError)
    return LoadedPRM(manifest, weights.kept_if_small(), model.tokenizer)


def _check_options(options: ReadingOptions, preset: Preset, family: str) -> None:
    for name in ("step_separator", "system_prompt", "chat_template"):
        if getattr(options, name) is not None and name not in preset.options:
            raise ExportError(
                f"--{name.replace('_', '-')} does not apply to the family {family!r}, whose prompt "
                "is known; leave it out"
            )


_SPECIAL = re.compile(r"<\|[a-z0-9_]+\|>|<s>")


def _check_special_tokens(tokenizer: Tokenizer, family: Family, name: str) -> None:
    """Special tokens that the family's texts spell would be plain text to another tokenizer."""
    texts = [piece.text for piece in family.pieces if isinstance(piece, Template)]
    spelled = _SPECIAL.findall("".join((*texts, *family.marker_tokens)))
    missing = sorted({token for token in spelled if tokenizer.token_to_id(token) is None})
    if missing:
        raise ExportError(
            f"the prompt of family {name!r} has {missing}, which the tokenizer does not have; "
            "check --family, and that the tokenizer is the PRM's own"
        )


def _marker_ids(
    tokenizer: Tokenizer, family: Family, name: str
) -> dict[str, int | tuple[int, ...]]:
    if family.text_markers:
        return {text: _text_ids(tokenizer, text, name) for text in family.marker_tokens}
    ids = {token: tokenizer.token_to_id(token) for token in family.marker_tokens}
    missing = [token for token, index in ids.items() if index is None]
    if missing:
        raise ExportError(
            f"family {name!r} marks scores with {missing}, which the tokenizer does not have; "
            "check --family, and that the tokenizer is the PRM's own"
        )
    return {token: index for token, index in ids.items() if index is not None}


def _text_ids(tokenizer: Tokenizer, text: str, name: str) -> tuple[int, ...]:
    ids = tuple(tokenizer.encode(text, add_special_tokens=False).ids)
    if not ids:
        raise ExportError(
            f"family {name!r} marks scores with {text!r}, for which the tokenizer has no tokens; "
            "check --family, and that the tokenizer is the PRM's own"
        )
    return ids


def _mark_special(tokenizer: Tokenizer, family: Family) -> None:
    """Make markers that are added tokens special, or user text could contain them."""
    for token in tokenizer.get_added_tokens_decoder().values():
        if token.content in family.marker_tokens and not token.special:
            tokenizer.add_special_tokens(
                [AddedToken(token.content, special=True, normalized=False)]
            )
