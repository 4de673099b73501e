"""python tests/golden/regenerate.py: write the golden prompts again, after a wanted change.

Each file holds, for one family, the rendered segments, the token ids and the marker positions of
one trajectory under the tests' byte-level tokenizer. Read the difference before committing it.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from rfprm_runtime.artifact.families import FAMILIES  # noqa: E402
from rfprm_runtime.prompt.encoding import TrajectoryEncoder  # noqa: E402
from rfprm_runtime.prompt.rendering import Segment, render  # noqa: E402
from rfprm_runtime.types import Trajectory  # noqa: E402
from tiny_models import byte_tokenizer, tiny_manifest  # noqa: E402

TRAJECTORY = Trajectory(
    question="What is 3 + 4?",
    steps=["Start at 3.\nGo on by 4.", "Spelled <extra_0><repo_name>, it marks nothing."],
    response=["3 + 4 = 7", "So 7."],
)


def golden(family: str) -> dict[str, Any]:
    tokenizer = byte_tokenizer()
    manifest = tiny_manifest(tokenizer, family=family)
    encoder = TrajectoryEncoder(tokenizer, manifest.prompt, vocab_size=manifest.backbone.vocab_size)
    row = encoder.encode(TRAJECTORY)
    return {
        "segments": [_describe(segment) for segment in render(TRAJECTORY, manifest.prompt)],
        "token_ids": row.token_ids.tolist(),
        "marker_positions": row.marker_positions.tolist(),
        "step_bounds": row.step_bounds.tolist(),
    }


def _describe(segment: Segment) -> list[Any]:
    if hasattr(segment, "model_dump"):
        return ["template", segment.text]
    fields = json.dumps(asdict(segment), default=lambda x: x.model_dump(exclude_none=True))
    return [type(segment).__name__, *json.loads(fields).values()]


def write_all() -> None:
    for family in FAMILIES:
        path = HERE / f"{family}.json"
        path.write_text(json.dumps(golden(family), indent=1, ensure_ascii=False) + "\n")
        print(path)


if __name__ == "__main__":
    write_all()
