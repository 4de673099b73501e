"""What RL stacks pass in, as text: the question in a prompt, the trace in a completion.

Knows messages and chat templates, but no scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError


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


def question_of(prompt: Any) -> str:
    """The question in a prompt, which is a string or a list of chat messages.

    In messages, and in a string rendered by a chat template, it is the last thing the user said;
    any other string is itself the question. Raises :class:`InvalidTrajectoryError` if there is no
    user message.
    """
    if isinstance(prompt, str):
        return _question_of_text(prompt)
    for message in reversed(list(_messages(prompt, "prompt"))):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    raise InvalidTrajectoryError("the prompt has no user message, so there is no question")


def _question_of_text(prompt: str) -> str:
    for turns in CHAT_TEMPLATES:
        _, found, rest = prompt.rpartition(turns.open_user)
        if found:
            return rest.partition(turns.close_user)[0].strip()
    return prompt.strip()


def trace_of(completion: Any) -> str:
    """The text of a completion: a string, or what the assistant says in a list of chat messages.

    Reasoning that a message keeps in a field of its own comes first, in thinking tags.
    """
    if isinstance(completion, str):
        return completion
    parts = []
    for message in _messages(completion, "completion"):
        if message.get("role") == "assistant":
            reasoning = message.get("reasoning_content") or message.get("thinking")
            parts += [f"<think>{reasoning}</think>"] if reasoning else []
            parts.append(_text_of(message.get("content")))
    return "\n\n".join(part for part in parts if part)


def response_of(query: str, prompt: str) -> str:
    """What follows ``prompt`` in ``query``, without trailing end tokens (:data:`END_TOKENS`).

    Raises :class:`InvalidTrajectoryError` if the query does not begin with the prompt.
    """
    if not query.startswith(prompt):
        raise InvalidTrajectoryError(
            f"the query begins with {query[:40]!r}, not with its prompt {prompt[:40]!r}, so prompt "
            "and response cannot be told apart; either it was truncated (raise the maximum length) "
            "or its tokenizer does not decode to the text it encoded"
        )
    return without_end_tokens(query[len(prompt) :])


def without_end_tokens(text: str) -> str:
    """The text without trailing white space and end tokens."""
    text = text.rstrip()
    while text.endswith(END_TOKENS):
        text = text[: -max(len(token) for token in END_TOKENS if text.endswith(token))].rstrip()
    return text


def _messages(messages: Any, what: str) -> Iterable[Mapping[str, Any]]:
    # verl keeps messages in numpy arrays, which are not Sequences.
    listed = messages.tolist() if hasattr(messages, "tolist") else messages
    if not isinstance(listed, Sequence) or not all(isinstance(x, Mapping) for x in listed):
        raise InvalidTrajectoryError(
            f"the {what} is {type(messages).__name__}, expected a string or a list of messages "
            "with 'role' and 'content'"
        )
    return listed


def _text_of(content: Any) -> str:
    """The text of message content: a string, or a list of parts; parts without text are skipped."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(
        part["text"] for part in content if isinstance(part, Mapping) and "text" in part
    )
