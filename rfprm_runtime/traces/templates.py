"""Chats rendered to one string by a chat template.

Knows the tokens around turns; the turns themselves are those of ``chats``.
"""

from __future__ import annotations

import re

from rfprm_runtime.traces.chats import Turn, last_question, role_named

# What opens a turn. A named group is the role that a header without a name stands for.
_HEADERS = re.compile(
    r"""
    <\|im_start\|>\ *(?P<chatml>\w+)[^\S\n]*(?:<\|im_sep\|>|\n|$)      # Qwen, SmolLM2, Phi 4
    | <\|start_header_id\|>\s*(?P<llama3>\w+)\s*<\|end_header_id\|>
    | <\|header_start\|>\s*(?P<llama4>\w+)\s*<\|header_end\|>
    | <start_of_turn>\ *(?P<gemma>\w+)[^\S\n]*(?:\n|$)
    | <\|start\|>(?P<harmony>\w+)(?=<\||\ )                               # gpt-oss
    | <\|(?P<phi>user|assistant|system|tool)\|>
    | <｜(?P<deepseek>User|Assistant)｜>
    | (?<![^\s>])\[(?P<mistral>/?INST|SYSTEM_PROMPT)\]                    # Llama 2 too
    """,
    re.VERBOSE,
)
_ROLES = {"INST": "user", "/INST": "assistant", "SYSTEM_PROMPT": "system"}
_LLAMA2_SYSTEM = re.compile(r"<<SYS>>.*?<</SYS>>", re.DOTALL)
# `[INST]` is what people write, too: it opens a chat only where the text begins with it.
# White space twice in a row would take quadratic time.
_BEGINS_LIKE_MISTRAL = re.compile(r"\s*(?:<s>\s*)?\[(?:INST|SYSTEM_PROMPT)\]")

_END_TOKENS = (
    "</s>", "<eos>", "<pad>", "<unk>", "<end_of_turn>", "[PAD]", "[EOS]", "[/INST]",
    "[/SYSTEM_PROMPT]",
)  # fmt: skip
# Special tokens have this form in most vocabularies; tags around thoughts and solutions stay.
_ENDS_WITH_TOKEN = re.compile(r"<[|｜](?!end_of_(?:thought|solution)\b)[\w▁ ]{1,40}[|｜]>\Z")
_LONGEST_TOKEN = 44


def turns_in(text: str) -> list[Turn]:
    """The turns of a rendered chat; none if the text is not one."""
    brackets = _BEGINS_LIKE_MISTRAL.match(text) is not None
    headers = [
        found for found in _HEADERS.finditer(text) if brackets or found.lastgroup != "mistral"
    ]
    ends = [*(found.start() for found in headers[1:]), len(text)]
    return [
        Turn(_role(header), _body(text[header.end() : end]), "")
        for header, end in zip(headers, ends, strict=False)
    ]


def question_in_rendered(prompt: str) -> str:
    """What the user says last in a rendered chat; any other text is itself the question."""
    question = last_question(turns_in(prompt))
    return prompt.strip() if question is None else question


def without_end_tokens(text: str) -> str:
    """The text without trailing white space and end or padding tokens."""
    end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        tail = text[max(0, end - _LONGEST_TOKEN) : end]
        token = _ENDS_WITH_TOKEN.search(tail)
        plain = max(map(len, filter(tail.endswith, _END_TOKENS)), default=0)
        length = len(token[0]) if token else plain
        if not length:
            return text[:end]
        end -= length


def _role(header: re.Match[str]) -> str:
    assert header.lastgroup is not None
    name = header[header.lastgroup]
    return role_named(_ROLES.get(name, name))


def _body(text: str) -> str:
    text = _LLAMA2_SYSTEM.sub("", text, count=1) if "<<SYS>>" in text else text
    body = without_end_tokens(text).strip()
    # gpt-oss opens what is said with a token of its own, and what is thought with its channel.
    return body.removeprefix("<|message|>").strip()
