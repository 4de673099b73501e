"""Every error this library raises on purpose.

Each message says what came, what was expected and what to do about it.
All classes derive from :class:`RfprmError`, so one ``except`` catches this library's errors and
nothing else. Errors that used to be ``ValueError`` still are.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class RfprmError(Exception):
    """Base of every error this library raises on purpose."""

    def at(self, place: str) -> RfprmError:
        """A copy whose message begins with ``place``, to say which of several items failed."""
        placed = copy.copy(self)
        placed.args = (f"{place}: {self}", *self.args[1:])
        return placed


class InvalidArgumentError(RfprmError, ValueError):
    """An argument or setting has a value or type that cannot be used."""


class InvalidOperationError(RfprmError, RuntimeError):
    """The call cannot be made here and now: an event loop is running, a process did not start."""


class InvalidTrajectoryError(RfprmError, ValueError):
    """The trajectory cannot be scored as given: no steps, a blank step, a wrong type."""


class TraceTooLongError(RfprmError, ValueError):
    """The encoded trajectory, or a part that cannot be split, exceeds the model's positions."""

    def __init__(
        self,
        num_tokens: int,
        max_positions: int,
        *,
        windowed: bool = False,
        engine_of: int | None = None,
        place: str = "",
    ) -> None:
        """``windowed``: windows were tried, and one of them would need ``num_tokens``.
        ``engine_of``: the model's positions, if ``max_positions`` is the limit of its TensorRT
        engine. ``place``: which of several trajectories is too long."""
        self.num_tokens, self.max_positions, self.windowed = num_tokens, max_positions, windowed
        self.engine_of, self.place = engine_of, place
        limit, more = f"the model has {max_positions} positions", "use a model with more positions"
        if engine_of is not None:
            limit = f"the TensorRT engine's longest profile takes {max_positions}"
            more = f"build it with a longer --profile (the model has {engine_of} positions)"
        message = (
            f"the question with a single step, or with the response, encodes to {num_tokens} "
            f"tokens, but {limit}; split or shorten that step, or {more}"
            if windowed
            else f"the trajectory encodes to {num_tokens} tokens, but {limit}; pass "
            "overflow='window' (--overflow window) to score its later steps with a shortened past, "
            f"or {more}"
        )
        super().__init__(f"{place}: {message}" if place else message)

    def at(self, place: str) -> TraceTooLongError:
        """The same error with ``place`` in its message."""
        return self._maker(place)()

    def _maker(self, place: str) -> Callable[[], TraceTooLongError]:
        return partial(
            type(self),
            self.num_tokens,
            self.max_positions,
            windowed=self.windowed,
            engine_of=self.engine_of,
            place=place,
        )

    def __reduce__(self) -> tuple[Callable[[], TraceTooLongError], tuple[()]]:
        # By default pickle passes the message alone, which this constructor does not take.
        return self._maker(self.place), ()


UNSCORABLE = (InvalidTrajectoryError, TraceTooLongError)
"""Errors about one trajectory, not about settings, files or the machine."""


class ArtifactError(RfprmError):
    """The artifact folder is missing, incomplete, truncated or modified."""


class ManifestError(ArtifactError, ValueError):
    """``prm.json`` is not a manifest this version can read."""


class TokenizerMismatchError(ArtifactError):
    """``tokenizer.json`` does not encode the prompt template the way the manifest says."""


class BackendError(RfprmError):
    """The inference backend cannot do what was asked."""


class SourceError(RfprmError):
    """A file or data set of traces is missing or cannot be read."""


class OutputError(RfprmError, OSError):
    """An output cannot be written: the disk is full, its folder is gone, another run has it."""


def install_command(extra: str = "", *, upgrade: bool = False) -> str:
    """The command that adds ``extra`` to this installation: from where it was installed, since no
    index need have it (direct_url.json, PEP 610)."""
    # Here, because every import of the runtime imports this module.
    from importlib.metadata import PackageNotFoundError, distribution
    from urllib.parse import urlsplit
    from urllib.request import url2pathname

    pip, wanted = "pip install --upgrade" if upgrade else "pip install", f"[{extra}]" * bool(extra)
    try:
        origin = json.loads(distribution("rfprm_runtime").read_text("direct_url.json") or "{}")
    except (PackageNotFoundError, ValueError):
        origin = {}
    url, vcs = origin.get("url", ""), origin.get("vcs_info")
    if url.startswith("file:"):
        option = "--editable " if origin.get("dir_info", {}).get("editable") else ""
        return f"{pip} {option}'{url2pathname(urlsplit(url).path)}{wanted}'"
    if vcs is not None:
        url = f"{vcs['vcs']}+{url}@{vcs['commit_id']}"
    return f"{pip} 'rfprm_runtime{wanted}{f' @ {url}' if url else ''}'"


class MissingExtraError(RfprmError, ImportError):
    """A package that belongs to an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"run: {install_command(extra)}"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)


def around_errors(
    items: Sequence[Item | RfprmError], call: Callable[[list[Item]], Iterable[Result]]
) -> list[Result | RfprmError]:
    """Pass the ``items`` that are not errors to ``call``; returns its results, one for each, with
    the errors in their places. ``call`` is not called if every item is an error."""
    good = [item for item in items if not isinstance(item, RfprmError)]
    results = iter(call(good) if good else ())
    return [item if isinstance(item, RfprmError) else next(results) for item in items]


def raise_first(items: Iterable[Any], noun: str) -> None:
    """Raise the first error among ``items``; its message begins with ``noun`` and its number."""
    for index, item in enumerate(items):
        if isinstance(item, RfprmError):
            raise item.at(f"{noun} {index} (from 0)")
