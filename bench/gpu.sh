#!/usr/bin/env bash
# On a machine with a GPU and no package registry: build, the CUDA tests, and compute-sanitizer on a small case.
# Needs torch (CUDA build), nvcc, cmake >= 3.28, ninja, pybind11, scikit-build-core and pytest. Every part runs even if
# another fails; the exit status tells whether any did. $OUT: where the logs go (default: a new folder in /tmp).
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-$(mktemp -d)}
failed=()

part() {
  local name=$1
  shift
  printf '\n== %s\n' "$name"
  "$@" 2>&1 | tee "$OUT/${name// /_}.log" || failed+=("$name")
}

sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    echo "skipped: no compute-sanitizer on PATH"
    return 0
  fi
  local tool status=0
  for tool in memcheck racecheck synccheck initcheck; do
    compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=irecgan python -c "
import torch
from irecgan_ext import ops
for dtype in (torch.float32, torch.float64):
    for items, k in ((1, 1), (65, 10), (4099, 64)):
        logits = torch.randn(3, items, dtype=dtype).cuda()
        print(ops.gumbel_topk(logits, k, seed=1)[1].sum().item())
" || status=1
  done
  return $status
}

part device nvidia-smi
part build pip install --no-build-isolation --no-deps .
part "build info" python -c 'from irecgan_ext import ops; print(ops.build_info())'
part registers python .ci/ptxas.py
part "cuda tests" python -m pytest -m cuda python_tests/test_*_cuda.py
part sanitizer sanitize

printf '\nlogs in %s; failed: %s\n' "$OUT" "${failed[*]:-none}"
[[ ${#failed[@]} -eq 0 ]]
