"""Where a model's files are: a folder, a GGUF file, or a repository of the Hub.

A folder is not taken on trust, nor is a repository: what kind of model it holds is decided by the
names of its files, and two models in one place are refused. Of a repository only small files that
describe the model are fetched at first; the rest when :meth:`Source.fetch` asks.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rfprm_export import ExportError
from rfprm_export.base_model import CONFIG_NAME
from rfprm_export.chat_template import TEMPLATE_NAMES, TOKENIZER_CONFIG_NAME
from rfprm_export.lora import ADAPTER_CONFIG_NAME, ADAPTER_NAMES
from rfprm_export.pinned_revisions import pinned
from rfprm_export.vocabulary.added_tokens import SPECIAL_NAME
from rfprm_export.vocabulary.folder import (
    MERGES_NAME,
    SENTENCEPIECE_NAME,
    TOKENIZER_NAME,
    VOCABULARY_NAME,
)
from rfprm_export.weights_folder import chosen_weights, holds_weights, weights_named_by
from rfprm_runtime.artifact.manifest import MANIFEST_NAME
from rfprm_runtime.hub.artifacts import download_artifact
from rfprm_runtime.hub.ids import EXPECTED, HubId, hint_for_missing, place_of_model, snapshot_id
from rfprm_runtime.hub.repository import Repository, open_repository

CHECKPOINT_NAME = "checkpoint.json"
Place = str | Path | HubId
"""What a user writes for a model, see :func:`~rfprm_runtime.hub.ids.place_of_model`."""
Kind = Literal["model", "adapter", "checkpoint", "gguf"]
_DESCRIPTIONS = (CONFIG_NAME, ADAPTER_CONFIG_NAME, CHECKPOINT_NAME)
_TOKENIZER_NAMES = (TOKENIZER_NAME, TOKENIZER_CONFIG_NAME, SPECIAL_NAME, *TEMPLATE_NAMES)
_SLOW_TOKENIZER_NAMES = (
    SENTENCEPIECE_NAME,
    VOCABULARY_NAME,
    MERGES_NAME,
    "added_tokens.json",
)
_PACKED = re.compile(r"(?i:(\.i1)?[.-](i?q[0-9]\w*|b?fp?(16|32)))$")
"""What people who pack a model write behind its name: how."""


@dataclass(frozen=True)
class Source:
    """A model that is not read yet, perhaps not even here."""

    path: Path
    """A folder, or a GGUF file; of a repository the folder of its commit in the Hub's cache."""
    name: str
    """The folder's or the repository's, which may tell what the model is."""
    kind: Kind
    file_names: frozenset[str]
    """All files at the top of the folder or repository, also those that are not here yet; empty for
    a GGUF file."""
    record: dict[str, str]
    """Where it came from, for a manifest: the name of a folder, or a repository and its commit."""
    repository: Repository | None = None
    """None for what was here all along."""

    def fetch(self, names: Iterable[str]) -> None:
        """Make sure that those of ``names`` that there are, are here. Raises :class:`ExportError`
        if the Hub does not give one."""
        if self.repository is not None:
            self.repository.fetch(name for name in names if name in self.file_names)

    def fetch_tokenizer(self) -> None:
        """The tokenizer, if there is one."""
        has_fast = TOKENIZER_NAME in self.file_names
        if self.repository is not None and self.kind == "model":
            is_here = has_fast or bool(self.file_names & set(_SLOW_TOKENIZER_NAMES))
            self.repository.check_is_cached("the tokenizer", is_here=is_here)
        self.fetch(_TOKENIZER_NAMES if has_fast else (*_TOKENIZER_NAMES, *_SLOW_TOKENIZER_NAMES))

    def fetch_weights(self) -> None:
        """The files that :func:`~rfprm_export.weights_folder.open_weights` reads, and no others:
        one format, no optimizer states, no code."""
        if self.repository is None:
            return
        is_here = holds_weights(self.file_names)
        self.repository.check_is_cached("the weights", is_here=is_here)
        choice = chosen_weights(self.file_names, f"the repository {self.repository.asked}")
        self.fetch([choice.kind.index] if choice.has_index else ())
        self.repository.fetch(weights_named_by(choice, self.path))


def open_source(place: Place | Source) -> Source:
    """Find a model, and decide what kind it is by the names of its files.

    Raises :class:`ExportError`: nothing is there, the Hub does not give it, it is no model, or
    there are two.
    """
    if isinstance(place, Source):
        return place
    found = place if isinstance(place, HubId) else place_of_model(place)
    if isinstance(found, HubId):
        return _of_repository(open_repository(pinned(found), refusal=ExportError))
    return _of_path(found)


def artifact_or_source(place: Place) -> Path | Source:
    """For commands that take both: the folder of an artifact, fetched if it is on the Hub, or else
    a :class:`Source`. Raises like :func:`open_source`, and :class:`ArtifactError`."""
    found = place if isinstance(place, HubId) else place_of_model(place)
    if isinstance(found, Path):
        return found if os.path.isfile(found / MANIFEST_NAME) else open_source(found)
    repository = open_repository(pinned(found), refusal=ExportError)
    if MANIFEST_NAME in repository.file_names:
        return download_artifact(str(found))
    return _of_repository(repository)


def _of_path(path: Path) -> Source:
    if not os.path.exists(path):  # Path.exists raises for some names
        raise ExportError(
            f"there is no checkpoint {str(path)!r}; expected a folder, a GGUF file, or a model of "
            f"the Hub as {EXPECTED}{hint_for_missing(path)}"
        )
    if os.path.isfile(path) and path.suffix == ".gguf":
        name = _PACKED.sub("", path.stem)
        return Source(path, name, "gguf", frozenset(), {"file": path.name})
    names = _listed(path) if os.path.isdir(path) else frozenset[str]()
    kind = _kind(names, str(path))
    cached = snapshot_id(path)
    if cached is not None and cached.revision is not None:
        origin = {"repo": cached.repo, "revision": cached.revision}
        return Source(path, cached.name, kind, names, origin)
    name = path.resolve().name
    return Source(path, name, kind, names, {"folder": name})


def _of_repository(repository: Repository) -> Source:
    kind = _kind(repository.file_names, f"the repository {repository.asked}")
    source = Source(
        repository.folder,
        repository.name,
        kind,
        repository.file_names,
        repository.record,
        repository,
    )
    source.fetch(_DESCRIPTIONS)
    return source


def _listed(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except OSError as error:
        raise ExportError(f"{folder} cannot be listed: {error}") from None


def _kind(names: frozenset[str], place: str) -> Kind:
    """Raises :class:`ExportError` if the names are those of no model, or of two."""
    if CHECKPOINT_NAME in names:
        if CONFIG_NAME in names:
            raise ExportError(
                f"{place} holds a training checkpoint ({CHECKPOINT_NAME}) and a whole model "
                f"({CONFIG_NAME}); keep each in a folder of its own"
            )
        return "checkpoint"
    if ADAPTER_CONFIG_NAME in names or names & set(ADAPTER_NAMES):
        _check_adapter_is_alone(names, place)
        return "adapter"
    if CONFIG_NAME in names:
        return "model"
    if MANIFEST_NAME in names:
        raise ExportError(
            f"{place} is an artifact already ({MANIFEST_NAME}); score with it, or export the "
            "checkpoint that it was made from"
        )
    packed = sorted(name for name in names if name.endswith(".gguf"))
    more = f"; it holds {packed[0]}: give that file by itself" if packed else ""
    raise ExportError(
        f"{place} is neither a .gguf file nor a folder with a config.json; give a training "
        f"checkpoint, a Hugging Face model folder, a GGUF file or a model of the Hub as "
        f"{EXPECTED}{more}"
    )


def _check_adapter_is_alone(names: frozenset[str], place: str) -> None:
    """An adapter's folder may hold its base's ``config.json``, but not a model: nothing would tell
    whether the adapter is merged into it."""
    if CONFIG_NAME not in names:
        return
    try:
        choice = chosen_weights(names, place)
    except ExportError:  # no weights, or not those of one model
        return
    beside = choice.kind.index if choice.has_index else choice.names[0]
    raise ExportError(
        f"{place} holds a whole model ({beside}) and an adapter ({ADAPTER_CONFIG_NAME}), and does "
        "not tell whether the one is merged into the other; keep the model alone if it is, or move "
        "the adapter to a folder of its own and give the model with --base"
    )
