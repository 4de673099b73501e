"""What RL stacks hand over, as text: the question of a prompt, the trace of a completion.

Knows messages and chat templates, nothing of scores.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from rfprm_runtime.errors import InvalidTrajectoryError


class ChatTurns(NamedTuple):
    """How a chat template delimits what the user says."""

    open_user: str
    close_user: str


# Tried in order; the first whose opening mark a prompt holds is the one it was written with.
CHAT_TEMPLATES = (
    ChatTurns("<|im_start|>user\n", "<|im_end|>"),  # ChatML: Qwen, SmolLM2
    ChatTurns("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),  # Llama 3
    ChatTurns("<start_of_turn>user\n", "<end_of_turn>"),  # Gemma
    ChatTurns("<|user|>\n", "<|end|>"),  # Phi
    ChatTurns("<｜User｜>", "<｜Assistant｜>"),  # DeepSeek
    ChatTurns("[INST]", "[/INST]"),  # Mistral, Llama 2
)
# What may stand at the end of a decoded response without being part of it.
END_TOKENS = (
    "<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|end|>",
    "<end_of_turn>", "<eos>", "<pad>", "<|pad|>", "</s>", "<｜end▁of▁sentence｜>",
)  # fmt: skip


def question_of(prompt: Any) -> str:
    """The question of a prompt: a string, or a list of chat messages.

    Of messages, and of a string that a chat template was applied to, it is what the user said last;
    any other string is the question as it is. Raises :class:`InvalidTrajectoryError` where the user
    says nothing.
    """
    if isinstance(prompt, str):
        return _question_of_text(prompt)
    for message in reversed(list(_messages(prompt, "prompt"))):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    raise InvalidTrajectoryError("the prompt has no message of the user; there is no question")


def _question_of_text(prompt: str) -> str:
    for turns in CHAT_TEMPLATES:
        _, found, rest = prompt.rpartition(turns.open_user)
        if found:
            return rest.partition(turns.close_user)[0].strip()
    return prompt.strip()


def trace_of(completion: Any) -> str:
    """The text of a completion: a string, or what the assistant says in a list of chat messages.

    Reasoning that a chat template has put into a field of its own comes first, in thinking tags.
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
    """What follows ``prompt`` in ``query``, without the end tokens (:data:`END_TOKENS`) behind it.

    Raises :class:`InvalidTrajectoryError` where the query does not begin with the prompt.
    """
    if not query.startswith(prompt):
        raise InvalidTrajectoryError(
            f"the query begins with {query[:40]!r}, not with its prompt {prompt[:40]!r}, so prompt "
            "and response cannot be told apart; it was cut (raise the maximum length) or its "
            "tokenizer does not decode to the text that it encoded"
        )
    return without_end_tokens(query[len(prompt) :])


def without_end_tokens(text: str) -> str:
    """The text without white space and end tokens behind it."""
    text = text.rstrip()
    while text.endswith(END_TOKENS):
        text = text[: -max(len(token) for token in END_TOKENS if text.endswith(token))].rstrip()
    return text


def _messages(messages: Any, what: str) -> Iterable[Mapping[str, Any]]:
    # verl keeps messages in numpy arrays, which are no sequences.
    listed = messages.tolist() if hasattr(messages, "tolist") else messages
    if not isinstance(listed, Sequence) or not all(isinstance(x, Mapping) for x in listed):
        raise InvalidTrajectoryError(
            f"the {what} is {type(messages).__name__}, expected a string or a list of messages "
            "with 'role' and 'content'"
        )
    return listed


def _text_of(content: Any) -> str:
    """Content is a string, or a list of parts of which those with text count."""
    if content is None or isinstance(content, str):
        return content or ""
    return "\n".join(
        part["text"] for part in content if isinstance(part, Mapping) and "text" in part
    )
