"""What went wrong between here and the Hub, in one sentence with the way out.

No text of another library's error is passed on: some of them quote the header with the token.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable
from pathlib import Path

from rfprm_runtime.hub.ids import HubId

LOG_IN = "log in with 'hf auth login', or set HF_TOKEN"
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_HTTP_PACKAGES = ("httpx", "httpx2", "httpcore", "httpcore2", "requests", "urllib3")
_BEFORE_AN_ANSWER = ("Connect", "Pool", "Proxy", "Name", "SSL", "Unsupported", "NewConnection")


def not_cached(hub_id: HubId, cache: Path, what: str = "", *, others: Iterable[str] = ()) -> str:
    """The sentence for what is needed, not in the cache, and must not be fetched. ``others``:
    revisions of the model that are there."""
    part = f"{what} of " if what else ""
    taken = " (the revision that is taken where none is named)" if hub_id.is_pinned else ""
    there = [f"{hub_id.repo}@{revision}" for revision in others]
    instead = f", or take the one that is there: {' or '.join(there)}" if there else ""
    return (
        f"{part}the model {hub_id}{taken} is not in the Hub's cache {cache}, and HF_HUB_OFFLINE "
        f"forbids to fetch it; unset HF_HUB_OFFLINE, or give a folder{instead}"
    )


def sentence_for(error: BaseException, hub_id: HubId, *, endpoint: str, cache: Path) -> str:
    """What an error of huggingface_hub, of its HTTP library or of the system means."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError):
        # Also how it reports any error once it has looked into the cache in vain.
        cause = error.__cause__
        if cause is None or isinstance(cause, errors.OfflineModeIsEnabled):
            return not_cached(hub_id, cache)
        return sentence_for(cause, hub_id, endpoint=endpoint, cache=cache)
    if isinstance(error, errors.OfflineModeIsEnabled):
        return not_cached(hub_id, cache)
    if isinstance(error, errors.HfHubHTTPError):
        return _answer(error, hub_id, endpoint)
    if isinstance(error, OSError) and error.errno is not None:
        return _system(error, hub_id, cache)
    package, name = type(error).__module__.partition(".")[0], type(error).__name__
    if package in _HTTP_PACKAGES and name.startswith(_BEFORE_AN_ANSWER):
        return (
            f"the Hub at {endpoint} cannot be reached ({name}), to read {hub_id}; check the "
            "network and HF_ENDPOINT, or set HF_HUB_OFFLINE=1 to use what is in the cache"
        )
    if package in _HTTP_PACKAGES or isinstance(error, OSError):
        return (
            f"the download of {hub_id} was cut off ({name}); run the same again: files that are "
            "whole are kept"
        )
    return f"the model {hub_id} cannot be read from {endpoint} ({name}); try again"


def _answer(error: BaseException, hub_id: HubId, endpoint: str) -> str:
    """What the Hub's refusal means."""
    from huggingface_hub import errors, get_token

    page = f"{endpoint}/{hub_id.repo}"
    if isinstance(error, errors.GatedRepoError):
        return (
            f"the model {hub_id.repo} is gated: accept its terms on {page}, then {LOG_IN}"
            f"{'; the token in use has no access to it' if get_token() else ''}"
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        seen = "that the token in use may read" if get_token() else "that is public"
        return (
            f"the Hub at {endpoint} has no model {hub_id.repo} {seen}; check the name, and if it "
            f"is private, {LOG_IN}"
        )
    if isinstance(error, errors.RevisionNotFoundError) and hub_id.is_pinned:
        return (
            f"the model {hub_id.repo} no longer has the commit {hub_id.revision}, which is taken "
            f"where no revision is named; name one that {page} shows, or take the newest as "
            f"{hub_id.newest}"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return (
            f"the model {hub_id.repo} has no revision {hub_id.revision or 'main'}; give a branch, "
            f"a tag or a commit that {page} shows"
        )
    if isinstance(error, errors.EntryNotFoundError):
        return f"a file that {hub_id} lists is not there; try again later"
    if isinstance(error, errors.DisabledRepoError):
        return f"the Hub has disabled the model {hub_id.repo}; {page} may say why"
    status = getattr(getattr(error, "response", None), "status_code", 0)
    if status == 401:
        return f"the Hub at {endpoint} does not accept the token in use; {LOG_IN} with a valid one"
    if status == 403:
        return f"the token in use may not read {hub_id.repo}; {LOG_IN} with one that may"
    if status == 429:
        return f"the Hub at {endpoint} had too many requests from here; wait, or {LOG_IN}"
    return f"the Hub at {endpoint} answered {status} for {hub_id}; try again later"


def _system(error: OSError, hub_id: HubId, cache: Path) -> str:
    elsewhere = "set HF_HOME to a folder elsewhere"
    if error.errno in _NO_SPACE:
        return (
            f"the disk of the Hub's cache {cache} is full, so {hub_id} cannot be fetched; make "
            f"room, or {elsewhere}"
        )
    if error.errno in _NOT_WRITABLE:
        return f"the Hub's cache {cache} cannot be written; make it writable, or {elsewhere}"
    return f"{hub_id} cannot be put into the Hub's cache {cache}: {error.strerror}; {elsewhere}"
