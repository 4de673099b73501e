"""Measures seconds and peak memory from ``python -c`` to the first score, in a new process.

python -m benchmarks.cold_start [--rounds 5]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib import import_module
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.engines import ENGINES
from benchmarks.prepare import WORK, prepare
from benchmarks.report import write_json
from benchmarks.runner import environment, processor_class, say

# What a user would type: tokenise, run, read the score. All tokenise the same text.
_OURS = """
from rfprm_runtime import Scorer
scorer = Scorer.load({folder!r} + "/artifact-{precision}")
scorer.score("What is 3 + 4?", steps=["3 + 4 = 7."], response=["7"])
"""
_TEXT = "What is 3 + 4?\\n3 + 4 = 7.\\n7"
_TRANSFORMERS = """
import torch, transformers
model = transformers.AutoModelForTokenClassification.from_pretrained(
    {folder!r} + "/checkpoint", dtype=torch.float32).eval()
tokenizer = transformers.PreTrainedTokenizerFast(
    tokenizer_file={folder!r} + "/artifact-fp32/tokenizer.json")
with torch.inference_mode():
    model(input_ids=torch.tensor([tokenizer.encode("{text}")])).logits.sigmoid()
"""
_TORCH_ONNX = """
import numpy as np, onnxruntime, tokenizers
session = onnxruntime.InferenceSession({folder!r} + "/torch-onnx/model.onnx")
tokenizer = tokenizers.Tokenizer.from_file({folder!r} + "/artifact-fp32/tokenizer.json")
ids = np.array([tokenizer.encode("{text}").ids])
names = [each.name for each in session.get_inputs()]
session.run(None, dict(zip(names, (ids, np.ones_like(ids)))))
"""
_OPENVINO = """
import numpy as np, openvino, tokenizers
model = openvino.Core().compile_model({folder!r} + "/openvino/{precision}.xml", "CPU")
tokenizer = tokenizers.Tokenizer.from_file({folder!r} + "/artifact-fp32/tokenizer.json")
model([np.array([tokenizer.encode("{text}").ids])])
"""
SNIPPETS = {
    "rfprm int16": (_OURS, "int16"),
    "rfprm fp32": (_OURS, "fp32"),
    "transformers fp32": (_TRANSFORMERS, "fp32"),
    "torch.onnx export, fp32": (_TORCH_ONNX, "fp32"),
    "OpenVINO fp32": (_OPENVINO, "fp32"),
    "OpenVINO int8": (_OPENVINO, "int8"),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    prepare()
    # In its own process: what this one has used would count as the peak of its children.
    subprocess.run(
        [sys.executable, "-c", "from benchmarks.cold_start import prepare_peers; prepare_peers()"],
        check=True,
    )
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in SNIPPETS}
    errors: dict[str, str] = {}
    for turn in range(rounds + 1):  # the first one fills the page cache and does not count
        for name, (snippet, precision) in SNIPPETS.items():
            if name in errors:
                continue
            code = snippet.format(folder=str(WORK), precision=precision, text=_TEXT)
            try:
                once = run_once(code)
            except RuntimeError as error:
                errors[name] = str(error)
                continue
            if turn:
                found[name].append(once)
    measured: dict[str, Any] = {"environment": environment(), "engines": {}}
    table = Table(title="cold start", title_justify="left")
    for column in ("engine", "seconds", "times ours", "peak MiB"):
        table.add_column(column, justify="left" if column == "engine" else "right")
    ours = statistics.median(seconds for seconds, _ in found["rfprm int16"])
    for name, runs in found.items():
        if not runs:
            measured["engines"][name] = {"error": errors[name]}
            table.add_row(name, "failed", "", "")
            continue
        seconds = statistics.median(each for each, _ in runs)
        peak = max(each for _, each in runs)
        measured["engines"][name] = {
            "seconds": [round(each, 3) for each, _ in runs],
            "peak_rss_mib": round(peak),
        }
        table.add_row(name, f"{seconds:.2f}", f"{seconds / ours:.2f}×", f"{peak:.0f}")
    Console(width=100, highlight=False).print(table)
    print(f"written: {write_json(f'cold_start-{processor_class()}', measured)}")


def prepare_peers() -> None:
    """Let peers make the files that the snippets read; they do so when they are first loaded."""
    for name in SNIPPETS:
        spec = ENGINES.get(name)
        if spec is None or spec.is_ours:
            continue
        try:
            import_module(f"benchmarks.engines.{spec.module}").load(WORK, spec.option)
        except Exception as error:  # of any peer; its snippet then fails, and the table says so
            say(f"{name}: {type(error).__name__}: {error}")


def run_once(code: str) -> tuple[float, float]:
    """Seconds and peak resident MiB of a new Python process that runs ``code``."""
    # As installed packages start: from compiled modules.
    env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    begin = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    log = process.stderr.read().decode(errors="replace")
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(json.dumps(log[-500:]))
    return time.perf_counter() - begin, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
