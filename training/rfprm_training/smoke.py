"""Runs the whole chain in minutes on generated problems: traces → curation → labels → PRM →
artifact → evaluation. ``python -m rfprm_training.smoke -o runs/smoke``.

The training is far too short for a useful PRM; the point is that all parts work together.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rfprm_export.artifact_writer import export_artifact
from rfprm_export.checkpoint import read_checkpoint
from rfprm_export.named_base import GgufBase
from rfprm_export.shipped import shipped_checkpoint
from rfprm_training import TrainingError
from rfprm_training.construction.corruption import CORRUPTIONS, corrupt
from rfprm_training.construction.word_problems import word_problems
from rfprm_training.curation.config import CurationConfig, DuplicateConfig
from rfprm_training.curation.pipeline import curate
from rfprm_training.evaluation.held_out import open_scorer
from rfprm_training.evaluation.set_figures import SetEvaluation, score_set, summarise_set
from rfprm_training.evaluation.set_formats import read_evaluation_set
from rfprm_training.gsm8k import GoldSolution, strip_notes
from rfprm_training.labelling.config import Component, LabelConfig, StepRewardConfig
from rfprm_training.labelling.encoders import OFFLINE_PACKAGE
from rfprm_training.labelling.label_file import label_file
from rfprm_training.learning.trainer import Trainer

_CONFIG = """
name = "smoke"
[base]
kind = "gguf"
package = "{base.package}"
package_version = "{base.package_version}"
file = "{base.file}"
sha256 = "{base.sha256}"
[network]
num_layers = 4
first_trained_layer = 2
lora_rank = 4
lora_alpha = 8
[data]
kind = "rewarded"
train = ["{train}"]
held_out_share = 0.1
[optimizer]
learning_rate = 1e-3
head_learning_rate = 5e-3
num_epochs = 3
warmup_steps = 5
batch_tokens = 2048
evaluate_every_steps = 10
"""


def run(folder: Path, *, num_problems: int = 120) -> SetEvaluation:
    """Run the chain in ``folder``. Raises :class:`TrainingError` if ``folder`` exists."""
    if folder.exists():
        raise TrainingError(f"{folder} exists; remove it or choose another folder")
    folder.mkdir(parents=True)
    *trained, tested = _thirds(word_problems(num_problems * 3 // 2, seed=1))
    raw, marked = folder / "raw.jsonl", folder / "marked.jsonl"
    _write_lines(raw, _traces([problem for part in trained for problem in part]))
    _write_lines(marked, _marked(tested))

    curated = folder / "curated.jsonl"
    # Problems of one form share most of their words, so only identical ones count as duplicates.
    curation = CurationConfig(
        evaluation_sets=(str(marked),),
        max_contamination=1.0,
        duplicates=DuplicateConfig(threshold=1.0),
    )
    report = curate([str(raw)], curated, curation)
    print(f"{report.num_read} traces read, {report.num_kept} kept ({report.num_dropped})")

    labelled = folder / "labelled.jsonl"
    summary = label_file(str(curated), labelled, _label_config())
    print(f"{summary.num_labelled} trajectories labelled")

    config = folder / "config.toml"
    base = read_checkpoint(shipped_checkpoint()).base
    assert isinstance(base, GgufBase)
    config.write_text(_CONFIG.format(base=base, train=labelled.resolve()), encoding="utf-8")
    checkpoint = Trainer(config, folder / "checkpoint", device="cpu").run()
    print(f"trained: {checkpoint}")

    artifact = folder / "artifact"
    export_artifact(checkpoint, artifact, precision="fp32")
    examples = read_evaluation_set(f"processbench:{marked}")
    with open_scorer(artifact) as scorer:
        found = summarise_set(examples, score_set(scorer, examples))
    assert found.first_error is not None
    print(f"{found.num_trajectories} marked traces: first-error F1 {found.first_error.f1:.3f}")
    return found


def _thirds(problems: list[GoldSolution]) -> list[list[GoldSolution]]:
    size = len(problems) // 3
    return [problems[:size], problems[size : 2 * size], problems[2 * size :]]


def _traces(problems: list[GoldSolution]) -> Iterable[dict[str, Any]]:
    """Thinking traces as a model would write them: right, wrong, and a few bad records."""
    for index, problem in enumerate(problems):
        steps = [strip_notes(step) for step in problem.steps]
        reference = {"metadata": {"reference": steps}}
        yield {**_trace(problem, steps, problem.answer, correct=True), **reference}
        wrong = _wrong(problem, index)
        if wrong is not None:
            yield {**_trace(problem, wrong.steps, wrong.answer, correct=False), **reference}
        if index % 20 == 0:
            yield _trace(problem, steps, problem.answer, correct=True)  # a duplicate
            yield {"question": problem.question, "completion": "<think></think>"}


def _trace(
    problem: GoldSolution, steps: Iterable[str], answer: str, *, correct: bool
) -> dict[str, Any]:
    thinking = "\n\n".join(steps)
    return {
        "question": problem.question,
        "completion": f"<think>\n{thinking}\n</think>\n\nThe answer is {answer}.",
        "answer": problem.answer,
        "is_correct": correct,
    }


def _wrong(problem: GoldSolution, seed: int) -> Any:
    return corrupt(problem, random.Random(seed), dict.fromkeys(CORRUPTIONS, 1.0))


def _marked(problems: list[GoldSolution]) -> Iterable[dict[str, Any]]:
    """Traces with their first wrong step, in ProcessBench's format."""
    for index, problem in enumerate(problems):
        steps = [strip_notes(step) for step in problem.steps]
        yield {"problem": problem.question, "steps": steps, "label": -1}
        wrong = _wrong(problem, index)
        if wrong is not None:
            yield {"problem": problem.question, "steps": wrong.steps, "label": wrong.first_error}


def _label_config() -> LabelConfig:
    """All components if the offline encoder is installed, otherwise quality alone."""
    components: tuple[Component, ...] = ("quality",)
    if find_spec(OFFLINE_PACKAGE.replace("-", "_")) and find_spec("sentence_transformers"):
        components = ("alignment", "quality", "coherence")
    else:
        print(f"without alignment and coherence: {OFFLINE_PACKAGE} is not installed")
    return LabelConfig(steps=StepRewardConfig(components=components, encoder=OFFLINE_PACKAGE))


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-o", "--output", type=Path, default=Path("runs/smoke"))
    parser.add_argument("--overwrite", action="store_true")
    arguments = parser.parse_args()
    if arguments.overwrite:
        shutil.rmtree(arguments.output, ignore_errors=True)
    run(arguments.output)


if __name__ == "__main__":
    main()
