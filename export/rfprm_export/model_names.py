"""Whether a folder or repository has the name of a published model."""

from __future__ import annotations

from fnmatch import fnmatchcase


def is_called(name: str, pattern: str) -> bool:
    """Whether ``name`` is one that ``pattern`` (in small letters, without the owner) describes.

    People who download a model write its owner into the folder's name: ``org--name`` and
    ``models--org--name`` as the Hub's cache does, or ``org_name``.
    """
    small = name.lower()
    without_owner = (small.rpartition("--")[2], small.partition("_")[2])
    return any(fnmatchcase(one, pattern) for one in (small, *without_owner))
