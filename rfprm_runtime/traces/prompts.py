"""What RL stacks pass in, as text: the question in a prompt, the trace in a completion.

Reads messages and rendered chat templates alike; knows no scores.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfprm_runtime.errors import InvalidTrajectoryError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.ground.thinking import opening_in
from rfprm_runtime.traces.chats import answer_in, last_question, turns_of
from rfprm_runtime.traces.templates import question_in_rendered, without_end_tokens


def question_of_prompt(prompt: Any) -> str:
    """The question in a prompt, which is a string, a chat message or a list of them.

    In messages, and in a string rendered by a chat template, it is the last thing the user said;
    any other string is itself the question. Raises :class:`InvalidTrajectoryError` if there is no
    user message.
    """
    if isinstance(prompt, str):
        return question_in_rendered(prompt)
    messages = [{"role": "user", **prompt}] if isinstance(prompt, Mapping) else prompt
    question = last_question(turns_of(messages, "prompt"))
    if question is None:
        raise InvalidTrajectoryError("the prompt has no user message, so there is no question")
    return question


def text_after(prompt: Any, completion: Any) -> str | InvalidTrajectoryError:
    """The text of a completion, begun where its prompt ends: with the tag that opens a thought, if
    the prompt ends with it. An error in its place if the completion cannot be read."""
    try:
        return opening_of(prompt) + text_of_completion(completion)
    except InvalidTrajectoryError as error:
        return error


def opening_of(prompt: Any) -> str:
    """The tag that a prompt, or the assistant's message that it ends with, opens a thought with;
    empty if there is none."""
    if isinstance(prompt, str):
        return opening_in(prompt)
    try:
        turns = turns_of(prompt, "prompt")
    except InvalidTrajectoryError:
        return ""
    return opening_in(turns[-1].text) if turns and turns[-1].role == "assistant" else ""


def text_of_completion(completion: Any) -> str:
    """The text of a completion: a string, a chat message, or what the assistant says in a list of
    them. Tools' answers, calls of tools and images are no text.

    Reasoning that a message keeps in a field or a part of its own comes first, in thinking tags.
    Raises :class:`InvalidTrajectoryError` for anything else.
    """
    if isinstance(completion, str):
        return completion
    messages = (
        [{"role": "assistant", **completion}] if isinstance(completion, Mapping) else completion
    )
    thinking, text = answer_in(turns_of(messages, "completion"))
    return "\n\n".join(part for part in (thinking and f"<think>{thinking}</think>", text) if part)


def response_after(query: str, prompt: str) -> str:
    """What follows ``prompt`` in ``query``, without trailing end tokens.

    Raises :class:`InvalidTrajectoryError` if the query does not begin with the prompt, or one of
    them is no text.
    """
    for name, text in (("query", query), ("prompt", prompt)):
        if not isinstance(text, str):
            raise InvalidTrajectoryError(f"the {name} is {shown(text)}, expected a text")
    if not query.startswith(prompt):
        raise InvalidTrajectoryError(
            f"the query begins with {query[:40]!r}, not with its prompt {prompt[:40]!r}, so prompt "
            "and response cannot be told apart; either it was truncated (raise the maximum length) "
            "or its tokenizer does not decode to the text it encoded"
        )
    return without_end_tokens(query[len(prompt) :])
