"""Whether a base model can be the one that an adapter or a checkpoint was trained on.

Names decide nothing, because a local folder of the same model usually has another: what they leave
open is said. What a model is made of decides: its shape, the ids of its tokens, and weights whose
digest was recorded. An adapter of PEFT records none, so two models of one shape and one vocabulary
cannot be told apart.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.base_model import CONFIG_NAME, backbone_from_config, read_config
from rfprm_export.model_names import is_called
from rfprm_export.source import Source
from rfprm_export.stored_weights import Weights
from rfprm_runtime.artifact.manifest import Backbone
from rfprm_runtime.ground.arguments import shown

WEIGHTS_DIGEST = "base_weights_sha256"
"""In a checkpoint's ``source``: :func:`some_weights_digest` of the base model that is a folder."""
_GIVE = "give the one that it was trained on with --base"
_EXACT = ("hidden_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "intermediate_size")
_NUMBERS = ("rms_norm_eps", "rope_theta")
"""A GGUF file has them in single precision."""
_LAYER = re.compile(r"model\.layers\.([0-9]{1,9})\.input_layernorm\.weight")


def check_shape(adapter: Source, base: Backbone, place: Path) -> None:
    """Trainers may save the base's ``config.json`` beside an adapter. ``base``: of the model in
    ``place``. Raises :class:`ExportError` if they describe different networks."""
    expected = _shape_beside(adapter)
    if expected is None:
        return
    differ = [name for name in _EXACT if getattr(expected, name) != getattr(base, name)]
    differ += [
        name
        for name in _NUMBERS
        if not math.isclose(getattr(expected, name), getattr(base, name), rel_tol=1e-5)
    ]
    if differ:
        facts = ", ".join(
            f"{name} {getattr(expected, name)} and not {getattr(base, name)}" for name in differ[:3]
        )
        raise ExportError(
            f"{place} is not the base model of the adapter {adapter.path}, whose {CONFIG_NAME} "
            f"has {facts}; {_GIVE}"
        )


def _shape_beside(adapter: Source) -> Backbone | None:
    if CONFIG_NAME not in adapter.file_names:
        return None
    config = read_config(adapter.path)
    try:
        return backbone_from_config({**config, "quantization_config": None})
    except ExportError:  # of something else, or of too little
        return None


def check_tokens(own: Tokenizer, base: Tokenizer, adapter: Path, place: Path) -> None:
    """An adapter may come with a tokenizer, to which tokens were added. Raises
    :class:`ExportError` if the base's ordinary tokens have other ids in it."""
    ids = own.get_vocab(with_added_tokens=True)
    ordinary = base.get_vocab(with_added_tokens=False)
    moved = [token for token, index in ordinary.items() if ids.get(token, index) != index]
    if moved:
        some = min(moved)
        raise ExportError(
            f"{place} is not the base model of the adapter {adapter}: {len(moved)} of its tokens "
            f"have other ids in the adapter's tokenizer ({shown(some)} {ordinary[some]} and not "
            f"{ids[some]}); {_GIVE}"
        )


def doubt_about(named: str | None, base: Source, config: Mapping[str, Any]) -> str | None:
    """What to say where the base that a user gave does not have the name that the adapter or the
    checkpoint gives it; None if it has. ``config``: its ``config.json``, in which its maker may
    have left its name."""
    if not named:
        return "none was named; that it is this one cannot be told"
    last = PurePosixPath(named.replace("\\", "/")).name.lower()
    origin = config.get("_name_or_path")
    names = [base.name, *([PurePosixPath(origin).name] if isinstance(origin, str) else [])]
    if any(last == name.lower() or _is_called(name, last) for name in names):
        return None
    return f"{shown(named)} was named; that it is this one cannot be told from its name"


def _is_called(name: str, last: str) -> bool:
    return not set("*?[") & set(last) and is_called(name, last)


def some_weights_digest(weights: Weights) -> str:
    """sha256 over a few tensors of a decoder, as float32: every norm before attention, and the
    queries of the first, the middle and the last layer. Training changes them, renaming and cutting
    files do not."""
    layers = sorted(int(match[1]) for match in map(_LAYER.fullmatch, weights) if match)
    chosen = {layers[0], layers[len(layers) // 2], layers[-1]} if layers else set()
    names = [f"model.layers.{layer}.input_layernorm.weight" for layer in layers]
    names += [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in sorted(chosen)]
    digest = hashlib.sha256()
    for name in names:
        if name in weights:
            tensor = np.ascontiguousarray(weights[name], dtype=np.float32)
            digest.update(f"{name} {tensor.shape}\n".encode())
            digest.update(tensor.data)
    return digest.hexdigest()


def check_weights(weights: Weights, source: Mapping[str, Any], place: Path) -> None:
    """``source``: a checkpoint's. Raises :class:`ExportError` if it records the digest of other
    weights than those of the base model in ``place``."""
    expected = source.get(WEIGHTS_DIGEST)
    if isinstance(expected, str) and some_weights_digest(weights) != expected:
        raise ExportError(
            f"{place} is not the base model that the checkpoint was trained on: its weights are "
            f"others; {_GIVE}"
        )
