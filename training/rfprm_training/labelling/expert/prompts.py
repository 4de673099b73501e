"""Prompts as files with a version, which identifies what was asked."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from rfprm_training import TrainingError

TEMPLATE_NAMES = ("extract_template", "answer_by_template")
"""The prompts of the trajectory reward; those of judging are the judge's."""
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


def load_prompt(name: str) -> Prompt:
    """One of this package's prompts by name (``judge_steps``), or a ``.md`` file by path.

    Raises :class:`TrainingError` if the file is missing or malformed.
    """
    path = Path(name)
    if path.suffix == ".md":
        name = path.stem
        if not path.is_file():
            raise TrainingError(f"there is no prompt file {path}")
        text = path.read_text(encoding="utf-8")
    else:
        text = (files("rfprm_training.labelling.expert") / "prompts" / f"{name}.md").read_text(
            "utf-8"
        )
    match = _FORMAT.fullmatch(text)
    if match is None:
        raise TrainingError(
            f"the prompt {name} does not have the form '---', 'version: N', '---', '# system', …, "
            "'# user', …"
        )
    return Prompt(name, match["version"], match["system"].strip(), match["user"].strip())
