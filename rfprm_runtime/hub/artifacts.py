"""Artifacts that somebody published on the Hub.

``prm.json`` is fetched first, and compared with the pinned digest, if there is one; then the files
that it names, and no others.
"""

from __future__ import annotations

from pathlib import Path

from rfprm_runtime.artifact.manifest import MANIFEST_NAME, OF_A_MODEL, read_manifest
from rfprm_runtime.errors import ArtifactError
from rfprm_runtime.ground.arguments import check_is
from rfprm_runtime.hub.ids import HubId, parse_hub_id, place_of_model
from rfprm_runtime.hub.repository import Repository, open_repository


def find_artifact(artifact: str | Path, *, sha256: str | None = None) -> Path:
    """The folder of an artifact: a path as it is, or a repository of the Hub, fetched if need be.

    What names which says :func:`~rfprm_runtime.hub.ids.place_of_model`; a path is not looked at.
    Raises like :func:`download_artifact`.
    """
    check_is("artifact", artifact, (str, Path), "the folder of an artifact, or org/name of the Hub")
    place = place_of_model(artifact)
    return place if isinstance(place, Path) else _download(place, sha256)


def download_artifact(hub_id: str, *, sha256: str | None = None) -> Path:
    """Fetch an artifact from the Hub into the Hub's cache; returns its folder, for
    :meth:`Scorer.load <rfprm_runtime.Scorer.load>`.

    ``hub_id``: ``org/name`` or ``org/name@revision``. ``sha256``: the digest that its ``prm.json``
    must have; otherwise no other file is fetched. Files that are in the cache are not fetched
    again, and with ``HF_HUB_OFFLINE`` nothing is.

    Raises :class:`~rfprm_runtime.errors.InvalidArgumentError` if ``hub_id`` is no such name,
    :class:`~rfprm_runtime.errors.ArtifactError` if the Hub does not give it or if it is no
    artifact, and :class:`~rfprm_runtime.errors.MissingExtraError` without huggingface_hub.
    """
    check_is("hub_id", hub_id, str, "org/name or org/name@revision")
    return _download(parse_hub_id(hub_id), sha256)


def _download(hub_id: HubId, sha256: str | None) -> Path:
    repository = open_repository(hub_id, refusal=ArtifactError)
    _check_is_artifact(repository)
    folder = repository.fetch([MANIFEST_NAME])
    manifest = read_manifest(folder, sha256=sha256)
    return repository.fetch(manifest.files)


def _check_is_artifact(repository: Repository) -> None:
    if MANIFEST_NAME in repository.file_names:
        return
    if repository.file_names & set(OF_A_MODEL):
        raise ArtifactError(
            f"the repository {repository.asked} holds a model, but no {MANIFEST_NAME}: export it "
            f"first: rfprm export {repository.asked} -o artifacts/{repository.name}"
        )
    raise ArtifactError(
        f"the repository {repository.asked} holds no {MANIFEST_NAME}, so it is not an artifact; "
        "check the name"
    )
