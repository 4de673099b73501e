"""The process in which a chat template runs: Jinja's sandbox, a few seconds, little memory.

Reads one request from standard input and answers on standard output, both JSON.
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from typing import Any

from rfprm_export import ExportError

_SECONDS = 10
_BYTES = 2**30
_MOST_CHARACTERS = 2**20
TODAY = datetime(2024, 7, 26)
"""For templates that write today's date: the fallback of Llama's. What is written into an artifact
must not depend on the day."""


class Clock:
    """Knows one day, and whether it was asked for it."""

    def __init__(self) -> None:
        self.was_asked = False

    def __call__(self, format: str) -> str:
        self.was_asked = True
        return TODAY.strftime(format)


def serve() -> None:
    _limit()
    clock = Clock()
    try:
        texts = _render(json.load(sys.stdin), clock)
        answer: dict[str, Any] = {"texts": texts, "is_dated": clock.was_asked}
    except Exception as error:
        answer = {"error": f"{type(error).__name__}: {error}"[:300]}
    json.dump(answer, sys.stdout)


def _render(request: dict[str, Any], clock: Clock) -> list[str]:
    from jinja2 import nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """What transformers marks as the assistant's words, for training; here it is plain text."""

        tags = {"generation"}  # noqa: RUF012 (as jinja2 declares it)

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, Generation]
    )
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = clock
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
