"""How a policy spells steps: the text it goes on from, and what its continuation says.

Knows text, no models and no scores.
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
"""How often a policy may begin with blank lines before it is taken for one that says nothing."""


@dataclass(frozen=True)
class StepFormat:
    """The way from steps to a prompt, and from a continuation to a step.

    Each step ends at ``separator``. A trace ends where the policy stops of itself, or with a step
    of which ``is_final`` is true: many small models go on with other problems after an answer.
    With ``close_thinking`` (``</think>``) the steps are thinking; the policy is asked for the
    response in one piece once the tag comes.
    """

    prompt: Callable[[str, str], str] = plain_prompt
    """Makes the prompt from the question and the steps so far, which it must end with."""
    separator: str = "\n\n"
    is_final: Callable[[str], bool] = lambda step: False
    close_thinking: str | None = None

    def prompt_for(self, question: str, steps: Steps) -> str:
        return self.prompt(question, "".join(step + self.separator for step in steps))

    def read(self, continuation: str, num_tokens: int, *, ended: bool | None) -> Proposal | None:
        """The step that a continuation begins with; None where it is blank and not the end, so that
        :meth:`after_blank` has to be asked.

        ``ended``: the policy stopped of itself, and not at the separator or at a limit; None where
        that is not known. A policy may begin with line ends of its own; they are no empty step.
        """
        step, found, _ = continuation.lstrip("\n").partition(self.separator)
        step = step.strip()
        if self.ends_thinking(step):
            step, found, ended = step.partition(str(self.close_thinking))[0].strip(), "", True
        if self.is_final(step) or (ended and not found):
            return Proposal(step, num_tokens, finished=True)
        if not step:
            # A policy that says nothing at all has ended; one that says line ends alone has not.
            is_end = ended is None and not continuation
            return Proposal("", num_tokens, finished=True) if is_end else None
        return Proposal(step, num_tokens)

    def after_blank(self, prompt: str, continuation: str) -> str:
        """The prompt with the blank lines that a policy wants first. Servers may cut them off."""
        cut = "" if self.separator in continuation else self.separator
        return prompt + continuation + cut

    def with_response(
        self, proposal: Proposal, continuation: str, rest: str, num_tokens: int
    ) -> Proposal:
        """The step that ended the thinking, with the response: what follows the tag in its
        ``continuation``, and the ``rest`` that was asked for at ``num_tokens``."""
        response = continuation.partition(str(self.close_thinking))[2] + rest
        return replace(
            proposal,
            response=tuple(split_steps(response)),
            num_tokens=proposal.num_tokens + num_tokens,
        )

    def ends_thinking(self, text: str) -> bool:
        return self.close_thinking is not None and self.close_thinking in text
