"""An expert without an LLM: it checks what can be computed, and leaves the rest unknown."""

from rfprm_runtime.answers.compare import answers_agree
from rfprm_runtime.answers.extraction import final_answer
from rfprm_training.labelling.verifier.equations import Equation, find_equations
from rfprm_training.labelling.verifier.grading import StepGrade, grade_next_step, grade_steps

__all__ = [
    "Equation",
    "StepGrade",
    "answers_agree",
    "final_answer",
    "find_equations",
    "grade_next_step",
    "grade_steps",
]
