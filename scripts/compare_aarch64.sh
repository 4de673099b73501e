#!/usr/bin/env bash
# Checks that the generic kernels of the aarch64 wheel, run under qemu, give the same bits as those of
# the x86-64 wheel, run here:   scripts/compare_aarch64.sh dist
# Needs Python with ziglang, qemu-aarch64 and an aarch64 libc (Debian: qemu-user, libc6-arm64-cross).
set -euo pipefail
dist=$(realpath "$1")
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

for machine in x86_64 aarch64; do
  "$python" -m zipfile -e "$dist"/*-manylinux_2_17_$machine.whl "$work/$machine"
  "$python" -m ziglang cc -target $machine-linux-gnu.2.17 -O1 -ffp-contract=off \
    -I rfprm_runtime/backends/native scripts/kernels_check.c -o "$work/check-$machine" -ldl -lm
done
library=rfprm_runtime/backends/native/kernels-generic.so
"$work/check-x86_64" "$work/x86_64/$library" > "$work/x86_64.txt"
qemu-aarch64 -L "${AARCH64_ROOT:-/usr/aarch64-linux-gnu}" \
  "$work/check-aarch64" "$work/aarch64/$library" > "$work/aarch64.txt"
cmp "$work/x86_64.txt" "$work/aarch64.txt"
echo "the same bits: $(grep -ow '[0-9a-f]\{8\}' "$work/x86_64.txt" | wc -l) logits"
