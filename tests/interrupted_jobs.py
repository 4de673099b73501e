"""Commands on tiny inputs, for :mod:`interrupted_commands`: each leaves the same files whatever
interrupts it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from interrupted_commands import Job
from tiny_models import byte_tokenizer, save_published_prm
from tiny_problems import gold_row, solutions_row

RUNTIME_MODULES = (
    "rfprm_runtime.cli.main",
    "rfprm_runtime.cli.score_file",
    "rfprm_runtime.cli.view",
    "rfprm_runtime.selection.pipeline",
    "rfprm_export.commands",
    "rfprm_export.tensorrt.command",
    "rfprm_training.commands",
    "rfprm_training.data_commands",
    "rfprm_training.curation.pipeline",
    "rfprm_training.labelling.label_file",
    "datasketch",
    "pyarrow.parquet",
)
TRAINING_MODULES = (
    *RUNTIME_MODULES,
    "rfprm_training.evaluation.calibrate",
    "rfprm_training.construction.sampling.line_sampler",
    "transformers.models.llama",
    "peft",
)

_TRAIN = """
name = "tiny"
seed = 3
[base]
kind = "folder"
path = "base"
[network]
num_layers = 2
first_trained_layer = 1
lora_rank = 2
lora_alpha = 4
[data]
gold = "gold.jsonl"
model_solutions = "solutions.jsonl"
num_constructed = 6
num_constructed_held_out = 3
num_folds = 2
[optimizer]
learning_rate = 1e-3
head_learning_rate = 1e-2
num_epochs = 2
batch_tokens = 600
save_every_steps = 2
"""
_SAMPLE = """
num_questions = 4
num_demonstrations = 2
max_step_tokens = 8
batch_size = 2
[base]
kind = "folder"
path = "base"
"""
_LABEL = '[steps]\ncomponents = ["quality"]\n'

_ARTIFACT = ("-a", "artifact")
_FAKE = (*_ARTIFACT, "--backend", "fake")
RUNTIME_JOBS = (
    Job(
        "score",
        ["score", "traces.jsonl", "-o", "scored.jsonl", "--overwrite", *_FAKE],
        ["scored.jsonl"],
    ),
    Job(
        "select",
        # Best first, and with bad rows: every kind of file is written.
        [
            *(
                "select",
                "traces.jsonl",
                "-o",
                "best.jsonl",
                "--overwrite",
                "--top",
                "5",
                "--order",
                "rank",
            ),
            *("--shard-rows", "4", *_FAKE),
        ],
        ["best.jsonl", "best.jsonl.errors.jsonl", "best.jsonl.work"],
    ),
    Job(
        "select without its work",
        [
            *(
                "select",
                "traces.parquet",
                "-o",
                "best.parquet",
                "--overwrite",
                "--top",
                "5",
                "--order",
                "rank",
            ),
            *("--shard-rows", "4", "--no-keep-work", *_FAKE),
        ],
        ["best.parquet", "best.parquet.work"],
    ),
    Job("view", ["view", "already.jsonl", "-o", "page.html", "--overwrite"], ["page.html"]),
)
DATA_JOBS = (
    Job(
        "curate",
        ["curate", "traces.jsonl", "-o", "curated.jsonl", "--overwrite"],
        ["curated.jsonl", "curated.jsonl.report.json"],
    ),
    Job(
        "label",
        ["label", "traces.jsonl", "-o", "labelled.jsonl", "--config", "label.toml"],
        ["labelled.jsonl", "labelled.jsonl.errors.jsonl"],
    ),
)
TRAINING_JOBS = (
    Job(
        "sample",
        ["sample", "gold.jsonl", "-o", "next.jsonl", "--config", "sample.toml"],
        ["next.jsonl"],
    ),
    Job(
        "train",
        ["train", "train.toml", "-o", "run", "--device", "cpu"],
        ["run"],
        ("train_log.jsonl", "README.md", "state.pt"),
    ),
    Job(
        "cross-validate",
        ["cross-validate", "train.toml", "-o", "folds", "--device", "cpu"],
        ["folds"],
        ("train_log.jsonl", "README.md", "state.pt"),
    ),
    Job(
        "export",
        ["export", "published", "-o", "artifact", "--no-verify", "--overwrite"],
        ["artifact"],
    ),
)


def prepare(folder: Path) -> None:
    """Write the inputs of all jobs."""
    _write_lines(folder / "traces.jsonl", [*_traces(18), {"question": "broken"}])
    _write_lines(folder / "already.jsonl", _scored(_traces(6)))
    _write_parquet(folder / "traces.parquet", list(_traces(18)))
    _write_lines(folder / "gold.jsonl", map(gold_row, range(12)))
    _write_lines(folder / "solutions.jsonl", map(solutions_row, range(4)))
    for name, text in (("train", _TRAIN), ("sample", _SAMPLE), ("label", _LABEL)):
        (folder / f"{name}.toml").write_text(text, encoding="utf-8")
    (folder / "published").mkdir()
    save_published_prm(folder / "published", "qwen2")
    from rfprm_export.artifact_writer import export_artifact

    export_artifact(folder / "published", folder / "artifact", verify=False)


def prepare_base(folder: Path) -> None:
    """Write the base model of the jobs that train and sample."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = LlamaConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        vocab_size=tokenizer.get_vocab_size(),
        max_position_embeddings=1024,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    tokenizer.save(str(folder / "base" / "tokenizer.json"))


def fresh(prepared: Path, folder: Path) -> Path:
    """A copy of the inputs in the new ``folder``."""
    shutil.copytree(prepared, folder)
    return folder


def _traces(count: int) -> Iterable[dict[str, Any]]:
    for i in range(count):
        yield {
            "question": f"What is {i} and {i} and two, all in all and together?",
            "steps": [f"We begin with {i}.", f"{i} + 2 = {i + 2}", f"{i + 2} + {i} = {2 * i + 2}"],
            "response": [f"The answer is {2 * i + 2}."],
            "answer": str(2 * i + 2),
        }


def _scored(rows: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    for row in rows:
        scores = [0.5] * len(row["steps"])
        yield {**row, "step_scores": scores, "trajectory_score": 0.5, "reward": 1.0}


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    import pyarrow
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
