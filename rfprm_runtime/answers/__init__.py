"""The final answer of a text, and whether two answers are the same.

Knows numbers and algebra as text; knows no trajectories and no models.
"""

from rfprm_runtime.answers.checker import AnswerChecker
from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_runtime.answers.grouping import group_answers
from rfprm_runtime.answers.rules import AnswerRules

__all__ = ["AnswerChecker", "AnswerRules", "answers_agree", "final_answer", "group_answers"]
