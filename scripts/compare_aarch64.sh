#!/usr/bin/env bash
# Runs the kernels of the aarch64 wheel under qemu and compares the bits of their logits:
#   scripts/compare_aarch64.sh dist
# The generic ones with those of the x86-64 wheel, run here; the NEON ones with the same arithmetic
# in plain C (scripts/isa_plain.h), each on a processor that has no more than they need.
# Needs Python with ziglang, qemu-aarch64 and an aarch64 libc (Debian: qemu-user, libc6-arm64-cross).
set -euo pipefail
dist=$(realpath "$1")
python=${PYTHON:-python3}
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
native=rfprm_runtime/backends/native

zig() { # MACHINE ARGUMENT...
  "$python" -m ziglang cc -target "$1-linux-gnu.2.17" -ffp-contract=off -I $native "${@:2}" -lm
}
run() { # PROCESSOR LIBRARY
  qemu-aarch64 -cpu "$1" -L "${AARCH64_ROOT:-/usr/aarch64-linux-gnu}" "$work/check-aarch64" "$2"
}
same_bits() { # NAME FILE OTHER_FILE
  cmp "$2" "$3"
  echo "$1: the same bits, $(grep -ow '[0-9a-f]\{8\}' "$3" | wc -l) logits"
}

for machine in x86_64 aarch64; do
  "$python" -m zipfile -e "$dist"/*-manylinux_2_17_$machine.whl "$work/$machine"
  zig $machine -O1 scripts/kernels_check.c -o "$work/check-$machine" -ldl
done
"$work/check-x86_64" "$work/x86_64/$native/kernels-generic.so" > "$work/x86_64.txt"
run cortex-a57 "$work/aarch64/$native/kernels-generic.so" > "$work/generic.txt"
same_bits generic "$work/x86_64.txt" "$work/generic.txt"

zig aarch64 -O1 -std=gnu11 -fPIC -shared -Wno-psabi -I scripts '-DISA="isa_plain.h"' \
  $native/kernels.c -o "$work/plain.so"
run cortex-a57 "$work/plain.so" > "$work/plain.txt"
while read -r name processor; do
  run "$processor" "$work/aarch64/$native/kernels-$name.so" > "$work/$name.txt"
  same_bits "$name" "$work/plain.txt" "$work/$name.txt"
done <<'END'
neon cortex-a57
neondot neoverse-n1
neoni8mm max
END
