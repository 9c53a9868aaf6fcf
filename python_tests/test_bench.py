"""The benchmarks run from a checkout; their figures are not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(
    not (ROOT / "bench" / "__main__.py").exists(), reason="no bench folder next to the tests: not a checkout"
)


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *args]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)


def test_a_quick_run_checks_measures_and_writes(tmp_path):
    kept = tmp_path / "result.json"
    result = bench("gumbel_topk", "--quick", "--threads", "1", "--json", str(kept))
    assert result.returncode == 0, result.stderr
    content = json.loads(kept.read_text())
    rows = content["results"]["gumbel_topk"]
    assert {row["what"] for row in rows} == {"native", "logits + Gumbel, topk", "softmax, multinomial"}
    for row in rows:
        ms = row["ms (quartiles)"]
        assert 0 < ms["low"] <= ms["median"] <= ms["high"]
        assert row["R x C"] in result.stdout
    assert {"machine", "versions", "commit", "command"} <= set(content)


def test_linear_log_prob_is_measured():
    result = bench("linear_log_prob", "--quick", "--threads", "1")
    assert result.returncode == 0, result.stderr
    assert "native" in result.stdout and "F.linear, cross_entropy" in result.stdout


def test_wrong_arguments_are_named():
    result = bench("nothing")
    assert result.returncode == 2
    assert "nothing" in result.stderr and "gumbel_topk" in result.stderr
