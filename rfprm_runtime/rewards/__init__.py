"""Rewards for reinforcement learning: for completions, groups and tokens.

Knows scorers and completions, but no training framework (``integrations`` does).
"""

from rfprm_runtime.rewards.advantages import (
    DEFAULT_BETA,
    group_advantages,
    mixed_reward,
    step_credits,
)
from rfprm_runtime.rewards.down_sampling import down_sample
from rfprm_runtime.rewards.token_rewards import step_token_spans, token_offsets, token_rewards

__all__ = [
    "DEFAULT_BETA",
    "down_sample",
    "group_advantages",
    "mixed_reward",
    "step_credits",
    "step_token_spans",
    "token_offsets",
    "token_rewards",
]
