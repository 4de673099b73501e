"""Finds public functions that take text and are not measured.

A function takes text if an argument is annotated with one of :data:`_TEXTS`. It counts as measured
if its name is part of a target's name; the rest must be in :data:`LEFT_OUT`, with a reason.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator

from scripts.growth.targets import TARGETS

PACKAGES = ("rfprm_runtime", "rfprm_training", "rfprm_export")
_TEXTS = re.compile(
    r"\bstr\b|Trajectory|\bAny\b|Record|GoldSolution|Mapping|LabelledSteps|ScoredTrace|PageContent"
)
LEFT_OUT = {
    # What users write once, on a command line or in code: settings, names, paths.
    "rfprm_export": "models, paths and names of layers; traces only go to scorers",
    "rfprm_runtime.artifact": "manifests, which their size limits",
    "rfprm_runtime.backends": "integers in, logits out",
    "rfprm_runtime.cli": "options of commands; what they read is measured where it is read",
    "rfprm_runtime.errors": "the words of one message",
    "rfprm_runtime.ground.arguments": "names of arguments; values are shown shortened",
    "rfprm_runtime.ground.blocks": "by split_steps",
    "rfprm_runtime.ground.claims": "paths of outputs",
    "rfprm_runtime.ground.endpoint": "a request, sent as it is",
    "rfprm_runtime.ground.made_from": "hashes and settings; differences is measured",
    "rfprm_runtime.ground.names": "names, which are refused beyond 255 bytes",
    "rfprm_runtime.ground.partial_names": "names of files",
    "rfprm_runtime.ground.strict_json": "files of at most 16 MiB; its scan is parse_object's",
    "rfprm_runtime.ground.whole_imports": "names of our modules",
    "rfprm_runtime.ground.progress": "names of units and stages",
    "rfprm_runtime.ground.running": "who is running, no text",
    "rfprm_runtime.ground.validated": "pydantic, by Trajectory.build and .from_text",
    "rfprm_runtime.ground.whole_files": "writes text as it is",
    "rfprm_runtime.scores": "numbers; Any and Mapping are settings",
    "rfprm_runtime.selection": "tables, paths and settings; its text is in messages_of",
    "rfprm_runtime.traces.candidates": "by Record.each and trajectory_from_record",
    "rfprm_runtime.traces.choosing": "by trajectory_from_record",
    "rfprm_runtime.traces.content": "by last_exchange",
    "rfprm_runtime.traces.items": "by trajectory_from_record",
    "rfprm_runtime.traces.known": "by trajectory_from_record",
    "rfprm_runtime.traces.layouts": "by trajectory_from_record",
    "rfprm_runtime.traces.listed": "names of fields",
    "rfprm_runtime.traces.outputs": "by said_in and trajectory_from_record",
    "rfprm_runtime.traces.present": "by trajectory_from_record",
    "rfprm_runtime.traces.questions": "by trajectory_from_record",
    "rfprm_runtime.traces.right": "by text_of, final_answer and answers_agree",
    "rfprm_runtime.traces.shards": "hashes",
    "rfprm_runtime.traces.tally": "counts; is_one_step_of_lines is split_steps",
    "rfprm_runtime.view.plots": "matplotlib draws numbers; text is a title",
    "rfprm_runtime.view.view_files": "files of rows: scored_trace and page_html",
    "rfprm_training.commands": "options of commands",
    "rfprm_training.data_commands": "options of commands",
    "rfprm_training.evaluation.best_of_n": "short answers, by group_answers",
    "rfprm_training.evaluation.calibrate": "numbers and names of sources",
    "rfprm_training.evaluation.cross_validation": "training runs",
    "rfprm_training.evaluation.held_out": "numbers and names of kinds",
    "rfprm_training.evaluation.plots": "numbers and names of sets",
    "rfprm_training.evaluation.printed_sets": "numbers and names of sets",
    "rfprm_training.evaluation.printing": "numbers and names of sets",
    "rfprm_training.evaluation.set_figures": "numbers and keys of questions",
    "rfprm_training.evaluation.step_metrics": "numbers and keys of questions",
    "rfprm_training.fetch_data": "names and paths of files",
    "rfprm_training.labelling.encoders": "a model",
    "rfprm_training.labelling.expert": "an LLM's requests, which max_prompt_characters limits",
    "rfprm_training.labelling.label_file": "files of rows",
    "rfprm_training.labelling.labeller": "models, and what the verifier's entries measure",
    "rfprm_training.labelling.negatives": "keys of questions",
    "rfprm_training.labelling.step_rewards": "vectors and numbers",
    "rfprm_training.labelling.trajectory_reward": "final_answer, and the comparison of answers",
    "rfprm_training.learning": "models, and examples made of the entries for gold solutions",
    "rfprm_training.resumable": "writes lines as they are",
    "rfprm_training.rewarded:known_or_none": "numbers",
    "rfprm_training.toml_config": "a settings file",
    "rfprm_training.construction.procedures": "makes its own texts, of fixed length",
    "rfprm_training.construction.propagation": "by the entries for corrupt",
    "rfprm_training.construction.question_examples": "by the entries for corrupt and wording",
    "rfprm_training.construction.sampling.line_sampler": "a model",
    "rfprm_training.construction.sampling.next_steps": "a model, and graded_examples",
    "rfprm_training.curation.pipeline": "rows, by reason_to_drop and NearDuplicates",
    "rfprm_training.evaluation.published_formats": "as processbench and prmbench",
    "rfprm_training.evaluation.set_formats": "rows: published_formats and read_traces",
    "rfprm_training.gsm8k": "as split_solution",
    # Comparing answers has a budget; models have costs of their own.
    "rfprm_runtime.answers.checker": "comparing answers, within its budget",
    "rfprm_runtime.answers.killable_worker": "comparing answers, within its budget",
    "rfprm_runtime.answers.worker_pool": "comparing answers, within its budget",
    "rfprm_runtime.answers.algebra": "comparing answers, within its budget",
    "rfprm_runtime.answers.meaning": "answers of at most 2,000 characters, by answers_agree",
    "rfprm_runtime.answers.finding": "by final_answer",
    "rfprm_runtime.rewards.outcomes": "as final_answer, and comparing answers within its budget",
    "rfprm_runtime.integrations": "as text_of_completion, question_of_prompt, and the scorer",
    "rfprm_runtime.prompt": "pieces of one text each, joined once; tokenizers are not ours",
    "rfprm_runtime.reranker": "as final_answer and count_votes, and the scorer",
    "rfprm_runtime.rewards.completions": "as text_of_completion and final_answer, and the scorer",
    "rfprm_runtime.rewards.micro_batcher": "the scorer",
    "rfprm_runtime.scorer": "a model and a tokenizer; windows and prefixes are measured",
    "rfprm_runtime.session": "a model and a tokenizer",
    "rfprm_runtime.search": "a policy and a model; formats and trees are measured",
    # Parts of what is measured.
    "rfprm_runtime.traces.added_fields": "names of fields",
    "rfprm_runtime.traces.chats": "as last_exchange",
    "rfprm_runtime.traces.formats": "as trajectory_from_record and Record.each",
    "rfprm_runtime.traces.jsonl": "as parse_object and json_line",
    "rfprm_runtime.traces.record": "as Record.each",
    "rfprm_runtime.traces.sources": "paths",
    "rfprm_runtime.traces.tables": "names of data sets",
    "rfprm_runtime.view.page": "as page_html",
    "rfprm_runtime.view.scored_rows": "as scored_trace",
    "rfprm_runtime.notebook": "as show and score_html",
}
"""By module, or ``module:function``, why it is not measured."""


def not_measured() -> list[str]:
    """Every public function that takes text, is no target's, and is not left out."""
    measured = set(re.findall(r"[A-Za-z_]\w*", " ".join(TARGETS)))
    return [
        place
        for place in _taking_text()
        if place.split(":")[1].split(".")[-1] not in measured and not _is_left_out(place)
    ]


def _is_left_out(place: str) -> bool:
    return any(place == name or place.startswith((f"{name}.", f"{name}:")) for name in LEFT_OUT)


def _taking_text() -> Iterator[str]:
    for package in PACKAGES:
        found = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
        for info in found:
            try:
                module = importlib.import_module(info.name)
            except ImportError:  # of an extra that is not here
                continue
            for name, function in _functions(module):
                notes = [str(note) for arg, note in _annotations(function) if arg != "return"]
                if any(map(_TEXTS.search, notes)):
                    yield f"{info.name}:{name}"


def _functions(module: object) -> Iterator[tuple[str, object]]:
    own = getattr(module, "__name__", "")
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != own:
            continue
        if inspect.isfunction(value):
            yield name, value
        elif inspect.isclass(value):
            for part, method in vars(value).items():
                if not part.startswith("_") and inspect.isfunction(inspect.unwrap(method)):
                    yield f"{name}.{part}", method


def _annotations(function: object) -> Iterator[tuple[str, object]]:
    yield from getattr(getattr(function, "__func__", function), "__annotations__", {}).items()
