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

# part NAME SECONDS COMMAND...: false if it fails, is cut short, or there is no time left for it.
part() {
  local name=$1 limit=$2 left=$((BUDGET - SECONDS)) begin=$SECONDS status
  shift 2
  limit=$((limit < left ? limit : left))
  printf '\n== %s (at %s s, up to %s s)\n' "$name" "$SECONDS" "$limit"
  if ((limit < 5)); then
    echo "left out: no time left"
    failed+=("$name (left out)")
    return 1
  fi
  timeout --kill-after=5 "$limit" "$@" 2>&1 | tee "$OUT/logs/${name//[^a-z0-9_]/_}.log"
  status=${PIPESTATUS[0]}
  printf -- '-- %s: exit status %s after %s s\n' "$name" "$status" "$((SECONDS - begin))"
  if ((status != 0)); then
    failed+=("$name")
    return 1
  fi
}

# The tests of one op on the device; on the CPU they are collected and skip.
tests() {
  local files=("python_tests/test_$1_cuda.py")
  [[ -f ${files[0]} ]] || files=(python_tests/test_linear_*cuda.py)
  part "tests $1" 90 python -m pytest -q -m cuda -p no:cacheprovider --junit-xml "$OUT/logs/$1.xml" "${files[@]}"
}

# memcheck and racecheck of one op's small cases, where there is a compute-sanitizer.
sanitize() {
  local tool
  [[ $sanitizer == "not run" ]] && return 0
  for tool in memcheck racecheck; do
    part "$tool $1" 45 compute-sanitizer --tool "$tool" --error-exitcode 9 --kernel-regex kns=irecgan \
      python -m bench.small_cases --device "$DEVICE" "$1" || return 1
  done
}

sanitizer="memcheck, racecheck"
if ! command -v compute-sanitizer >/dev/null; then
  sanitizer="not run"
  echo "sanitizer skipped: no compute-sanitizer on PATH"
fi
if [[ $DEVICE == cuda ]]; then
  part device 10 nvidia-smi
fi
part build 150 pip install --quiet --no-build-isolation --no-deps .
part "build info" 30 python -c 'from irecgan_ext import ops; print(ops.build_info())'
part "small cases" 60 python -m bench.small_cases --device "$DEVICE"
for op in "${OPS[@]}"; do
  if tests "$op" && sanitize "$op" && [[ $DEVICE == cuda ]]; then
    part "record $op" 30 python -m bench.status --verify "$op" --tests "$OUT/logs/$op.xml" --sanitizer "$sanitizer" \
      --record "$OUT/results/verified.json"
  fi
done
part "training tests" 60 python -m pytest -q -m cuda -p no:cacheprovider python_tests/test_train_cuda.py
part "train quick" 90 python -m irecgan_ext.train --preset quick --device "$DEVICE" --quiet --out "$OUT/run" \
  "${train_flags[@]}"
part "bench rollout" 180 python -m bench rollout --device "$DEVICE" "${bench_flags[@]}" \
  --json "$OUT/results/${DEVICE}_rollout.json"
for question in gumbel_topk linear_gumbel_topk linear_log_prob train_epoch scaling; do
  part "bench $question" 90 python -m bench "$question" --device "$DEVICE" "${bench_flags[@]}" \
    --json "$OUT/results/${DEVICE}_$question.json"
done
part registers 60 python .ci/ptxas.py
part status 20 python -m bench.status --record "$OUT/results/verified.json"

printf '\nlogs and results in %s, %s s; failed: %s\n' "$OUT" "$SECONDS" "$(IFS=,; echo "${failed[*]:-none}")"
((${#failed[@]} == 0))
