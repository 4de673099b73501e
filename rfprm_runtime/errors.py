"""What can go wrong, by name.

Every message says what came, what was expected and what to do about it.
All of them derive from :class:`RfprmError`, so one ``except`` catches the library and nothing else.
"""

from __future__ import annotations


class RfprmError(Exception):
    """Base of every error this library raises on purpose."""


class InvalidTrajectoryError(RfprmError, ValueError):
    """The trajectory cannot be scored as given: no steps, a blank step, a wrong type."""


class TraceTooLongError(RfprmError, ValueError):
    """The encoded trajectory has more tokens than the model has positions."""

    def __init__(self, num_tokens: int, max_positions: int) -> None:
        self.num_tokens = num_tokens
        self.max_positions = max_positions
        super().__init__(
            f"the trajectory encodes to {num_tokens} tokens, but the model has {max_positions} "
            "positions; shorten it, score a prefix of its steps, or use a model with more positions"
        )

    def __reduce__(self) -> tuple[type[TraceTooLongError], tuple[int, int]]:
        # The default rebuilds from the message alone, which this constructor does not take.
        return type(self), (self.num_tokens, self.max_positions)


class ArtifactError(RfprmError):
    """The artifact folder is missing, incomplete, truncated or was modified."""


class ManifestError(ArtifactError, ValueError):
    """``prm.json`` is not a manifest this version can read."""


class TokenizerMismatchError(ArtifactError):
    """``tokenizer.json`` does not encode the prompt template the way the manifest says."""


class BackendError(RfprmError):
    """The inference backend cannot do what was asked."""


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
