"""Scores that authors published of their own models, to compare with.

Each entry's text and numbers were read in the source that it names; its tolerance says how exactly
they were computed. A wrong label or marker is farther off. A small error of the prompt need not be:
in some examples the scores hardly depend on the chat around the steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rfprm_export.model_names import is_called
from rfprm_runtime.types import Trajectory, TrajectoryScore


@dataclass(frozen=True)
class PublishedScore:
    """One trace, and what its author's page says of it."""

    model: str
    """The repository of the Hub."""
    source: str
    trajectory: Trajectory
    step_scores: tuple[float, ...] = ()
    trajectory_score: float | None = None
    tolerance: float = 0.02
    """How far a score may be from the published one, for the reason that stands beside it."""

    @property
    def expected(self) -> tuple[float, ...]:
        whole = () if self.trajectory_score is None else (self.trajectory_score,)
        return self.step_scores + whole


@dataclass(frozen=True)
class Comparison:
    """A published trace beside what a scorer gave it."""

    published: PublishedScore
    found: tuple[float, ...]

    @property
    def difference(self) -> float:
        """The largest; infinite if the numbers of scores differ."""
        expected = self.published.expected
        if len(expected) != len(self.found):
            return float("inf")
        return float(np.abs(np.subtract(expected, self.found)).max())

    @property
    def agrees(self) -> bool:
        return self.difference <= self.published.tolerance


# Raw rewards in bfloat16: SkyworkAI/Skywork-Reward-V2's own two programs differ by 0.125.
_BFLOAT16_REWARD = 0.25
# Probabilities in bfloat16, on other GPUs: users who ran the card of Qwen2.5-Math-PRM-7B got scores
# up to 0.033 away, which is 0.2 in the logit, and so up to 0.05 where a score is near one half.
_BFLOAT16_PROBABILITY = 0.05
# In float32, printed with four digits.
_FLOAT32 = 0.001

_APPLES = (
    "Jane has 12 apples. She gives 4 apples to her friend Mark, then buys 1 more apple, and "
    "finally splits all her apples equally among herself and her 2 siblings. How many apples does "
    "each person get?"
)
_APPLES_BEGIN = (
    "1. Jane starts with 12 apples and gives 4 to Mark. 12 - 4 = 8. Jane now has 8 apples.\n2. "
    "Jane buys 1 more apple. 8 + 1 = 9. Jane now has 9 apples.\n3. Jane splits the 9 apples "
    "equally among "
)
_APPLES_RIGHT = Trajectory(
    question=_APPLES,
    steps=(
        _APPLES_BEGIN + "herself and her 2 siblings (3 people in total). 9 ÷ 3 = 3 apples "
        "each. Each person gets 3 apples.",
    ),
)
_APPLES_WRONG = Trajectory(
    question=_APPLES,
    steps=(
        _APPLES_BEGIN + "her 2 siblings (2 people in total). 9 ÷ 2 = 4.5 apples each. Each "
        "person gets 4 apples.",
    ),
)

_FLAMINGOS = Trajectory(
    question="Sue lives in a fun neighborhood.  One weekend, the neighbors decided to play a prank "
    "on Sue.  On Friday morning, the neighbors placed 18 pink plastic flamingos out on Sue's front "
    "yard.  On Saturday morning, the neighbors took back one third of the flamingos, painted them "
    "white, and put these newly painted white flamingos back out on Sue's front yard.  Then, on "
    "Sunday morning, they added another 18 pink plastic flamingos to the collection. At noon on "
    "Sunday, how many more pink plastic flamingos were out than white plastic flamingos?",
    steps=(
        "To find out how many more pink plastic flamingos were out than white plastic flamingos at "
        "noon on Sunday, we can break down the problem into steps. First, on Friday, the neighbors "
        "start with 18 pink plastic flamingos.",
        "On Saturday, they take back one third of the flamingos. Since there were 18 flamingos, "
        "(1/3 \\times 18 = 6) flamingos are taken back. So, they have (18 - 6 = 12) flamingos left "
        "in their possession. Then, they paint these 6 flamingos white and put them back out on "
        "Sue's front yard. Now, Sue has the original 12 pink flamingos plus the 6 new white ones. "
        "Thus, by the end of Saturday, Sue has (12 + 6 = 18) pink flamingos and 6 white flamingos.",
        "On Sunday, the neighbors add another 18 pink plastic flamingos to Sue's front yard. By "
        "the end of Sunday morning, Sue has (18 + 18 = 36) pink flamingos and still 6 white "
        "flamingos.",
        "To find the difference, subtract the number of white flamingos from the number of pink "
        "flamingos: (36 - 6 = 30). Therefore, at noon on Sunday, there were 30 more pink plastic "
        "flamingos out than white plastic flamingos. The answer is (\\boxed{30}).",
    ),
)


def _ducks(answer: int) -> Trajectory:
    return Trajectory(
        question="Janet’s ducks lay 16 eggs per day. She eats three for breakfast every morning "
        "and bakes muffins for her friends every day with four. She sells the remainder at the "
        "farmers' market daily for $2 per fresh duck egg. How much in dollars does she make every "
        "day at the farmers' market?",
        steps=(
            "Step 1: Janet's ducks lay 16 eggs per day.",
            "Step 2: She eats three for breakfast every morning, so she has 16 - 3 = 13 eggs left.",
            "Step 3: She bakes muffins for her friends every day with four eggs, so she has 13 - 4 "
            "= 9 eggs left.",
            "Step 4: She sells the remainder at the farmers' market daily for $2 per fresh duck "
            f"egg, so she makes 9 * $2 = ${answer} every day at the farmers' market. The answer "
            f"is: {answer}",
        ),
    )


PUBLISHED_SCORES = (
    PublishedScore(
        model="Skywork/Skywork-Reward-V2-Llama-3.1-8B",
        source="README of SkyworkAI/Skywork-Reward-V2 (23.0 with transformers, 23.125 with SGLang)",
        trajectory=_APPLES_RIGHT,
        trajectory_score=23.0,
        tolerance=_BFLOAT16_REWARD,
    ),
    PublishedScore(
        model="Skywork/Skywork-Reward-V2-Llama-3.1-8B",
        source="README of SkyworkAI/Skywork-Reward-V2 (3.594 with transformers, 3.578 with SGLang)",
        trajectory=_APPLES_WRONG,
        trajectory_score=3.59375,
        tolerance=_BFLOAT16_REWARD,
    ),
    PublishedScore(
        model="Skywork/Skywork-Reward-Llama-3.1-8B-v0.2",
        source="README of SkyworkAI/Skywork-Reward, its 8B",
        trajectory=_APPLES_RIGHT,
        trajectory_score=13.6875,
        tolerance=_BFLOAT16_REWARD,
    ),
    PublishedScore(
        model="Skywork/Skywork-Reward-Llama-3.1-8B-v0.2",
        source="README of SkyworkAI/Skywork-Reward, its 8B",
        trajectory=_APPLES_WRONG,
        trajectory_score=-9.1875,
        tolerance=_BFLOAT16_REWARD,
    ),
    # The card's code lacked backslashes when the numbers were published. Those who ran it as it is
    # now, among them vLLM's tests (0.9995 0.1813 0.9746 0.9995 in float16), get the same scores.
    PublishedScore(
        model="Qwen/Qwen2.5-Math-PRM-7B",
        source="card of Qwen/Qwen2.5-Math-PRM-7B",
        trajectory=_FLAMINGOS,
        step_scores=(1.0, 0.1904296875, 0.9765625, 1.0),
        tolerance=_BFLOAT16_PROBABILITY,
    ),
    PublishedScore(
        model="Qwen/Qwen2.5-Math-7B-PRM800K",
        source="card of Qwen/Qwen2.5-Math-7B-PRM800K, as in yoshility/mtrths, prm.py",
        trajectory=_FLAMINGOS,
        step_scores=(0.9921875, 0.2333984375, 0.6796875, 0.94140625),
        tolerance=_BFLOAT16_PROBABILITY,
    ),
    PublishedScore(
        model="peiyi9979/math-shepherd-mistral-7b-prm",
        source="card of peiyi9979/math-shepherd-mistral-7b-prm, the right answer",
        trajectory=_ducks(18),
        step_scores=(0.9955, 0.9958, 0.9983, 0.9957),
        tolerance=_FLOAT32,
    ),
    PublishedScore(
        model="peiyi9979/math-shepherd-mistral-7b-prm",
        source="card of peiyi9979/math-shepherd-mistral-7b-prm, the wrong answer",
        trajectory=_ducks(17),
        step_scores=(0.9955, 0.9958, 0.9983, 0.0240),
        tolerance=_FLOAT32,
    ),
    PublishedScore(
        model="ryokamoi/Qwen-2.5-7B-FoVer-PRM",
        source="README of psunlpgroup/FoVer",
        trajectory=Trajectory(question="Calculate (1+1)*(1+2)", steps=("1+1=2", "1+2=3", "2*3=8")),
        step_scores=(0.90995, 0.99978, 0.01234),
    ),
)


def published_scores_of(name: str, repo: str | None = None) -> tuple[PublishedScore, ...]:
    """What was published of the model called ``name`` (without its owner). ``repo``: its
    repository, where that is known: others train models of their own and give them such names."""
    return tuple(
        one
        for one in PUBLISHED_SCORES
        if is_called(name, one.model.lower().partition("/")[2])
        and (repo is None or repo.lower() == one.model.lower())
    )


def compare(
    published: Sequence[PublishedScore], scores: Sequence[TrajectoryScore]
) -> list[Comparison]:
    """Published traces beside their ``scores``, in order."""
    return [Comparison(one, _numbers(own)) for one, own in zip(published, scores, strict=True)]


def _numbers(score: TrajectoryScore) -> tuple[float, ...]:
    whole = () if score.trajectory_score is None else (score.trajectory_score,)
    return (*(float(step) for step in score.step_scores), *whole)
