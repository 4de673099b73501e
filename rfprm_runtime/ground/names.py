"""What a name in untrusted data may be: a package, a file of its own folder, a path inside it.

Whatever takes a name out of a checkpoint, a manifest, an index or a graph asks here first. Nothing
here imports what a name names. Each check raises :class:`InvalidArgumentError`, or the class that
``refusal`` names.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator

from rfprm_runtime.errors import InvalidArgumentError, RfprmError
from rfprm_runtime.ground.arguments import shown

Refusal = type[RfprmError]
MAX_NAME_BYTES = 255
"""Of one part of a path: the limit of common file systems."""
MAX_PARTS = 16
_PACKAGE = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_][A-Za-z0-9]+)*")
_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+!_-]{0,63}")
# Windows opens a device under these names, in any folder and with any suffix.
_DEVICES = re.compile(r"(?i)(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$)(\..*)?")
_NEVER_IN_A_FILE_NAME = re.compile(r'[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff<>:"|?*/\\]')


def check_package_name(name: str, *, refusal: Refusal = InvalidArgumentError) -> str:
    """``name`` if it is that of a top-level package: letters, digits, ``-`` and ``_``. A dotted
    name is refused, because finding a submodule imports its parents."""
    if len(name) > 100 or not _PACKAGE.fullmatch(name):
        raise refusal(
            f"{shown(name)} is not the name of a package: expected letters, digits and single - or "
            "_ between them, without dots"
        )
    return name


def check_version(version: str, *, refusal: Refusal = InvalidArgumentError) -> str:
    """``version`` if it is one of a package, which is safe to print in a command."""
    if not _VERSION.fullmatch(version):
        raise refusal(f"{shown(version)} is not the version of a package, such as 1.2.0")
    return version


def check_file_name(name: str, *, refusal: Refusal = InvalidArgumentError) -> str:
    """``name`` if it is that of a file in one folder, on every system: no path, no ``..``, no
    drive, no device, no control characters."""
    problem = _problem_of(name)
    if problem:
        raise refusal(f"{shown(name)} is not the name of a file in its folder: {problem}")
    return name


def check_inner_path(name: str, *, refusal: Refusal = InvalidArgumentError) -> str:
    """``name`` if it is a relative path with ``/`` between plain names, so that it cannot leave
    the folder that it is joined to."""
    parts = name.split("/")
    problem = f"more than {MAX_PARTS} folders" if len(parts) > MAX_PARTS else ""
    problem = problem or next(filter(None, map(_problem_of, parts)), "")
    if problem:
        raise refusal(f"{shown(name)} is not a path inside its folder: {problem}")
    return name


def _problem_of(name: str) -> str:
    """Why ``name`` is not one plain part of a path; empty if it is."""
    if not name:
        return "a part is empty"
    if name in (".", ".."):
        return f"{name!r} is no name"
    found = _NEVER_IN_A_FILE_NAME.search(name)
    if found:
        return f"it holds {found.group()!r}"
    if _DEVICES.fullmatch(name):
        return "it is a device of Windows"
    if name.endswith((" ", ".")):
        return "Windows drops the space or dot at its end"
    if len(name.encode()) > MAX_NAME_BYTES:
        return f"it has {len(name.encode())} bytes, the limit is {MAX_NAME_BYTES}"
    return ""


def file_in(folder: Path, name: str, *, refusal: Refusal, way_out: str) -> Path:
    """The regular file ``name`` (see :func:`check_inner_path`) of ``folder``.

    A link must stay inside the folder; only the Hub's cache, which keeps its files beside the
    folder, is known. Raises ``refusal`` for anything else, a device or a folder for example, for a
    file that is missing or may not be read, and for what Git LFS left in its place; the message
    ends in ``way_out``.
    """
    path = folder / check_inner_path(name, refusal=refusal)
    try:
        place = path.resolve(strict=True)
        is_file = stat.S_ISREG(place.stat().st_mode)
        is_readable = os.access(place, os.R_OK)
    except FileNotFoundError:
        raise refusal(f"{path} is missing; {way_out}") from None
    except (OSError, ValueError, RuntimeError) as error:  # too long, forbidden, a circle of links
        raise refusal(f"{path} cannot be opened ({error}); {way_out}") from None
    if not any(place.is_relative_to(home) for home in _homes(folder)):
        raise refusal(
            f"{path} is a link out of its folder, to {place}; put the file itself there if you "
            "trust it"
        )
    if not is_file:
        raise refusal(f"{path} is not a regular file; {way_out}")
    if not is_readable:
        raise refusal(f"{path} may not be read: permission denied; {way_out}")
    check_is_content(path, refusal=refusal)
    return path


_LFS_POINTER = b"version https://git-lfs.github.com/spec/"


def check_is_content(path: Path, *, refusal: Refusal) -> None:
    """Raises ``refusal`` if a file is the pointer that a clone without Git LFS has in its place."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
    except OSError:  # whoever reads it will say why
        return
    if is_pointer:
        raise refusal(
            f"{path} is a Git LFS pointer, not the file itself; run git lfs pull in its folder, or "
            "download the file"
        )


def holds_file(folder: Path, name: str) -> bool:
    """Whether ``folder`` has anything under the plain ``name``, a broken link or a folder too:
    :func:`file_in` then says what is wrong with it."""
    return os.path.lexists(folder / name)


_CACHED = re.compile(r"(?:models|datasets|spaces|kernels)--.+")
_SHARED_BLOBS_MARK = ".huggingface-shared-blobs"


def _homes(folder: Path) -> list[Path]:
    """Where links of ``folder`` may lead: into itself, and from a snapshot of the Hub's cache into
    the blobs of the same repository, or into those that all repositories share.

    Source: ``file_download`` and ``utils/_shared_blobs`` of huggingface_hub 2.4: a snapshot's links
    lead to ``models--org--name/blobs``, where those of Xet are links to the cache's own ``blobs``.
    """
    own = folder.resolve()
    repository = own.parent.parent
    if own.parent.name != "snapshots" or not _CACHED.fullmatch(repository.name):
        return [own]
    shared = repository.parent / "blobs"
    is_shared = (shared / _SHARED_BLOBS_MARK).is_file()
    homes = [own, repository / "blobs", *([shared] if is_shared else [])]
    return [home for home in homes if not home.is_symlink()]


def find_package(name: str) -> list[Path]:
    """The folders of an installed top-level package, found without importing anything.

    The working directory does not count: it may be the folder of the very data that names the
    package. Raises :class:`InvalidArgumentError` for a name that is not one.
    """
    module = check_package_name(name).replace("-", "_")
    # Not importlib.util.find_spec, which asks whatever finders are installed and trusts modules
    # that are already imported.
    spec = PathFinder.find_spec(module, [place for place in sys.path if _is_installed(place)])
    return [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []


def _is_installed(place: str) -> bool:
    """Whether an entry of ``sys.path`` is a fixed place other than the working directory."""
    if not os.path.isabs(place) or not os.path.exists(place):
        return False
    return not os.path.samefile(place, os.curdir)


PackageName = Annotated[str, AfterValidator(check_package_name)]
Version = Annotated[str, AfterValidator(check_version)]
FileName = Annotated[str, AfterValidator(check_file_name)]
