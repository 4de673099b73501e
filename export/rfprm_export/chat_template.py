"""What a model's chat template writes around a question and an answer.

The template is a program of the checkpoint's, in Jinja. It is run in Jinja's sandbox, in a process
of its own with little time and memory, and only the fixed text that it writes is kept: the artifact
has no program in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rfprm_export import ExportError
from rfprm_export.chat_rendering import TODAY
from rfprm_export.gguf_tokenizer_config import gguf_tokenizer_config
from rfprm_export.vocabulary.added_tokens import SPECIAL_NAME
from rfprm_runtime.errors import MissingExtraError
from rfprm_runtime.ground.names import file_in, holds_file
from rfprm_runtime.ground.strict_json import read_json_object

TOKENIZER_CONFIG_NAME = "tokenizer_config.json"
TEMPLATE_NAMES = ("chat_template.jinja", "chat_template.json")
_AGAIN = "download the model again, or give the template with --chat-template"
_ROLES = tuple(f"{role}_token" for role in ("bos", "eos", "unk", "pad", "sep", "cls", "mask"))
_SECONDS = 30.0
_MOST_CHARACTERS = 2**20

# Texts that no template writes itself and none takes for anything special.
_QUESTION, _ANSWER = "What is q7u3s9?", "It is a5n8w2."
_OTHER = ("Let x = 1.\n\nWhat is “2x” + {y}?", "Step 1: x = 1.\n\nStep 2: 2x = 2, so $\\boxed{2}$.")
_SPACED = (
    (f" \n{_QUESTION}\n ", f" \n{_ANSWER}\n "),
    (f"\n {_QUESTION} \n", f"\n {_ANSWER} \n"),
)
_THINKING = (_QUESTION, f"<think>\n{_ANSWER}\n</think>\n\n{_ANSWER}")
_TRIMS = "drops some of the white space at the ends of texts, which is kept here"
_THINKS = "takes <think> in an answer for its own, which is plain text here"
_CHILD = """
import sys
sys.path[:] = sys.argv[1:]
from rfprm_export.chat_rendering import serve
serve()
"""
Message = dict[str, str]


@dataclass(frozen=True)
class ChatFormat:
    """The fixed texts of a chat of one question and one answer."""

    opening: str
    """Before the question."""
    middle: str
    """Between the question and the answer."""
    closing: str
    """After the answer."""
    strips: bool
    """Whether white space around question and answer is dropped."""
    notes: tuple[str, ...]
    """Where scores may differ from those of the template itself, in words."""

    def fill(self, question: str, answer: str) -> str:
        if self.strips:
            question, answer = question.strip(), answer.strip()
        return self.opening + question + self.middle + answer + self.closing


def chat_format(template: str, config: Mapping[str, Any], system: str | None) -> ChatFormat:
    """What ``template`` writes. ``config``: of the tokenizer, for the tokens that it names;
    ``system``: the chat's system prompt, if it has one.

    Raises :class:`ExportError` for a template that fails, or that is more than fixed text around
    question and answer, and :class:`MissingExtraError` without jinja2.
    """
    pairs = [(_QUESTION, _ANSWER), _OTHER, *_SPACED, _THINKING]
    chats = [_chat(system, *texts) for texts in pairs]
    texts, is_dated = _rendered(template, chats, special_tokens(config))
    first, other, *with_space, thinking = texts
    begin, end = first.find(_QUESTION), first.find(_ANSWER)
    if min(begin, end) < 0 or begin > end or first.count(_QUESTION) + first.count(_ANSWER) != 2:
        raise ExportError(
            "the chat template does not write the question and then the answer, each once; "
            "give one that does with --chat-template"
        )
    parts = first[:begin], first[begin + len(_QUESTION) : end], first[end + len(_ANSWER) :]
    found = ChatFormat(*parts, strips=True, notes=())
    if with_space != [found.fill(*texts) for texts in _SPACED]:
        found = replace(found, strips=False)
    if other != found.fill(*_OTHER):
        raise ExportError(
            "the chat template changes the texts that it is given, so that they cannot be scored "
            "step by step; give one that leaves them as they are with --chat-template"
        )
    notes = {
        f"writes today's date, taken to be {TODAY:%d %B %Y}": is_dated,
        _TRIMS: with_space != [found.fill(*texts) for texts in _SPACED],
        _THINKS: thinking != found.fill(*_THINKING),
    }
    return replace(found, notes=tuple(note for note, holds in notes.items() if holds))


def read_chat_template(folder: Path, given: Path | None) -> str:
    """The template in ``given``, or of the model in ``folder``, which may be a GGUF file. Raises
    :class:`ExportError`."""
    if given is not None:
        return _read_text(given)
    for name in TEMPLATE_NAMES:
        if holds_file(folder, name):
            path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
            if name.endswith(".jinja"):
                return _read_text(path)
            found = read_json_object(path, refusal=ExportError, way_out=_AGAIN).get("chat_template")
            if isinstance(found, str):
                return found
    found = _default(read_tokenizer_config(folder).get("chat_template"))
    if found is None:
        raise ExportError(
            f"{folder} has no chat template, so nothing tells how the model was given question and "
            "answer; give the template that it was trained with by --chat-template FILE (Jinja)"
        )
    return found


def read_tokenizer_config(folder: Path) -> dict[str, Any]:
    """``tokenizer_config.json``, with the special tokens that only ``special_tokens_map.json``
    names; empty if there is none. Of a GGUF file: what it says in their place. Raises
    :class:`ExportError`."""
    if folder.suffix == ".gguf" and os.path.isfile(folder):
        return gguf_tokenizer_config(folder)
    config = _read_if_there(folder, TOKENIZER_CONFIG_NAME)
    if "added_tokens_decoder" in config:  # then transformers does not read the other file
        return config
    beside = _read_if_there(folder, SPECIAL_NAME)
    return config | {
        name: beside[name] for name in _ROLES if beside.get(name) and not config.get(name)
    }


def _read_if_there(folder: Path, name: str) -> dict[str, Any]:
    if not holds_file(folder, name):
        return {}
    path = file_in(folder, name, refusal=ExportError, way_out=_AGAIN)
    return read_json_object(path, refusal=ExportError, way_out=_AGAIN)


def special_tokens(config: Mapping[str, Any]) -> dict[str, str]:
    """``bos_token``, ``eos_token``, … as a tokenizer's config names them."""
    found = {}
    for name in _ROLES:
        token = config.get(name)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            found[name] = token
    return found


def _default(template: Any) -> str | None:
    """One template, or a list of named ones."""
    if isinstance(template, list):
        named = {one.get("name"): one.get("template") for one in template if isinstance(one, dict)}
        template = named.get("default")
    return template if isinstance(template, str) else None


def _read_text(path: Path) -> str:
    try:
        content = path.read_bytes()
        if len(content) > _MOST_CHARACTERS:
            raise ExportError(f"{path} has {len(content)} bytes, too many for a chat template")
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise ExportError(f"the chat template {path} cannot be read: {error}") from None


def _chat(system: str | None, question: str, answer: str) -> list[Message]:
    before = [] if system is None else [{"role": "system", "content": system}]
    return [
        *before,
        {"role": "user", "content": question},
        {"role": "assistant", "content": answer},
    ]


def _rendered(
    template: str, chats: Sequence[Sequence[Message]], tokens: Mapping[str, str]
) -> tuple[list[str], bool]:
    if find_spec("jinja2") is None:
        raise MissingExtraError("jinja2", "export", "running the model's chat template")
    request = json.dumps({"template": template, "chats": chats, "tokens": tokens})
    # The working directory is no place to find modules in: it may be the model's folder.
    search_path = [place for place in sys.path if place]
    try:
        done = subprocess.run(
            [sys.executable, "-c", _CHILD, *search_path],
            input=request.encode(),
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
        answer = json.loads(done.stdout)
    except (subprocess.TimeoutExpired, ValueError):
        raise ExportError(
            "the chat template does not end, or takes too much memory; give another with "
            "--chat-template"
        ) from None
    if "error" in answer:
        raise ExportError(
            f"the chat template fails: {answer['error']}; give another with --chat-template"
        )
    return answer["texts"], answer["is_dated"]
