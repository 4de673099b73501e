"""Finds a published model's head, wherever it is stored, and gives it the runtime's names."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from rfprm_export import ExportError
from rfprm_export.pickled_weights import open_pickled
from rfprm_export.preset import HeadSource, OwnHead, RenamedHead, TokenRows
from rfprm_export.stored_weights import Array, Stored, StoredWeights
from rfprm_runtime.artifact.manifest import Head
from rfprm_runtime.ground.names import file_in

_AGAIN = "download the model again"
_BIAS = "score.bias"
_OUTPUT, _INPUT = "lm_head.weight", "model.embed_tokens.weight"


def with_head(
    weights: StoredWeights,
    source: HeadSource,
    head: Head,
    *,
    folder: Path,
    tokenizer: Tokenizer,
    family: str,
    hidden_size: int,
) -> StoredWeights:
    """``weights`` with the head under ``score.*``. A linear head without a bias gets one of 0.

    Raises :class:`ExportError` if the head is not there, or has another shape: the head of a
    language model would give numbers that look like scores.
    """
    if isinstance(source, TokenRows):
        return _of_tokens(weights, source, tokenizer, family)
    if isinstance(source, RenamedHead):
        weights = _renamed(weights, source, folder)
    if isinstance(source, OwnHead) and not source.has_bias:
        weights = weights.only(lambda name: name != _BIAS)
    _check_shape(weights, head, family, hidden_size)
    if head.kind == "linear" and _BIAS not in weights:
        weights = weights.including({_BIAS: _zeros(head.num_labels)})
    return weights


def said_of_head(weights: StoredWeights, source: HeadSource) -> dict[str, str]:
    """For the manifest's ``source``, which ``rfprm info`` prints: what is in the file and not in
    the model."""
    if isinstance(source, OwnHead) and not source.has_bias and _BIAS in weights:
        return {"left out": f"{_BIAS}, which transformers' class does not have and ignores"}
    return {}


def _renamed(weights: StoredWeights, source: RenamedHead, folder: Path) -> StoredWeights:
    if source.file is not None:
        path = file_in(folder, source.file, refusal=ExportError, way_out=_AGAIN)
        beside = open_pickled(path).stored
        if not {"weight"} <= set(beside) <= {"weight", "bias"}:
            raise ExportError(
                f"{path} holds {sorted(beside)[:4]}, expected weight, and bias if there is one: "
                f"those of a linear head alone; {_AGAIN}"
            )
        found = {f"{source.prefix}.{name}": one for name, one in beside.items()}
        weights = weights.including(found)
    names = {f"{source.prefix}.{part}": f"score.{part}" for part in ("weight", "bias")}
    return weights.including({names[n]: weights.stored[n] for n in names if n in weights})


def _of_tokens(
    weights: StoredWeights, source: TokenRows, tokenizer: Tokenizer, family: str
) -> StoredWeights:
    if own := [name for name in weights if name.startswith("score.")]:
        raise ExportError(
            f"family {family!r} reads the language-model head, but the model has a head of its own "
            f"({own[0]}); check that it is a PRM of that family"
        )
    ids = [_token_id(tokenizer, text, source, family) for text in source.tokens]
    name = _OUTPUT if _OUTPUT in weights else _INPUT  # tied: one matrix is both
    if name not in weights:
        raise ExportError(f"the weights lack {_OUTPUT} and {_INPUT}; {_AGAIN}")
    stored = weights.stored[name]
    if len(stored.shape) != 2 or max(ids) >= stored.shape[0]:
        raise ExportError(
            f"family {family!r} reads rows {ids} of {name}, which has shape {stored.shape}; the "
            "tokenizer belongs to another model"
        )

    def rows() -> Array:
        return np.ascontiguousarray(stored.read()[ids])

    shape = (len(ids), stored.shape[1])
    return weights.including({"score.weight": Stored(shape, rows), _BIAS: _zeros(len(ids))})


def _token_id(tokenizer: Tokenizer, text: str, source: TokenRows, family: str) -> int:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    if not ids or (len(ids) > 1 and not source.first_of_several):
        raise ExportError(
            f"family {family!r} reads the probability of {text!r}, which the tokenizer makes into "
            f"{len(ids)} tokens, expected one; check --family, and that the tokenizer is the PRM's "
            "own"
        )
    return ids[0]


def _check_shape(weights: StoredWeights, head: Head, family: str, hidden_size: int) -> None:
    last = "score.2.weight" if head.kind == "mlp_relu" else "score.weight"
    found = weights.stored[last].shape if last in weights else None
    expected = (head.num_labels, hidden_size)
    if found == expected:
        return
    others = _other_heads(weights, last)
    if found is not None:
        raise ExportError(
            f"family {family!r} needs {last} of shape {expected}, but the model has {found}"
            f"{others}; check that it is a PRM of that family"
        )
    raise ExportError(
        f"family {family!r} needs {last} of shape {expected}, but the model has none{others}; if "
        "it is a model of that family, its head was saved elsewhere, or lost: give the files that "
        "it was trained or published with"
    )


def _other_heads(weights: StoredWeights, named: str) -> str:
    """The tensors that may be a head of another kind, in words."""
    found = [
        f"{name} {weights.stored[name].shape}"
        for name in sorted(weights)
        if name != named and not name.startswith(("model.", "lm_head."))
    ]
    return f" (beside {', '.join(found[:4])})" if found else ""


def _zeros(size: int) -> Stored:
    return Stored.of(np.zeros(size, dtype=np.float32))
