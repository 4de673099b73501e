"""Steps from any server with an OpenAI-compatible ``/completions`` (vLLM, SGLang, llama.cpp,
``transformers serve``). Needs the extra ``client``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rfprm_runtime.ground.arguments import check_not_negative
from rfprm_runtime.ground.endpoint import (
    Endpoint,
    EndpointError,
    EndpointRefusedError,
    TryAgainError,
)
from rfprm_runtime.search.proposals import Proposal, ProposerError, Request
from rfprm_runtime.search.step_format import MAX_BLANK, StepFormat

if TYPE_CHECKING:
    import httpx


@dataclass(frozen=True)
class _Continuation:
    text: str
    num_tokens: int
    ended: bool | None


class CompletionProposer:
    """A proposer for :class:`~rfprm_runtime.search.Searcher` that sends one request per branch, all
    at the same time. Threads and event loops may share it."""

    def __init__(
        self,
        base_url: str,
        model: str,
        *,
        step_format: StepFormat | None = None,
        temperature: float = 0.8,
        max_step_tokens: int = 256,
        max_response_tokens: int = 1024,
        seed: int | None = None,
        extra_body: dict[str, Any] | None = None,
        **endpoint: Any,
    ) -> None:
        """``base_url`` ends in ``/v1`` for most servers. ``extra_body`` is sent with every request
        (``top_p``, ``min_p``, …). A step cut off at ``max_step_tokens`` is kept as is. Given a
        ``seed``, the draws of a branch count up from it. ``endpoint``: ``api_key_env``,
        ``timeout``, ``concurrency``, ``max_attempts`` and ``max_wait`` of
        :class:`~rfprm_runtime.ground.endpoint.Endpoint`.

        If a server does not say whether it stopped at the separator (only vLLM and SGLang do), the
        end of a trace shows one request later, when nothing more comes.
        """
        check_not_negative("temperature", temperature)
        self._base_url, self._endpoint_options = base_url, endpoint
        self._format = step_format or StepFormat()
        self._settings = {"model": model, "temperature": temperature, **(extra_body or {})}
        self._max_step_tokens, self._max_response_tokens = max_step_tokens, max_response_tokens
        self._seed = seed
        self._draws_many = True
        self._open: dict[asyncio.AbstractEventLoop, tuple[Endpoint, int]] = {}

    async def __call__(self, requests: Sequence[Request]) -> list[list[Proposal]]:
        """Propose steps for each request. Raises :class:`ProposerError` if every attempt at a
        request failed, and :class:`~rfprm_runtime.ground.endpoint.EndpointRefusedError` if the
        server refuses a request that no further attempt would mend."""
        async with self:
            return list(await asyncio.gather(*(self._propose(request) for request in requests)))

    async def __aenter__(self) -> CompletionProposer:
        loop = asyncio.get_running_loop()
        endpoint, users = self._open.get(loop) or (
            Endpoint(self._base_url, **self._endpoint_options),
            0,
        )
        self._open[loop] = endpoint, users + 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        loop = asyncio.get_running_loop()
        endpoint, users = self._open.pop(loop)
        if users > 1:
            self._open[loop] = endpoint, users - 1
        else:
            await endpoint.close()

    async def _propose(self, request: Request) -> list[Proposal]:
        prompt = self._format.prompt_for(request.question, request.steps)
        found = await self._draw(
            prompt, request.count, self._max_step_tokens, stop=self._format.separator
        )
        proposals = await asyncio.gather(*(self._read(prompt, one) for one in found))
        return [proposal for proposal in proposals if proposal is not None]

    async def _read(self, prompt: str, found: _Continuation) -> Proposal | None:
        num_tokens = 0
        for _ in range(MAX_BLANK):
            num_tokens += found.num_tokens
            proposal = self._format.read(found.text, num_tokens, ended=found.ended)
            if proposal is not None:
                return await self._with_response(proposal, prompt, found)
            prompt = self._format.after_blank(prompt, found.text)
            [found] = await self._draw(
                prompt, 1, self._max_step_tokens, stop=self._format.separator
            )
        return None

    async def _with_response(
        self, proposal: Proposal, prompt: str, found: _Continuation
    ) -> Proposal:
        if not self._format.ends_thinking(found.text):
            return proposal
        [rest] = await self._draw(prompt + found.text, 1, self._max_response_tokens, stop=None)
        return self._format.with_response(proposal, found.text, rest.text, rest.num_tokens)

    async def _draw(
        self, prompt: str, count: int, max_tokens: int, *, stop: str | None
    ) -> list[_Continuation]:
        """``count`` continuations, in one request if the server supports ``n``."""
        found: list[_Continuation] = []
        if self._draws_many:
            found = await self._post(prompt, count, max_tokens, stop, draw=0)
            self._draws_many = len(found) >= count
        rest = range(len(found), count)
        more = await asyncio.gather(
            *(self._post(prompt, 1, max_tokens, stop, draw=draw) for draw in rest)
        )
        return [*found, *(one for answer in more for one in answer)]

    async def _post(
        self, prompt: str, count: int, max_tokens: int, stop: str | None, *, draw: int
    ) -> list[_Continuation]:
        body = {**self._settings, "prompt": prompt, "max_tokens": max_tokens}
        if count > 1:
            body["n"] = count
        if stop is not None:
            body["stop"] = [stop]
        if self._seed is not None:
            body["seed"] = self._seed + draw
        endpoint, _ = self._open[asyncio.get_running_loop()]
        try:
            return await endpoint.post("completions", body, _read_choices)
        except EndpointRefusedError:
            raise
        except EndpointError as error:
            raise ProposerError(str(error)) from None


def _read_choices(response: httpx.Response) -> list[_Continuation]:
    try:
        content = response.json()
        choices = content["choices"]
        total = int((content.get("usage") or {})["completion_tokens"])
        # Servers count the tokens of all choices together.
        share, more = divmod(total, len(choices))
        return [
            _Continuation(
                str(choice.get("text") or ""), share + (index < more), _ended_by_itself(choice)
            )
            for index, choice in enumerate(choices)
        ]
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise TryAgainError(
            "the response holds no completion with its usage "
            f"({type(error).__name__}): {response.text[:120]!r}"
        ) from None


def _ended_by_itself(choice: dict[str, Any]) -> bool | None:
    """Whether the policy chose to stop; None if the server does not say."""
    if choice.get("finish_reason") != "stop":
        return False
    if "stop_reason" in choice:  # vLLM: the separator, or null at the end
        return choice["stop_reason"] is None
    if "matched_stop" in choice:  # SGLang: the separator, or the id of the end token
        return not isinstance(choice["matched_stop"], str)
    return None
