"""How a policy spells steps: the prompt it continues, and the step in its continuation.

Knows text, but no models and no scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from rfprm_runtime.ground.parsing import split_steps
from rfprm_runtime.search.proposals import Proposal, Steps


def plain_prompt(question: str, so_far: str) -> str:
    """The question, a blank line, the steps so far."""
    return f"{question}\n\n{so_far}"


MAX_BLANK = 3
"""How often a policy may begin with blank lines before it counts as proposing nothing."""


@dataclass(frozen=True)
class StepFormat:
    """Turns steps into a prompt, and a continuation into a step.

    Each step ends at ``separator``. A trace ends when the policy stops by itself, or with a step
    for which ``is_final`` is true: many small models start on other problems after an answer.
    With ``close_thinking`` (``</think>``) the steps are thinking; once the tag comes, the policy
    is asked for the response in one piece.
    """

    prompt: Callable[[str, str], str] = plain_prompt
    """Builds the prompt from the question and the steps so far, and must end with the steps."""
    separator: str = "\n\n"
    is_final: Callable[[str], bool] = lambda step: False
    close_thinking: str | None = None

    def prompt_for(self, question: str, steps: Steps) -> str:
        return self.prompt(question, "".join(step + self.separator for step in steps))

    def read(self, continuation: str, num_tokens: int, *, ended: bool | None) -> Proposal | None:
        """The first step of a continuation, or None if it is blank but not the end; then continue
        from :meth:`after_blank`.

        ``ended``: whether the policy stopped by itself, not at the separator or a limit; None if
        unknown. Leading line ends of the policy's own do not count as an empty step.
        """
        step, found, _ = continuation.lstrip("\n").partition(self.separator)
        step = step.strip()
        if self.ends_thinking(step):
            step, found, ended = step.partition(str(self.close_thinking))[0].strip(), "", True
        if self.is_final(step) or (ended and not found):
            return Proposal(step, num_tokens, finished=True)
        if not step:
            # A policy that writes nothing at all has ended; one that writes only line ends has not.
            is_end = ended is None and not continuation
            return Proposal("", num_tokens, finished=True) if is_end else None
        return Proposal(step, num_tokens)

    def after_blank(self, prompt: str, continuation: str) -> str:
        """The prompt with the blank lines that the policy wrote first, which servers may strip."""
        stripped = "" if self.separator in continuation else self.separator
        return prompt + continuation + stripped

    def with_response(
        self, proposal: Proposal, continuation: str, rest: str, num_tokens: int
    ) -> Proposal:
        """The step that ended the thinking, with the response: what follows the tag in its
        ``continuation``, and the ``rest``, which cost ``num_tokens``."""
        response = continuation.partition(str(self.close_thinking))[2] + rest
        return replace(
            proposal,
            response=tuple(split_steps(response)),
            num_tokens=proposal.num_tokens + num_tokens,
        )

    def ends_thinking(self, text: str) -> bool:
        return self.close_thinking is not None and self.close_thinking in text
