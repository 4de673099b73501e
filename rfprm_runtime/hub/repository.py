"""Fetches files of one commit of a repository into the Hub's own cache, by huggingface_hub.

The cache, its folder, offline mode, the endpoint and the token are huggingface_hub's: this module
sets none of them and never sees the token.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rfprm_runtime.errors import MissingExtraError, RfprmError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.names import check_file_name
from rfprm_runtime.ground.whole_files import write_whole
from rfprm_runtime.hub.ids import HubId
from rfprm_runtime.hub.refusals import not_cached, sentence_for

Answer = TypeVar("Answer")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_TIMEOUT_S = 30.0
_TRUE = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class _Settings:
    """Where the Hub and its cache are, and whether the network may be used."""

    endpoint: str
    cache: Path
    is_offline: bool

    @property
    def shown_endpoint(self) -> str:
        """For messages: an address may hold a user and a password."""
        return re.sub(r"//[^/]*@", "//", self.endpoint)

    @classmethod
    def now(cls) -> _Settings:
        """huggingface_hub reads the environment when it is imported, which may have been long ago
        in a process that embeds us: what is set now comes first."""
        from huggingface_hub import constants

        home, hub = os.environ.get("HF_HOME"), os.environ.get("HF_HUB_CACHE")
        cache = hub or (os.path.join(home, "hub") if home else constants.HF_HUB_CACHE)
        return cls(
            endpoint=(os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/"),
            cache=Path(os.path.expandvars(cache)).expanduser(),
            is_offline=bool(constants.HF_HUB_OFFLINE)
            or os.environ.get("HF_HUB_OFFLINE", "").lower() in _TRUE,
        )


@dataclass(frozen=True)
class Repository:
    """One commit of a repository, of which some files may be here."""

    asked: HubId
    commit: str
    """The full hash: what a branch or tag stood for when it was asked."""
    file_names: frozenset[str]
    """All files of the commit; offline those in the cache."""
    folder: Path
    """Of the commit in the cache: fetched files are there, by their names."""
    settings: _Settings
    refusal: type[RfprmError]

    @property
    def name(self) -> str:
        return self.asked.name

    @property
    def record(self) -> dict[str, str]:
        """What a manifest says about where weights came from."""
        origin = {"repo": self.asked.repo, "revision": self.commit}
        if self.asked.is_pinned:
            origin["pinned"] = f"no revision was named; the newest one is {self.asked.newest}"
        return origin

    def fetch(self, names: Iterable[str]) -> Path:
        """Get those files of the commit that are not here yet; returns their folder.

        Files are put in their place whole: what an interrupted call had fetched is not fetched
        again. Raises ``refusal`` for a name that is not a plain file of the repository, and with
        one sentence for whatever stops the download.
        """
        for name in names:
            self._fetch(check_file_name(name, refusal=self.refusal))
        return self.folder

    def check_is_cached(self, what: str, *, is_here: bool) -> None:
        """Raises ``refusal`` if ``what`` is not here and may not be fetched: offline nobody knows
        whether the repository has it."""
        if self.settings.is_offline and not is_here:
            raise self.refusal(not_cached(self.asked, self.settings.cache, what))

    def _fetch(self, name: str) -> None:
        from huggingface_hub import hf_hub_download

        self.check_is_cached(name, is_here=name in self.file_names)
        if name not in self.file_names:
            raise self.refusal(f"the model {self.asked} holds no file {name!r} at {self.commit}")
        found = self._asked(
            lambda: hf_hub_download(
                self.asked.repo,
                name,
                revision=self.commit,
                cache_dir=self.settings.cache,
                endpoint=self.settings.endpoint,
                local_files_only=self.settings.is_offline,
            )
        )
        if Path(found).parent.name != self.commit:
            raise self.refusal(
                f"the Hub at {self.settings.shown_endpoint} gave {name} of another commit than "
                f"{self.commit}; check HF_ENDPOINT"
            )
        self._remember()

    def _remember(self) -> None:
        """Note what the branch or tag stood for, as huggingface_hub does: offline mode asks."""
        revision = self.asked.revision or "main"
        if _COMMIT.fullmatch(revision) or self.settings.is_offline:
            return
        place = _storage(self.settings.cache, self.asked.repo) / "refs" / revision
        try:
            if not place.is_file() or place.read_text() != self.commit:
                place.parent.mkdir(parents=True, exist_ok=True)
                write_whole(place, self.commit)
        except (OSError, RfprmError):
            pass  # the files are here; only offline mode will not know the branch

    def _asked(self, call: Callable[[], Answer]) -> Answer:
        return _asked(call, self.asked, self.settings, self.refusal)


def open_repository(hub_id: HubId, *, refusal: type[RfprmError]) -> Repository:
    """Ask the Hub, or in offline mode its cache, for the commit and the files of a repository;
    no file is fetched.

    Raises ``refusal`` in one sentence: not there, gated, private, unreachable, not cached. Raises
    :class:`MissingExtraError` without huggingface_hub.
    """
    try:
        import huggingface_hub
    except ImportError:
        raise MissingExtraError("huggingface_hub", "hub", "reading models of the Hub") from None
    settings = _Settings.now()
    if settings.is_offline:
        return _cached(hub_id, settings, refusal)
    api = huggingface_hub.HfApi(endpoint=settings.endpoint)
    info = _asked(
        lambda: api.model_info(hub_id.repo, revision=hub_id.revision, timeout=_TIMEOUT_S),
        hub_id,
        settings,
        refusal,
    )
    commit = info.sha or ""
    if not _COMMIT.fullmatch(commit):
        raise refusal(
            f"the Hub at {settings.shown_endpoint} answered {shown(commit)} for the commit of "
            f"{hub_id}; check HF_ENDPOINT"
        )
    names = frozenset(file.rfilename for file in info.siblings or ())
    folder = _storage(settings.cache, hub_id.repo) / "snapshots" / commit
    return Repository(hub_id, commit, names, folder, settings, refusal)


def _cached(hub_id: HubId, settings: _Settings, refusal: type[RfprmError]) -> Repository:
    """What the cache holds of a repository."""
    storage, commit = _storage(settings.cache, hub_id.repo), hub_id.revision or "main"
    try:
        if not _COMMIT.fullmatch(commit):
            commit = (storage / "refs" / commit).read_text().strip()
        folder = storage / "snapshots" / commit
        names = frozenset(file.name for file in folder.iterdir())
    except (OSError, ValueError):
        names = frozenset()
    if not names or not _COMMIT.fullmatch(commit):
        raise refusal(not_cached(hub_id, settings.cache, others=_revisions(storage)))
    return Repository(hub_id, commit, names, folder, settings, refusal)


def _revisions(storage: Path) -> list[str]:
    """The branches and tags of a repository in the cache whose commit is there."""
    try:
        refs = [place for place in sorted((storage / "refs").rglob("*")) if place.is_file()]
        known = [(place, place.read_text().strip()) for place in refs]
    except (OSError, ValueError):
        return []
    return [
        place.relative_to(storage / "refs").as_posix()
        for place, commit in known
        if _COMMIT.fullmatch(commit) and (storage / "snapshots" / commit).is_dir()
    ]


def _storage(cache: Path, repo: str) -> Path:
    """The folder of a repository in the cache. Source: "Understand caching" of the manual of
    huggingface_hub."""
    return cache / f"models--{repo.replace('/', '--')}"


def _asked(
    call: Callable[[], Answer], hub_id: HubId, settings: _Settings, refusal: type[RfprmError]
) -> Answer:
    """The call's answer. Its errors are raised anew outside of ``except``: even their context may
    quote a token."""
    try:
        return call()
    except Exception as error:  # of huggingface_hub, its HTTP library, or the system
        place = settings.shown_endpoint
        sentence = sentence_for(error, hub_id, endpoint=place, cache=settings.cache)
    raise refusal(sentence)
