"""Selection of distillation data: score a large set of traces once, choose from it by any rule.

score in shards → a table of numbers → choose → write the chosen rows

Only the first part needs a model, and it resumes after a kill.
"""

from rfprm_runtime.selection.pipeline import select_traces
from rfprm_runtime.selection.rule import Selection
from rfprm_runtime.selection.settings import OutputOptions, RayWorkers, Scoring
from rfprm_runtime.selection.summary import SelectionSummary

__all__ = [
    "OutputOptions",
    "RayWorkers",
    "Scoring",
    "Selection",
    "SelectionSummary",
    "select_traces",
]
