"""Several answers of an LLM to one prompt, from an OpenAI-compatible chat server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rfprm_runtime.ground.endpoint import Endpoint, TryAgainError

if TYPE_CHECKING:
    import httpx


async def draw(
    endpoint: Endpoint, request: Mapping[str, Any], count: int, seed_of: Callable[[int], int]
) -> list[dict[str, Any]]:
    """``count`` answers, in one request if the server supports ``n``: it then computes the prompt
    once. ``seed_of`` gives the seed of a request from the number of answers that are there.

    Each answer has ``completion``, ``num_tokens``, ``finish_reason`` and, if the server sends
    log-probabilities, ``mean_logprob``. Raises like :meth:`Endpoint.post`.
    """
    found: list[dict[str, Any]] = []
    while len(found) < count:
        missing = count - len(found)
        body = {**request, "seed": seed_of(len(found)), **({"n": missing} if missing > 1 else {})}
        found += (await endpoint.post("chat/completions", body, _read))[:missing]
    return found


def _read(response: httpx.Response) -> list[dict[str, Any]]:
    try:
        content = response.json()
        choices = content["choices"]
        texts = [str(choice["message"]["content"] or "") for choice in choices]
        logprobs = [_logprobs(choice) for choice in choices]
        total = int((content.get("usage") or {}).get("completion_tokens") or 0)
        ends = [choice.get("finish_reason") for choice in choices]
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise _broken(response, type(error).__name__) from None
    if not texts:
        raise _broken(response, "no choices")
    found = []
    for text, end, share, known in zip(texts, ends, _shares(total, texts), logprobs, strict=True):
        num_tokens = len(known) if known and len(texts) > 1 else share
        answer = {"completion": text, "num_tokens": num_tokens, "finish_reason": end}
        if known:
            answer["mean_logprob"] = round(sum(known) / len(known), 6)
        found.append(answer)
    return found


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    tokens = (choice.get("logprobs") or {}).get("content") or ()
    return [float(token["logprob"]) for token in tokens]


def _broken(response: httpx.Response, reason: str) -> TryAgainError:
    # A proxy's page with status 200, or an answer that broke off.
    return TryAgainError(f"not a chat completion ({reason}): {response.text[:120]!r}")


def _shares(total: int, texts: Sequence[str]) -> list[int]:
    """Each text's share of ``total`` tokens, which servers count together, by its length; they sum
    to the total."""
    ends, seen, length = [0], 0, sum(map(len, texts))
    for number, text in enumerate(texts, start=1):
        seen += len(text)
        ends.append(round(total * (seen / length if length else number / len(texts))))
    return [end - begin for begin, end in pairwise(ends)]
