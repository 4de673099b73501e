"""Writes a PRM in the layout of Qwen2ForProcessRewardModel, which other servers (vLLM) load.

Source: ``config.json`` and weights of Qwen2.5-Math-PRM: a Qwen2 backbone under ``model.*`` and
``score`` = Linear(h, h) → ReLU → Linear(h, 2), read by softmax at every ``<extra_0>``. The layout
has step scores only, no trajectory score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer

from rfprm_export import ExportError
from rfprm_export.aligned_file import Planned, in_memory, of_float32, write_aligned
from rfprm_export.base_model import config_fields
from rfprm_export.loaded_prm import LoadedPRM
from rfprm_export.stored_weights import Weights
from rfprm_runtime.artifact.manifest import Backbone, Head, Manifest, Readout
from rfprm_runtime.artifact.network_tensors import network_tensors
from rfprm_runtime.ground.progress import Progress, silent, stage
from rfprm_runtime.ground.whole_files import replacing_folder

ARCHITECTURE = "Qwen2ForProcessRewardModel"
STEP_TOKEN = "<extra_0>"
FAMILY_FIELD = "rfprm_family"
"""Of ``config.json``: whose prompt the model was trained on, which the layout does not hold."""
_SAME_PROMPT = ("rfprm-qwen", "qwen2.5-math-prm")
"""Families whose steps are read in the prompt of the models that the layout is from."""
_EMBEDDING = "model.embed_tokens.weight"


def write_qwen2_layout(prm: LoadedPRM, folder: Path, progress: Progress = silent) -> int:
    """Write ``config.json``, ``model.safetensors`` (float32) and the tokenizer to ``folder``;
    returns the id of ``<extra_0>``, which servers are told.

    Raises :class:`ExportError` if the backbone is not Qwen2's, or if ``folder`` exists.
    """
    manifest = prm.manifest
    _check_backbone(manifest.backbone)
    if folder.exists():
        raise ExportError(f"{folder} already exists; choose another folder or remove it")
    step_token = _step_token(prm)
    tensors = list(_tensors(prm, step_token.copied_row))
    with replacing_folder(folder) as partial:
        step = stage(progress, "writing tensor")
        write_aligned(partial / "model.safetensors", tensors, {"format": "pt"}, step)
        _write_json(partial / "config.json", _config(manifest))
        step_token.tokenizer.save(str(partial / "tokenizer.json"))
        _write_json(
            partial / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}
        )
    step_id = step_token.tokenizer.token_to_id(STEP_TOKEN)
    assert step_id is not None, STEP_TOKEN
    return step_id


def check_is_not_for_servers(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises :class:`ExportError` if ``config`` is of a layout that :func:`write_qwen2_layout`
    wrote for servers, from a PRM with another prompt than its architecture has."""
    family = config.get(FAMILY_FIELD)
    if family is not None and family not in _SAME_PROMPT:
        raise ExportError(
            f"{folder} was written by rfprm export-qwen2-layout, for servers that get the prompt "
            f"with each request: it lacks the prompt of its family {family!r}; export the "
            "checkpoint that it was made from"
        )


def _tensors(prm: LoadedPRM, copied_row: tuple[int, int] | None) -> Iterator[Planned]:
    """The backbone's, read when their turn comes, and the head's."""

    def read(name: str) -> NDArray[np.float32]:
        tensor = prm.weights[name]
        if copied_row is None or name != _EMBEDDING:
            return tensor
        to, origin = copied_row
        changed = tensor.copy()
        changed[to] = tensor[origin]
        return changed

    manifest = prm.manifest
    every = network_tensors(manifest.backbone, manifest.head)
    backbone = ((name, shape) for name, shape in every if not name.startswith("score."))
    yield from of_float32(backbone, read)
    yield from in_memory(two_class_head(prm.weights, manifest))


def two_class_head(weights: Weights, manifest: Manifest) -> Weights:
    """The step readout as an equivalent Linear → ReLU → Linear with two classes.

    A score σ(z) with z = w·x + b becomes the logits (0, ReLU(z) − ReLU(−z)) = (0, z), whose
    softmax is σ(z). A head that already has this form is kept. Raises :class:`ExportError` for a
    readout that is no such σ(z).
    """
    readout, head = _step_readout(manifest), manifest.head
    own = Readout(transform="softmax", positive=1)
    if head == Head(kind="mlp_relu", num_labels=2) and readout == own:
        return {name: weights[name] for name in weights if name.startswith("score.")}
    size = manifest.backbone.hidden_size
    row, bias = _log_odds_row(weights, readout, head)
    if readout.calibration is not None:
        row, bias = row / readout.calibration.temperature, bias / readout.calibration.temperature
        bias += readout.calibration.bias
    first, first_bias = np.zeros((size, size), np.float32), np.zeros(size, np.float32)
    first[0], first[1] = row, -row
    first_bias[0], first_bias[1] = bias, -bias
    second = np.zeros((2, size), np.float32)
    second[1, 0], second[1, 1] = 1.0, -1.0
    return {
        "score.0.weight": first,
        "score.0.bias": first_bias,
        "score.2.weight": second,
        "score.2.bias": np.zeros(2, np.float32),
    }


def _step_readout(manifest: Manifest) -> Readout:
    if manifest.step_readout is None:
        raise ExportError(
            f"{manifest.name} gives one number for a whole sequence, and the layout of "
            f"{ARCHITECTURE} holds scores of steps; serve it as the sequence classifier it is"
        )
    return manifest.step_readout


def _log_odds_row(
    weights: Weights, readout: Readout, head: Head
) -> tuple[NDArray[np.float32], np.float32]:
    """w and b of the log-odds z = w·x + b of a step, before calibration."""
    is_probability = readout.scale == 1 and readout.offset == 0
    if head.kind == "linear" and is_probability and len(readout.labels) == 1:
        rows, biases, [label] = weights["score.weight"], weights["score.bias"], readout.labels
        if readout.transform == "sigmoid":
            return rows[label], biases[label]
        if readout.transform == "softmax" and head.num_labels == 2:
            return rows[label] - rows[1 - label], biases[label] - biases[1 - label]
    raise ExportError(
        f"the layout of {ARCHITECTURE} cannot hold a {head.kind} head of {head.num_labels} labels "
        f"read by {readout.transform}{'' if is_probability else ' and scaled'}, expected a linear "
        "one read by sigmoid, or by softmax over two labels"
    )


def _check_backbone(shape: Backbone) -> None:
    fits = shape.qkv_bias and not (shape.output_bias or shape.mlp_bias or shape.qk_norm)
    if not fits or shape.head_dim * shape.num_heads != shape.hidden_size:
        raise ExportError(
            f"the layout of {ARCHITECTURE} is for Qwen2 backbones (biases on query, key and value "
            "only); use rfprm export for this one"
        )


def _config(manifest: Manifest) -> dict[str, Any]:
    shape = manifest.backbone
    return {
        "architectures": [ARCHITECTURE],
        "model_type": "qwen2",
        **config_fields(shape),
        "max_position_embeddings": manifest.max_positions,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "num_labels": 2,
        "torch_dtype": "float32",
        FAMILY_FIELD: manifest.family,
    }


@dataclass(frozen=True)
class _StepToken:
    """How ``<extra_0>`` takes the place of the step marker."""

    tokenizer: Tokenizer
    copied_row: tuple[int, int] | None = None
    """Its id, and that of the marker whose embedding it gets; None if it has the marker's id."""


def _step_token(prm: LoadedPRM) -> _StepToken:
    """A special marker is renamed. One that is an ordinary token keeps its own meaning in texts, so
    ``<extra_0>`` is another token with the same embedding: the network cannot tell them apart.

    Raises :class:`ExportError` if the marker is not one token, or there is no room for another.
    """
    marker = prm.manifest.prompt.step_marker
    if marker is None or len(marker.all_ids) != 1:
        raise ExportError(
            f"the layout of {ARCHITECTURE} marks steps by one token, which the prompt of "
            f"{prm.manifest.name} does not do; use rfprm export for this PRM"
        )
    if marker.ids is None:
        return _StepToken(_with_step_token(prm.tokenizer, marker.token))
    tokenizer = Tokenizer.from_str(prm.tokenizer.to_str())
    tokenizer.add_special_tokens([AddedToken(STEP_TOKEN, special=True, normalized=False)])
    index, size = tokenizer.token_to_id(STEP_TOKEN), prm.manifest.backbone.vocab_size
    if index is None or index >= size:
        raise ExportError(
            f"steps are marked by the ordinary token {marker.token!r}, and the vocabulary of "
            f"{size} has no room for a {STEP_TOKEN} beside it; use rfprm export for this PRM"
        )
    return _StepToken(tokenizer, (index, marker.all_ids[0]))


def _with_step_token(tokenizer: Tokenizer, token: str) -> Tokenizer:
    """The tokenizer with the step marker renamed to what the layout expects, with the same id."""
    if token == STEP_TOKEN:
        return tokenizer
    content = json.loads(tokenizer.to_str())
    if any(added["content"] == STEP_TOKEN for added in content["added_tokens"]):
        raise ExportError(
            f"steps are marked by {token!r}, but the tokenizer already has a {STEP_TOKEN}, which "
            "the layout would read instead; use rfprm export for this PRM"
        )
    for added in content["added_tokens"]:
        if added["content"] == token:
            added["content"] = STEP_TOKEN
    vocabulary = content["model"].get("vocab", {})
    if token in vocabulary:
        vocabulary[STEP_TOKEN] = vocabulary.pop(token)
    renamed: Tokenizer = Tokenizer.from_str(json.dumps(content))
    return renamed


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
