"""Hostile completions through every adapter for RL stacks.

``python tests/attacks/completions.py`` gives 10,000 to each, in about half a minute; another
``--seed`` tries others. Every completion must get a finite reward, or be counted as one that cannot
be scored; no call may raise or hang.
"""

from __future__ import annotations

import argparse
import faulthandler
import logging
import math
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_BATCH = 50
_NUM_LONG = 5
_LONGEST_CALL = 30.0
_QUESTION = "What is 6 times 7?"


def reward_hostile(folder: Path, *, count: int, seed: int, length: int) -> dict[str, int]:
    """How many of ``count`` random and a few long completions each adapter scored.

    Raises for a call that raises, takes too long or gives anything but rewards.
    """
    from hostile_completions import completion, long_completions

    rng = random.Random(seed)
    # Prompts are as hostile, now and then.
    pairs = [
        (completion(rng) if rng.random() < 0.1 else _QUESTION, completion(rng))
        for _ in range(count)
    ]
    pairs += [(text, text) for text in rng.sample(long_completions(length), _NUM_LONG)]
    found: dict[str, int] = {}
    for name, adapter in _adapters(str(folder)).items():
        rewards: list[float | None] = []
        for start in range(0, len(pairs), _BATCH):
            prompts, completions = zip(*pairs[start : start + _BATCH], strict=True)
            began = time.process_time()
            rewards += adapter([*prompts], [*completions])
            if time.process_time() - began > _LONGEST_CALL:
                raise AssertionError(f"{name} took {time.process_time() - began:.0f} s")
        if len(rewards) != len(pairs):
            raise AssertionError(f"{name} gave {len(rewards)} rewards for {len(pairs)}")
        known = [reward for reward in rewards if reward is not None]
        if not all(map(math.isfinite, known)):
            raise AssertionError(f"{name} gave a reward that is not finite")
        found[name] = len(known)
    return found


def _adapters(artifact: str) -> dict[str, Any]:
    """Functions from prompts and completions to rewards, None where there is none."""
    from rfprm_runtime.integrations import openrlhf, trl, verl

    settings: dict[str, Any] = {"backend": "fake", "overflow": "window"}
    alone = trl.process_reward(artifact, **settings)
    judged = trl.process_reward(artifact, outcome="answer", **settings)
    openrlhf_reward = openrlhf.process_reward(artifact, outcome=False, **settings)

    def by_verl(prompts: list[Any], completions: list[Any]) -> list[float | None]:
        rows = verl.compute_score_batch(
            ["hostile"] * len(completions),
            completions,
            ["42"] * len(completions),
            [{"question": prompt} for prompt in prompts],
            artifact=artifact,
            outcome=False,
            max_wait_ms=0.0,
            **settings,
        )
        return [row["score"] if row["scored"] else None for row in rows]

    def by_openrlhf(prompts: list[Any], completions: list[Any]) -> list[float | None]:
        queries = [
            prompt + text if isinstance(prompt, str) and isinstance(text, str) else text
            for prompt, text in zip(prompts, completions, strict=True)
        ]
        found = openrlhf_reward(queries, prompts, ["42"] * len(queries))
        scored = found["extra_logs"]["scored"].tolist()
        rewards = found["rewards"].tolist()
        return [r if is_scored else None for r, is_scored in zip(rewards, scored, strict=True)]

    return {
        "trl": lambda prompts, completions: alone(prompts=prompts, completions=completions),
        "trl with answers": lambda prompts, completions: judged(
            prompts=prompts, completions=completions, answer=["42"] * len(completions)
        ),
        "verl": by_verl,
        "openrlhf": by_openrlhf,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--count", type=int, default=10_000, help="random completions")
    parser.add_argument("--length", type=int, default=200_000, help="characters of the long ones")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    sys.path[:0] = [str(ROOT / part) for part in ("", "tests", "training", "export")]
    faulthandler.dump_traceback_later(600, exit=True)
    logging.disable(logging.WARNING)
    from rfprm_export.artifact_writer import export_artifact
    from tiny_models import save_published_prm

    with tempfile.TemporaryDirectory() as folder:
        published, artifact = Path(folder, "published"), Path(folder, "tiny")
        published.mkdir()
        save_published_prm(published, "qwen2")
        traces = Path(folder, "traces.jsonl")
        traces.write_text('{"question": "2+2?", "steps": ["4"]}\n', encoding="utf-8")
        export_artifact(published, artifact, verify_traces=traces)
        began = time.perf_counter()
        found = reward_hostile(
            artifact, count=options.count, seed=options.seed, length=options.length
        )
        seconds = time.perf_counter() - began
    count = f"{options.count} random completions and {_NUM_LONG} long ones"
    print(f"{count}, {seconds:.0f} s; scored: {found}")


if __name__ == "__main__":
    main()
