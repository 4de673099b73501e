"""Migrates a manifest from an older version to today's format, one version at a time.

Works on the plain content of ``prm.json``, before it is validated; knows no model. For a change
that older readers would misunderstand, raise ``FORMAT_VERSION`` (and the ``Literal`` in
:class:`~rfprm_runtime.artifact.manifest.Manifest`) and add the step from the previous version to
``STEPS``. docs/stability.md says which changes need that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rfprm_runtime.errors import ManifestError

FORMAT_VERSION = 1
Content = dict[str, Any]
STEPS: dict[int, Callable[[Content], Content]] = {}
"""``STEPS[n]`` turns the content of version n into that of n + 1. It may change its argument."""
MAY_IGNORE = "may_ignore"
"""A list of top-level fields that a reader may drop if it does not know them, because no score
depends on them. The writer of such a field lists it there; readers refuse all others."""


def migrate(content: Any, *, known: set[str], origin: str) -> Content:
    """``content`` in today's format, without the unknown fields that may be ignored.

    ``known``: today's top-level fields. Raises :class:`ManifestError` for anything but a manifest,
    for a newer version, and for one too old to migrate.
    """
    version = content.get("format_version") if isinstance(content, dict) else None
    if not isinstance(version, int):
        raise ManifestError(f"{origin} has no format_version; it is not a PRM manifest")
    if version > FORMAT_VERSION:
        raise ManifestError(
            f"{origin} has format_version {version}, this rfprm_runtime reads versions up to "
            f"{FORMAT_VERSION}; upgrade rfprm_runtime"
        )
    content = dict(content)
    while version < FORMAT_VERSION:
        if version not in STEPS:
            raise ManifestError(
                f"{origin} has format_version {version}, which this rfprm_runtime no longer reads; "
                "export the model again"
            )
        version += 1
        content = {**STEPS[version - 1](content), "format_version": version}
    return _without_ignorable(content, known, origin)


def _without_ignorable(content: Content, known: set[str], origin: str) -> Content:
    names = content.pop(MAY_IGNORE, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ManifestError(f"{origin}: {MAY_IGNORE} is {names!r}, expected a list of field names")
    return {name: value for name, value in content.items() if name in known or name not in names}
