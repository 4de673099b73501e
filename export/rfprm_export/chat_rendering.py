"""The process in which a chat template runs: Jinja's sandbox, a few seconds, little memory.

Reads one request from standard input and answers on standard output, both JSON.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from rfprm_export import ExportError

_SECONDS = 10
_BYTES = 2**30
_MOST_CHARACTERS = 2**20
_DATE = "26 Jul 2024"
"""Llama's templates write today's date unless they are given one; this is their fallback, and what
is written into an artifact must not depend on the day."""


def serve() -> None:
    _limit()
    try:
        answer: dict[str, Any] = {"texts": _render(json.load(sys.stdin))}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    json.dump(answer, sys.stdout)


def _render(request: dict[str, Any]) -> list[str]:
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda format: _DATE
    environment.filters["tojson"] = lambda value, **settings: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(request["template"])
    texts = []
    for chat in request["chats"]:
        text = template.render(
            messages=chat, add_generation_prompt=False, tools=None, **request["tokens"]
        )
        if len(text) > _MOST_CHARACTERS:
            raise ExportError(f"it writes {len(text)} characters around two short texts")
        texts.append(text)
    return texts


def _refuse(message: str) -> None:
    raise ExportError(f"it refuses the chat: {message}")


def _limit() -> None:
    try:
        import resource
    except ImportError:  # Windows; the caller's patience is the limit
        return
    resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (_BYTES, _BYTES))
