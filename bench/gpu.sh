#!/usr/bin/env bash
# Everything that waits for a GPU, in one command of less than nine minutes: build, tests on the device, compute-sanitizer,
# a training run, the benchmarks, and a record of what was verified.
#
# Needs torch (CUDA build), nvcc, cmake >= 3.28, ninja, pybind11, scikit-build-core and pytest; no package registry. Every
# part runs even if another fails, within a time limit; the exit status tells whether any did.
#
#   OUT       where logs and results go (default: a new folder in /tmp). Afterwards: cp $OUT/results/* bench/results/
#   DEVICE    cuda; cpu runs the same parts without a GPU, to try this script
#   FLAGS     for the benchmarks, such as --quick; TRAIN_FLAGS for the training run
#   BUDGET    seconds for all of it (default 520)
set -uo pipefail
cd "$(dirname "$0")/.." || exit
OUT=${OUT:-$(mktemp -d)}
DEVICE=${DEVICE:-cuda}
BUDGET=${BUDGET:-520}
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

# Every kernel's small cases under one of compute-sanitizer's tools. Only what it finds keeps a record from being made:
# where it cannot run, the record says so.
sanitizer_errors=0
sanitized=()
sanitize() {
  if ! command -v compute-sanitizer >/dev/null; then
    printf '\n== %s\nskipped: no compute-sanitizer on PATH\n' "$1"
    return
  fi
  part "$1" 60 compute-sanitizer --tool "$1" --error-exitcode 9 --kernel-regex kns=irecgan \
    python -m bench.small_cases --device "$DEVICE"
  case $? in
    0) sanitized+=("$1") ;;
    9) sanitizer_errors=1 ;;
  esac
}

if [[ $DEVICE == cuda ]]; then
  part device 10 nvidia-smi
fi
part build 150 pip install --quiet --no-build-isolation --no-deps .
part "build info" 30 python -c 'from irecgan_ext import ops; print(ops.build_info())'
part "small cases" 60 python -m bench.small_cases --device "$DEVICE"
passed=()
for op in "${OPS[@]}"; do
  # On the CPU the tests are collected and skip.
  part "tests $op" 60 python -m pytest -q -m cuda -p no:cacheprovider --junit-xml "$OUT/logs/$op.xml" \
    "python_tests/test_${op}_cuda.py" && passed+=("$op")
done
part "training tests" 60 python -m pytest -q -m cuda -p no:cacheprovider python_tests/test_train_cuda.py
sanitize memcheck
sanitize racecheck
if [[ $DEVICE == cuda ]] && ((sanitizer_errors == 0)); then
  for op in "${passed[@]}"; do
    part "record $op" 20 python -m bench.status --verify "$op" --tests "$OUT/logs/$op.xml" \
      --sanitizer "${sanitized[*]:-not run}" --record "$OUT/results/verified.json"
  done
fi
part "train quick" 90 python -m irecgan_ext.train --preset quick --device "$DEVICE" --quiet --out "$OUT/run" \
  "${train_flags[@]}"
for question in rollout gumbel_topk linear_gumbel_topk linear_log_prob train_epoch scaling; do
  part "bench $question" 120 python -m bench "$question" --device "$DEVICE" "${bench_flags[@]}" \
    --json "$OUT/results/${DEVICE}_$question.json"
done
part registers 60 python .ci/ptxas.py

printf '\n== status\n'
python -m bench.status --record "$OUT/results/verified.json"
printf '\nlogs and results in %s, %s s; failed: %s\n' "$OUT" "$SECONDS" "$(IFS=,; echo "${failed[*]:-none}")"
((${#failed[@]} == 0))
