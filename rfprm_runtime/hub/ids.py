"""What names a model: a path of this machine, or a repository of the Hub.

One rule for checkpoints, base models and artifacts. Asks neither the network nor the Hub's cache.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from rfprm_runtime.errors import InvalidArgumentError, RfprmError
from rfprm_runtime.ground.arguments import shown

HUB_PREFIX = "hf://"
EXPECTED = "org/name or org/name@revision, where the revision is a branch, a tag or a commit"
_PART = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?")
_REVISION = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.+/-]*[A-Za-z0-9_])?")
_MAX_REPO, _MAX_REVISION = 96, 200
# What ends like this was meant to be a file here.
_FILE_SUFFIXES = (".gguf", ".safetensors", ".bin", ".pt", ".pth", ".onnx", ".json", ".jsonl")
# Where people keep their own models. A mistyped path in them must not become the model of a
# stranger who took that name on the Hub.
_OWN_FOLDERS = ("artifacts", "checkpoints", "data", "models", "out", "output", "outputs", "runs")


@dataclass(frozen=True)
class HubId:
    """A repository of the Hub, at a revision or at the newest."""

    repo: str
    """``org/name``."""
    revision: str | None = None
    """A branch, tag or commit; None for ``main``."""
    is_pinned: bool = False
    """Whether the revision is not the user's word but the one that is taken where there is none."""

    def __str__(self) -> str:
        return self.repo if self.revision is None else f"{self.repo}@{self.revision}"

    @property
    def name(self) -> str:
        """The repository's name without its owner."""
        return self.repo.partition("/")[2]

    @property
    def newest(self) -> str:
        """What a user writes for the newest revision, whichever is taken otherwise."""
        return f"{self.repo}@main"


def parse_hub_id(text: str, *, refusal: type[RfprmError] = InvalidArgumentError) -> HubId:
    """``org/name[@revision]``, with or without ``hf://``. Raises ``refusal`` for anything else."""
    repo, at, revision = text.removeprefix(HUB_PREFIX).partition("@")
    problem = _problem_of(repo) or (_problem_of_revision(revision) if at else "")
    if problem:
        raise refusal(f"{shown(text)} does not name a model of the Hub: {problem}")
    return HubId(repo, revision or None)


def _problem_of(repo: str) -> str:
    parts = repo.split("/")
    if len(parts) != 2 or not all(map(_PART.fullmatch, parts)) or len(repo) > _MAX_REPO:
        return f"expected {EXPECTED}"
    if "--" in repo or ".." in repo or repo.endswith(".git"):
        return "the Hub has no names with -- or .. in them, or .git at the end"
    return ""


def _problem_of_revision(revision: str) -> str:
    if not _REVISION.fullmatch(revision) or len(revision) > _MAX_REVISION:
        return f"{shown(revision)} is not a revision; expected {EXPECTED}"
    return "a revision has no .. or // in it" if ".." in revision or "//" in revision else ""


def place_of_model(place: str | Path) -> Path | HubId:
    """The path or the repository that a user's word for a model means.

    What exists here is a path, and so is everything written as a :class:`Path`. Otherwise a text of
    the form ``org/name[@revision]`` names a repository, unless ``org`` is a folder here or usually
    is one (``runs/mine``): such a text is a mistyped path. ``hf://org/name`` always names a
    repository. Raises :class:`InvalidArgumentError` for ``hf://`` before anything else.
    """
    if isinstance(place, Path):
        return place
    if place.startswith(HUB_PREFIX):
        return parse_hub_id(place)
    try:
        found = parse_hub_id(place)
    except InvalidArgumentError:
        return Path(place)
    return Path(place) if os.path.lexists(place) or _looks_like_a_path(found) else found


def _looks_like_a_path(found: HubId) -> bool:
    owner = found.repo.partition("/")[0]
    is_file = found.repo.lower().endswith(_FILE_SUFFIXES)
    return is_file or owner in _OWN_FOLDERS or os.path.isdir(owner)


def hint_for_missing(place: Path) -> str:
    """What to add to the message that a path does not exist."""
    try:
        found = parse_hub_id(place.as_posix())
    except InvalidArgumentError:
        return ""
    return f"; if you mean the model of the Hub, write {HUB_PREFIX}{found}"


def snapshot_id(folder: Path) -> HubId | None:
    """The repository and the commit of a folder of the Hub's cache; None for any other folder."""
    parts = PurePosixPath(folder.resolve().as_posix()).parts
    if len(parts) < 3 or parts[-2] != "snapshots" or not parts[-3].startswith("models--"):
        return None
    repo = parts[-3].removeprefix("models--").replace("--", "/")
    return None if _problem_of(repo) else HubId(repo, parts[-1])
