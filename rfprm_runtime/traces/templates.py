"""Chats rendered to one string by a chat template.

Knows the tokens around turns; knows no messages.
"""

from __future__ import annotations

from typing import NamedTuple


class ChatTurns(NamedTuple):
    """How a chat template delimits a user turn."""

    open_user: str
    close_user: str


# Tried in order; the first whose opening tag occurs in a prompt is taken as its template.
CHAT_TEMPLATES = (
    ChatTurns("<|im_start|>user\n", "<|im_end|>"),  # ChatML: Qwen, SmolLM2
    ChatTurns("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),  # Llama 3
    ChatTurns("<start_of_turn>user\n", "<end_of_turn>"),  # Gemma
    ChatTurns("<|user|>\n", "<|end|>"),  # Phi
    ChatTurns("<｜User｜>", "<｜Assistant｜>"),  # DeepSeek
    ChatTurns("[INST]", "[/INST]"),  # Mistral, Llama 2
)
# What may follow a decoded response without being part of it.
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",
    "<end_of_turn>", "<eos>", "<pad>", "<|pad|>", "</s>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


def question_in_rendered(prompt: str) -> str:
    """What the user says last in a rendered chat; any other text is itself the question."""
    for turns in CHAT_TEMPLATES:
        _, found, rest = prompt.rpartition(turns.open_user)
        if found:
            return rest.partition(turns.close_user)[0].strip()
    return prompt.strip()


def without_end_tokens(text: str) -> str:
    """The text without trailing white space and end tokens."""
    text = text.rstrip()
    while text.endswith(END_TOKENS):
        text = text[: -max(len(token) for token in END_TOKENS if text.endswith(token))].rstrip()
    return text
