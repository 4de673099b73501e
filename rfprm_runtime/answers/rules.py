"""What graders disagree about by convention, as settings; the defaults are our choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from rfprm_runtime.ground.arguments import check_choice, check_not_negative

PercentRule = Literal["either", "share"]
BoxRule = Literal["list", "last"]
FormatRule = Literal["any", "marked", "boxed"]


@dataclass(frozen=True)
class AnswerRules:
    r"""How answers are found and compared. Raises ``ValueError`` for an invalid rule."""

    percent: PercentRule = "either"
    """``either``: 40% is right for 0.4 and for 40. ``share``: for 0.4 alone."""
    tolerance: float = 0.0
    """How far a number may be from the right one, relative to it. At 0 numbers are compared
    exactly, except that six right decimals stand for what they round (0.333333 for 1/3)."""
    boxes: BoxRule = "list"
    """``list``: boxes with nothing but a comma or *and* between them are one answer. ``last``: only
    the last box counts."""
    format: FormatRule = "any"
    r"""``any``: an answer may stand in a plain sentence. ``marked``: it needs a mark (a box,
    ``<answer>``, ``####``, *the answer is*). ``boxed``: it needs a box."""

    def __post_init__(self) -> None:
        check_choice("percent", self.percent, get_args(PercentRule))
        check_choice("boxes", self.boxes, get_args(BoxRule))
        check_choice("format", self.format, get_args(FormatRule))
        check_not_negative("tolerance", self.tolerance)

    def told(self) -> tuple[str, float]:
        """What a comparison in another process must know, as JSON values."""
        return self.percent, self.tolerance

    @classmethod
    def of(cls, percent: PercentRule, tolerance: float) -> AnswerRules:
        """From :meth:`told`."""
        return cls(percent=percent, tolerance=tolerance)


DEFAULT_RULES = AnswerRules()
