#!/usr/bin/env bash
# Everything that waits for a GPU, in one command of less than nine minutes: build, tests on the device, compute-sanitizer,
# a training run, the benchmarks, and a record of what was verified.
#
# Needs torch (CUDA build), nvcc, cmake >= 3.28, ninja, pybind11, scikit-build-core, pytest and, for the training run, the
# package's own dependencies but tyro and gymnasium; no package registry. Every part runs even if another fails, within a
# time limit; the exit status tells whether any did.
#
#   PYTHON    the Python that has them (default python3)
#   OUT       where logs and results go (default: a new folder in /tmp). Afterwards: cp $OUT/results/* bench/results/
#   DEVICE    cuda; cpu runs the same parts without a GPU, to try this script
#   FLAGS     for the benchmarks, such as --quick; TRAIN_FLAGS for the training run
#   BUDGET    seconds for all of it (default 520)
set -uo pipefail
cd "$(dirname "$0")/.." || exit
OUT=${OUT:-$(mktemp -d)}
DEVICE=${DEVICE:-cuda}
BUDGET=${BUDGET:-520}
PYTHON=${PYTHON:-python3}
# A warning of a pytest plugin that happens to be installed would fail every test.
export PYTEST_DISABLE_PLUGIN_AUTOLOAD=1
read -r -a bench_flags <<<"${FLAGS:-}"
read -r -a train_flags <<<"${TRAIN_FLAGS:-}"
OPS=(gumbel_topk linear_gumbel_topk linear_log_prob rollout)
failed=()
mkdir -p "$OUT/results" "$OUT/logs"
cp bench/results/verified.json "$OUT/results/" 2>/dev/null

# part NAME SECONDS COMMAND...: returns the command's exit status, 124 if it was cut short or there was no time for it.
part() {
  local name=$1 limit=$2 left=$((BUDGET - SECONDS)) begin=$SECONDS status
  shift 2
  limit=$((limit < left ? limit : left))
  printf '\n== %s (at %s s, up to %s s)\n' "$name" "$SECONDS" "$limit"
  if ((limit < 5)); then
    echo "left out: no time left"
    failed+=("$name (left out)")
    return 124
  fi
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$OUT/logs/${name//[^a-z0-9_]/_}.log"
  status=${PIPESTATUS[0]}
  printf -- '-- %s: exit status %s after %s s\n' "$name" "$status" "$((SECONDS - begin))"
  ((status == 0)) || failed+=("$name")
  return "$status"
}

# Every kernel's small cases under one of compute-sanitizer's tools, each tensor in an allocation of its own: torch's cache
# would hide reads beyond its end. Only what it finds keeps a record from being made: where it cannot run, the record says so.
sanitizer_errors=0
sanitized=()
sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    printf '\n== %s\nskipped: no compute-sanitizer on PATH\n' "$1"
    return
  fi
  part "$1" 60 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$1" --error-exitcode 9 \
    --kernel-regex kns=irecgan "$PYTHON" -m bench.small_cases --device "$DEVICE"
  case $? in
    0) sanitized+=("$1") ;;
    9) sanitizer_errors=1 ;;
  esac
}

if [[ $DEVICE == cuda ]]; then
  part device 10 nvidia-smi
fi
part build 150 "$PYTHON" -m pip install --quiet --no-build-isolation --no-deps .
part "build info" 30 "$PYTHON" -c 'from irecgan_ext import ops; print(ops.build_info())'
part "small cases" 60 "$PYTHON" -m bench.small_cases --device "$DEVICE"
passed=()
for op in "${OPS[@]}"; do
  # On the CPU the tests are collected and skip.
  part "tests $op" 60 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider --junit-xml "$OUT/logs/$op.xml" \
    "python_tests/test_${op}_cuda.py" && passed+=("$op")
done
part "training tests" 60 "$PYTHON" -m pytest -q -m cuda -p no:cacheprovider python_tests/test_train_cuda.py
sanitize memcheck
sanitize racecheck
if [[ $DEVICE == cuda ]] && ((sanitizer_errors == 0)); then
  for op in "${passed[@]}"; do
    part "record $op" 20 "$PYTHON" -m bench.status --verify "$op" --tests "$OUT/logs/$op.xml" \
      --sanitizer "${sanitized[*]:-not run}" --record "$OUT/results/verified.json"
  done
fi
if "$PYTHON" -c 'import tyro' 2>/dev/null; then
  train=(-m irecgan_ext.train --preset quick --device "$DEVICE" --quiet --out "$OUT/run" "${train_flags[@]}")
else  # the same run without its command line; TRAIN_FLAGS is not used
  train=(-c '
import sys
from dataclasses import replace
from pathlib import Path
from irecgan_ext.train import main
from irecgan_ext.training.config import preset
main(replace(preset("quick"), device=sys.argv[1], quiet=True, out=Path(sys.argv[2])))' "$DEVICE" "$OUT/run")
fi
part "train quick" 90 "$PYTHON" "${train[@]}"
for question in rollout rollout_catalogue gumbel_topk linear_gumbel_topk linear_log_prob train_epoch scaling; do
  part "bench $question" 180 "$PYTHON" -m bench "$question" --device "$DEVICE" "${bench_flags[@]}" \
    --json "$OUT/results/${DEVICE}_$question.json"
done
part registers 60 "$PYTHON" .ci/ptxas.py

printf '\n== status\n'
"$PYTHON" -m bench.status --record "$OUT/results/verified.json"
printf '\nlogs and results in %s, %s s; failed: %s\n' "$OUT" "$SECONDS" "$(IFS=,; echo "${failed[*]:-none}")"
((${#failed[@]} == 0))
