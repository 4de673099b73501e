"""TRL's GRPOTrainer with an advantage for every step instead of one for a completion.

Knows TRL's trainer (tested with 1.16), whose loss takes advantages of tokens; adds what it lacks:
from the step scores of a process reward to those tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfprm_runtime.errors import InvalidArgumentError, RfprmError
from rfprm_runtime.ground.arguments import shown
from rfprm_runtime.integrations.trl_sums import metric_name_of
from rfprm_runtime.rewards.completions import CompletionReward
from rfprm_runtime.rewards.dense import DenseCredit, step_advantages, token_advantages
from rfprm_runtime.rewards.token_rewards import step_token_spans, token_offsets

__all__ = ["DenseAdvantages", "DenseCredit"]
_logger = logging.getLogger(__name__)


class DenseAdvantages:
    """Goes before TRL's trainer: ``class Trainer(DenseAdvantages, GRPOTrainer): …``.

    Every token then has the advantage of its completion, as TRL computes it, plus that of its step.
    One of ``reward_funcs`` is a :func:`~rfprm_runtime.integrations.trl.process_reward`; of several
    the first counts. Its PRM scores each completion once, for the reward and for the
    steps. What has no step scores (a completion that cannot be scored, or whose steps cannot be
    found among its tokens) keeps the one advantage of the completion.

    Logs ``dense/advantage_std`` (the spread of what was added, over tokens) and
    ``dense/without_steps`` (a share of completions).
    """

    def __init__(self, *arguments: Any, dense: DenseCredit | None = None, **options: Any) -> None:
        """``dense``: how step scores become advantages. The other arguments are the trainer's.

        Raises ``ValueError`` without a process reward, and with ``use_liger_kernel``, whose loss
        takes one advantage for each completion.
        """
        if dense is not None and not isinstance(dense, DenseCredit):
            raise InvalidArgumentError(f"dense is {shown(dense)}, expected a DenseCredit or None")
        self._dense = dense or DenseCredit()
        self._scored: list[CompletionReward] | None = None
        self._reads: str | None = None
        trainer: Any = self
        super().__init__(*arguments, **options)
        names = map(metric_name_of, trainer.reward_funcs)
        self._reads = next((name for name in names if name is not None), None)
        if self._reads is None:
            raise InvalidArgumentError(
                f"none of the {len(trainer.reward_funcs)} reward functions is a process reward, so "
                "there are no steps to reward; add process_reward(…)"
            )
        if getattr(trainer.args, "use_liger_kernel", False):
            raise InvalidArgumentError(
                "use_liger_kernel=True takes one advantage for each completion, not for tokens; "
                "turn it off"
            )

    def take_process_rewards(self, name: str, rewards: Sequence[CompletionReward]) -> None:
        """Called by process rewards with what they found for this process's completions."""
        if name == self._reads:
            self._scored = list(rewards)

    def _generate_and_score_completions(self, inputs: Any) -> dict[str, Any]:
        self._scored = None
        trainer: Any = super()
        output: dict[str, Any] = trainer._generate_and_score_completions(inputs)
        rewards, self._scored = self._scored, None
        if rewards is None or len(rewards) != len(output["advantages"]):
            raise InvalidArgumentError(
                f"the process reward scored {0 if rewards is None else len(rewards)} of "
                f"{len(output['advantages'])} completions in this process; dense advantages do not "
                "go with sampling more completions than are kept"
            )
        output["advantages"] = self._with_steps(output, rewards)
        return output

    def _with_steps(self, output: dict[str, Any], rewards: Sequence[CompletionReward]) -> Any:
        """Advantages of tokens, [batch, length]."""
        from accelerate.utils import gather_object

        trainer: Any = self
        mode = "train" if trainer.model.training else "eval"
        group_size = trainer.num_generations if mode == "train" else trainer.num_generations_eval
        scores = [_step_scores(reward) for reward in rewards]
        # A group may be spread over processes, and its steps are compared with each other.
        everywhere = gather_object(scores)
        first = trainer.accelerator.process_index * len(scores)
        of_steps = step_advantages(everywhere, group_size, self._dense)[first:][: len(scores)]
        whole = output["advantages"]
        ids, mask = output["completion_ids"], output["completion_mask"].bool()
        found = whole.new_zeros(ids.shape)
        added, num_without = [], 0
        for row, (reward, steps) in enumerate(zip(rewards, of_steps, strict=True)):
            tokens = ids[row][mask[row]].tolist()
            spans = None if steps is None else self._spans(tokens, reward)
            num_without += spans is None
            added.append(token_advantages(0.0, steps, spans, len(tokens)))
            found[row][mask[row]] = whole[row] + whole.new_tensor(added[-1])
        spread = float(np.concatenate(added).std())
        trainer._metrics[mode]["dense/advantage_std"].append(spread)
        trainer._metrics[mode]["dense/without_steps"].append(num_without / len(rewards))
        return found

    def _spans(self, tokens: list[int], reward: CompletionReward) -> Any:
        """The tokens of each scored step; None if they cannot be found."""
        assert reward.trajectory is not None  # it has scores
        processing: Any = getattr(self, "processing_class", None)
        tokenizer = getattr(processing, "tokenizer", processing)
        try:
            text, offsets = token_offsets(
                tokens,
                lambda ids: tokenizer.decode(
                    ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
                ),
            )
            return step_token_spans(text, reward.trajectory.steps, offsets)
        except RfprmError as error:
            _logger.warning(
                "the steps of a completion cannot be found among its tokens, so it has one "
                "advantage for all: %s",
                error,
            )
            return None


def _step_scores(reward: CompletionReward) -> list[float] | None:
    """None unless there is one for each step."""
    if reward.score is None or len(reward.score.step_scores) != reward.num_steps:
        return None
    scores: list[float] = reward.score.step_scores.tolist()
    return scores
