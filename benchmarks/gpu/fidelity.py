"""The scores of an artifact on a GPU beside those of float32 on a CPU, on the gate's 256 traces.

python -m benchmarks.gpu.fidelity artifacts/torch [--checkpoint models/smollm2-135m-gsm8k]

The artifact comes from ``rfprm export CHECKPOINT -o artifacts/torch --format torch``; its
checkpoint holds what the reference network said. Writes benchmarks/results/gpu_fidelity.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import write_json
from rfprm_export.reference import recorded_reference
from rfprm_export.verify import measure_parity
from rfprm_runtime import Scorer


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--checkpoint", type=Path, default=Path("models/smollm2-135m-gsm8k"))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16", "float32"])
    parser.add_argument("--no-integrity", action="store_true", help="the artifact was cut down")
    parser.add_argument("--name", default="gpu_fidelity", help="of the file in benchmarks/results")
    options = parser.parse_args()
    reference = recorded_reference(options.checkpoint)
    on_gpu = options.device.startswith("cuda")
    measured: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else options.device,
        "dtypes": {},
    }
    for dtype in options.dtypes:
        with Scorer.load(
            options.artifact,
            backend="torch",
            device=options.device,
            dtype=dtype,
            packed=True,
            check_integrity=not options.no_integrity,
        ) as scorer:
            parity = measure_parity(scorer, reference)
        measured["dtypes"][dtype] = parity.model_dump()
        print(
            f"{dtype}: mean {parity.mean_difference:.1e}, max {parity.max_difference:.1e}, "
            f"Spearman {parity.spearman:.6f}, "
            f"same Best-of-4 pick in {parity.same_best_of_4:.1%} of {parity.num_groups} groups"
        )
    print(f"→ {write_json(options.name, measured)}")


if __name__ == "__main__":
    main()
