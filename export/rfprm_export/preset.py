"""What is known of the models of one published kind: how they are stored, and how they are read.

Knows no files; the presets themselves are in :mod:`rfprm_export.presets`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from rfprm_export.model_names import is_called
from rfprm_runtime.artifact.families import Family


@dataclass(frozen=True)
class ReadingOptions:
    """What a user says of a published model that it does not tell itself."""

    family: str | None = None
    step_separator: str | None = None
    """The text after each step, at whose last token a token classifier is read."""
    system_prompt: str | None = None
    """Of the chat that a sequence classifier was trained on; None: what its template writes."""
    chat_template: Path | None = None
    """A file with the template, if the model's own is missing or is another."""

    def given(self) -> list[str]:
        """The command line's names of those that are given."""
        names = [name for name in self.__dataclass_fields__ if getattr(self, name) is not None]
        return [f"--{name.replace('_', '-')}" for name in names]


@dataclass(frozen=True)
class Described:
    """A published model whose weights are not read yet."""

    folder: Path
    """Where the tokenizer's config is."""
    chat: Path
    """Where the chat template is, if it is not in the tokenizer's config."""
    name: str
    tokenizer: Tokenizer
    config: Mapping[str, Any]
    """Its ``config.json``."""
    options: ReadingOptions
    notes: dict[str, str] = field(default_factory=dict)
    """What had to be guessed, for the manifest's ``source``."""


@dataclass(frozen=True)
class OwnHead:
    """``score.*``, as the runtime names it."""

    has_bias: bool = True
    """Whether the model's class reads ``score.bias``; one that it does not read is left out."""


@dataclass(frozen=True)
class RenamedHead:
    """A linear head under another name: ``{prefix}.weight`` [num_labels, hidden_size], and
    ``{prefix}.bias`` if there is one."""

    prefix: str
    file: str | None = None
    """A pickled file beside the weights that holds it alone, as ``weight`` and ``bias``."""


@dataclass(frozen=True)
class TokenRows:
    """The rows of the language-model head that belong to some tokens: label i is token i."""

    tokens: tuple[str, ...]
    first_of_several: bool = False
    """Whether a text of several tokens means its first one."""


HeadSource = OwnHead | RenamedHead | TokenRows


@dataclass(frozen=True)
class Preset:
    """One published kind of reward model."""

    family: Callable[[Described], Family]
    """Its prompt, head and readouts; they may depend on files and options."""
    card: str
    """Where the facts are from."""
    own_architectures: tuple[str, ...] = ()
    """What only models of this kind say in ``config.json``, as patterns."""
    architectures: tuple[str, ...] = ()
    """What they may say as well, as others do; ``""`` stands for nothing."""
    head: HeadSource = OwnHead()
    names: tuple[str, ...] = ()
    """Patterns of the names of such models on the Hub, in small letters, without the owner."""
    max_positions: int | None = None
    """The tokens that the model was trained on, where its config says more."""
    options: tuple[str, ...] = ()
    """Those of :class:`ReadingOptions` that it takes."""

    def fits(self, architectures: tuple[str, ...]) -> bool:
        """Whether a model of these architectures may be one of these."""
        return _match(architectures, self.own_architectures + self.architectures)

    def owns(self, architectures: tuple[str, ...]) -> bool:
        """Whether every model of these architectures is one of these."""
        return _match(architectures, self.own_architectures)

    def is_named(self, name: str) -> bool:
        return any(is_called(name, pattern) for pattern in self.names)

    @property
    def side_files(self) -> tuple[str, ...]:
        """Files that it needs besides weights and tokenizer."""
        file = self.head.file if isinstance(self.head, RenamedHead) else None
        return () if file is None else (file,)


def _match(architectures: tuple[str, ...], patterns: tuple[str, ...]) -> bool:
    names = architectures or ("",)
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


def always(family: Family) -> Callable[[Described], Family]:
    """For presets whose family depends on nothing."""
    return lambda described: family
