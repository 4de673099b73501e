"""Prompts as files with a version, which identifies what was asked."""

from __future__ import annotations

import hashlib
import re
import string
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rfprm_training import TrainingError
from rfprm_training.labelling.expert.config import PromptName

TEMPLATE_NAMES: tuple[PromptName, ...] = ("extract_template", "answer_by_template")
"""The prompts of the trajectory reward; those of judging are the judge's."""
_FIELDS: dict[PromptName, tuple[set[str], set[str]]] = {
    "judge_steps": ({"question", "steps", "first", "last"}, {"response"}),
    "judge_step": ({"question", "steps", "step"}, {"response"}),
    "extract_template": ({"question", "steps"}, {"response"}),
    "answer_by_template": ({"question", "template"}, set()),
}
"""What a prompt must show, and what it may show as well."""
_FORMATTER = string.Formatter()
_FORMAT = re.compile(
    r"---\nversion: (?P<version>\S+)\n---\n# system\n(?P<system>.*?)\n+# user\n(?P<user>.*)", re.S
)


@dataclass(frozen=True)
class Prompt:
    """``system`` and ``user`` are format strings; literal braces are doubled in the file."""

    name: str
    version: str
    system: str
    user: str

    @property
    def id(self) -> str:
        return f"{self.name}.{self.version}"

    @property
    def content(self) -> str:
        """A hash of its text, which may change without its version."""
        return hashlib.sha256(f"{self.system}\0{self.user}".encode()).hexdigest()[:16]

    def messages(self, **values: object) -> list[dict[str, str]]:
        """The chat messages with ``values`` filled in."""
        return [
            {"role": "system", "content": self.system.format(**values)},
            {"role": "user", "content": self.user.format(**values)},
        ]


def load_prompt(name: PromptName, own: Mapping[PromptName, Path] | None = None) -> Prompt:
    """The prompt that this package has under ``name``, or the file that ``own`` has in its place.

    Raises :class:`TrainingError` if that file is missing or malformed, or does not show what its
    reader needs.
    """
    path = (own or {}).get(name)
    if path is None:
        packaged = files("rfprm_training.labelling.expert") / "prompts" / f"{name}.md"
        return _parsed(packaged.read_text("utf-8"), name, f"the prompt {name}")
    told = f"{path}, the prompt in place of {name},"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(f"{told} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise TrainingError(f"{told} is not UTF-8") from None
    prompt = _parsed(text, path.stem, told)
    _check_fields(prompt, name, told)
    return prompt


def _parsed(text: str, name: str, told: str) -> Prompt:
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise TrainingError(
            f"{told} does not have the form '---', 'version: N', '---', '# system', …, '# user', …"
        )
    return Prompt(name, match["version"], match["system"].strip(), match["user"].strip())


def _check_fields(prompt: Prompt, name: PromptName, told: str) -> None:
    needed, allowed = _FIELDS[name]
    try:
        parsed = [*_FORMATTER.parse(prompt.system), *_FORMATTER.parse(prompt.user)]
    except ValueError as error:
        raise TrainingError(f"{told} has a brace that is not doubled: {error}") from None
    shown = {field for _, field, _, _ in parsed if field is not None}
    if not needed <= shown <= needed | allowed:
        names = ", ".join(f"{{{field}}}" for field in sorted(shown)) or "nothing"
        must = ", ".join(f"{{{field}}}" for field in sorted(needed))
        may = "".join(f"; it may show {{{field}}}" for field in sorted(allowed))
        raise TrainingError(
            f"{told} shows {names}; it must show {must}{may}. Other braces are written twice"
        )
