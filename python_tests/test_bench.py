"""The benchmarks run from a checkout; their figures are not looked at."""

import importlib
import json
import os
import subprocess
import sys
import time
from functools import partial

import pytest
from checkout import ROOT, needs_checkout

pytestmark = needs_checkout


def bench(*args: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "bench", *args]
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def quick_run(tmp_path_factory):
    """Every question once: standard output, the JSON and where the plot is."""
    folder = tmp_path_factory.mktemp("bench")
    kept, drawn = folder / "result.json", folder / "scaling.png"
    result = bench("all", "--quick", "--threads", "1", "--json", str(kept), "--plot", str(drawn))
    assert result.returncode == 0, result.stderr
    return result.stdout, json.loads(kept.read_text()), drawn


def test_a_quick_run_checks_measures_and_writes(quick_run):
    output, content, _ = quick_run
    rows = content["results"]["gumbel_topk"]
    names = {"native", "logits + Gumbel, topk", "softmax, multinomial"}
    assert {row["what"] for row in rows} == names | {f"{name}, one call in turn" for name in names}
    for row in rows:
        ms = row["ms (quartiles)"]
        assert 0 < ms["low"] <= ms["median"] <= ms["high"]
        assert row["R x C"] in output
    assert {"machine", "versions", "commit", "command"} <= set(content)


@pytest.mark.parametrize(("fill", "least", "most"), [(0.0, 1, 1), (0.02, 3, 20)])
def test_short_calls_are_repeated_within_a_timing(monkeypatch, fill, least, most):
    monkeypatch.syspath_prepend(ROOT)
    harness = importlib.import_module("bench.harness")
    calls = {"long": 0, "short": 0}

    def work(name: str, seconds: float) -> None:
        calls[name] += 1
        time.sleep(seconds)

    candidates = {"long": partial(work, "long", 0.03), "short": partial(work, "short", 0.001)}
    before = harness.compare(candidates, seconds=0, rounds=1, fill=fill), dict(calls)
    after = harness.compare(candidates, seconds=0, rounds=3, fill=fill), dict(calls)
    timed = {name: (after[1][name] - 2 * before[1][name]) / 2 for name in calls}  # two more rounds, the same warm-up
    assert timed["long"] == 1
    assert least <= timed["short"] <= most
    assert after[0]["short"].rounds == 3
    assert 1 <= after[0]["short"].ms.median < 10  # of one call


def test_every_question_has_rows_of_one_shape_and_is_printed(quick_run):
    output, content, _ = quick_run
    for name, rows in content["results"].items():
        assert rows and f"\n{name}\n" in output
        assert all(row.keys() == rows[0].keys() for row in rows)


def test_rollout_peers_are_measured_or_said_to_be_left_out(quick_run):
    output, content, _ = quick_run
    measured = {row["what"] for row in content["results"]["rollout"]}
    assert measured >= {"native", "native, states not shared", "eager PyTorch", "straightforward PyTorch"}
    for optional in ("torch.compile", "JAX"):
        assert any(name.startswith(optional) for name in measured) != (f"peer {optional}" in output)


def test_parts_of_an_epoch_add_up(quick_run):
    _, content, _ = quick_run
    for rollout in ("native", "eager PyTorch"):
        rows = [row for row in content["results"]["train_epoch"] if row["rollout"] == rollout]
        ms = {row["part"]: row["ms (quartiles)"]["median"] for row in rows}
        whole = ms.pop("whole epoch")
        assert len(ms) == 5 and min(ms.values()) > 0
        assert sum(ms.values()) == pytest.approx(whole)  # one round: no medians of several
    training = {
        row["part"]: row["ms (quartiles)"]["median"]
        for row in content["results"]["train_epoch"]
        if row["rollout"] == "native, all of training"
    }
    whole = training.pop("whole training")
    assert len(training) == 2 and min(training.values()) > 0 and sum(training.values()) < whole


def test_scaling_is_drawn(quick_run):
    _, content, drawn = quick_run
    rows = content["results"]["scaling"]
    assert {(row["op"], row["varied"]) for row in rows} == {
        *(("sampler", size) for size in "CRk"),
        *(("rollout", size) for size in "NTH"),
    }
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_a_prepared_catalogue_is_measured_beside_its_peers(quick_run):
    _, content, _ = quick_run
    rows = content["results"]["catalogue_sample"]
    assert {row["weights"] for row in rows} == {"tree of categories", "random"}
    assert len({row["what"] for row in rows}) == 4
    assert all(row["blocks opened"].endswith("%") for row in rows if row["what"] == "prepared catalogue")


def test_wrong_arguments_are_named():
    result = bench("nothing")
    assert result.returncode == 2
    assert "nothing" in result.stderr and "gumbel_topk" in result.stderr
