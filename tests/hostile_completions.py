"""Completions that no model should write and some do, or that a broken pipeline hands over."""

from __future__ import annotations

import random
from typing import Any

_PIECES = (
    *("<think>", "</think>", "<answer>", "</answer>", "[THINK]", "<|im_end|>", "</s>", "[INST]"),
    *("<|im_start|>assistant\n", "<|im_start|>user\n", "<extra_0>", "\\boxed{", "}", "{", "$"),
    *("$$", "\\frac", "\\[", "\\]", "####", "42", "The answer is", "1e999", "nan", "∞", "½"),
    *("\n", "\n\n", " ", "\t", "\r\n", "\u2028", "\x00", "\ud800", "\udfff", "\ufffd", "\u200b"),
    *(
        "\u202e",
        "e\u0301",
        "𝟜𝟚",
        "٤٢",
        "😀",
        "👨\u200d👩",
        "```",
        "|",
        "&",
        "=",
        "-",
        "^",
        "(",
        "a" * 300,
    ),
)
_KEYS = (
    *("role", "content", "text", "type", "thinking", "reasoning_content", "tool_calls", "parts"),
    *("value", "from", "image", "summary", "thought", "choices", "message", 1, None, "\ud800"),
)
_ROLES = ("assistant", "user", "system", "tool", None, 3, [], {}, "ASSISTANT")
_VALUES = (
    *(None, 0, -1, 3.5, float("nan"), float("inf"), True, 10**400, b"\xff", ..., 1j, (), {1}),
    *(range(3), Exception("x"), object()),
)


def completion(rng: random.Random) -> Any:
    """A text, a list of messages, or nonsense."""
    kind = rng.random()
    if kind < 0.4:
        return _text(rng)
    if kind < 0.7:
        return [_message(rng, 2) for _ in range(rng.randrange(4))]
    return _value(rng, 0)


def long_completions(length: int) -> list[Any]:
    """Texts of ``length`` characters, and objects that are as deep or as many."""
    deep: Any = "deep"
    for _ in range(3_000):
        deep = [{"role": "assistant", "content": deep}]
    many = [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}] * (length // 10)
    texts = [(piece * length)[:length] for piece in (*_PIECES, "a. ", "a\n", "\\boxed{1} ", "1+")]
    return [deep, many, *texts]


def _text(rng: random.Random) -> str:
    return "".join(
        rng.choice(_PIECES)
        if rng.random() < 0.8
        else chr(rng.randrange(rng.choice((32, 0x110000))))
        for _ in range(rng.choice((0, 1, 2, 5, 20, 100)))
    )


def _message(rng: random.Random, depth: int) -> dict[Any, Any]:
    fields = {rng.choice(_KEYS): _value(rng, depth + 1) for _ in range(rng.randrange(4))}
    return {**fields, "role": rng.choice(_ROLES)} if rng.random() < 0.8 else fields


def _value(rng: random.Random, depth: int) -> Any:
    kind = rng.random()
    if kind < 0.4 or depth > 4:
        return _text(rng)
    if kind < 0.6:
        return rng.choice(_VALUES)
    if kind < 0.8:
        return [_value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return _message(rng, depth)
