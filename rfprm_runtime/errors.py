"""What can go wrong, by name.

Every message says what came, what was expected and what to do about it.
All of them derive from :class:`RfprmError`, so one ``except`` catches the library and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


class RfprmError(Exception):
    """Base of every error this library raises on purpose."""


class InvalidTrajectoryError(RfprmError, ValueError):
    """The trajectory cannot be scored as given: no steps, a blank step, a wrong type."""


class TraceTooLongError(RfprmError, ValueError):
    """The encoded trajectory, or a part that cannot be split, exceeds the model's positions."""

    def __init__(
        self, num_tokens: int, max_positions: int, *, windowed: bool = False, place: str = ""
    ) -> None:
        """``windowed``: windows were tried, and ``num_tokens`` is what one of them would need.
        ``place``: which one of several trajectories it is."""
        self.num_tokens, self.max_positions, self.windowed = num_tokens, max_positions, windowed
        message = (
            f"the question with a single step, or with the response, encodes to {num_tokens} "
            f"tokens, but the model has {max_positions} positions; split that step or shorten it"
            if windowed
            else f"the trajectory encodes to {num_tokens} tokens, but the model has "
            f"{max_positions} positions; pass overflow='window' (--overflow window) to score its "
            "later steps with a shortened past, or use a model with more positions"
        )
        self.place = place
        super().__init__(f"{place}: {message}" if place else message)

    def at(self, place: str) -> TraceTooLongError:
        """The same, with its ``place`` in the message."""
        return type(self)(self.num_tokens, self.max_positions, windowed=self.windowed, place=place)

    def __reduce__(self) -> tuple[Callable[..., TraceTooLongError], tuple[()]]:
        # The default rebuilds from the message alone, which this constructor does not take.
        return partial(
            type(self),
            self.num_tokens,
            self.max_positions,
            windowed=self.windowed,
            place=self.place,
        ), ()


UNSCORABLE = (InvalidTrajectoryError, TraceTooLongError)
"""What is wrong with one trajectory, and not with settings, files or the machine."""


class ArtifactError(RfprmError):
    """The artifact folder is missing, incomplete, truncated or was modified."""


class ManifestError(ArtifactError, ValueError):
    """``prm.json`` is not a manifest this version can read."""


class TokenizerMismatchError(ArtifactError):
    """``tokenizer.json`` does not encode the prompt template the way the manifest says."""


class BackendError(RfprmError):
    """The inference backend cannot do what was asked."""


class SourceError(RfprmError):
    """A file or data set of traces that is not there, or that is no such file."""


class MissingExtraError(RfprmError, ImportError):
    """A package that belongs to an optional extra is not installed."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.package, self.extra, self.purpose = package, extra, purpose
        super().__init__(
            f"{purpose} needs the package '{package}', which is not installed; "
            f"run: pip install 'rfprm_runtime[{extra}]'"
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str, str]]:
        return type(self), (self.package, self.extra, self.purpose)
