"""`python -m bench status`, the record behind it, the script that makes it, and the peer that waits for a GPU."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkout import ROOT, needs_checkout

pytestmark = needs_checkout


@pytest.fixture
def status(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    from bench import status

    return status


@pytest.fixture
def tree(tmp_path):
    """A copy of the kernels' sources."""
    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    return tmp_path


def states(status, record, root):
    return {row["kernels"]: row["state"] for row in status.rows(record, root)}


def entry(status, op, root):
    return {"hash": status.source_hash(op, root), "device": "a GPU", "date": "2026-01-01", "commit": "0" * 40}


def test_every_kernel_belongs_to_an_op(status):
    named = {name for names in status.SOURCES.values() for name in names}
    assert {f"cuda/{path.name}" for path in (ROOT / "csrc" / "cuda").glob("*.cu")} <= named
    assert {f"torch/{path.name}" for path in (ROOT / "csrc" / "torch").glob("*_cuda.cpp")} <= named


def test_sources_are_a_kernel_and_what_it_includes(status):
    names = {str(path.relative_to(ROOT.resolve())) for path in status.sources("rollout")}
    assert {"csrc/cuda/rollout_small.cu", "csrc/cuda/race.h", "csrc/math/philox.h", "csrc/torch/checks.h"} <= names
    assert "csrc/cuda/gumbel_topk.cu" not in names and not any("simt" in name for name in names)


def test_verified_changed_and_unverified(status, tree):
    assert set(states(status, {}, tree).values()) == {"unverified"}
    record = {op: entry(status, op, tree) for op in ("gumbel_topk", "rollout")}
    assert states(status, record, tree) == {
        "gumbel_topk": "verified",
        "linear_gumbel_topk": "unverified",
        "linear_log_prob": "unverified",
        "rollout": "verified",
    }
    kernel = tree / "csrc" / "cuda" / "rollout_steps.cu"
    kernel.write_text(kernel.read_text() + "\n")
    assert states(status, record, tree)["rollout"] == "changed since"
    assert states(status, record, tree)["gumbel_topk"] == "verified"
    shared = tree / "csrc" / "math" / "philox.h"
    shared.write_text(shared.read_text().replace("round < 10", "round < 9"))
    assert states(status, record, tree)["gumbel_topk"] == "changed since"


def report(folder: Path, **counts: int) -> Path:
    """A report as pytest writes it, of so many tests, failures, errors and skipped tests."""
    numbers = {"errors": 0, "failures": 0, "skipped": 0, "tests": 0, **counts}
    attributes = " ".join(f'{name}="{number}"' for name, number in numbers.items())
    path = folder / "out.xml"
    path.write_text(f'<?xml version="1.0"?><testsuites name="pytest tests"><testsuite {attributes} /></testsuites>')
    return path


def test_only_tests_that_ran_and_passed_count(status, tmp_path):
    assert status.passed(report(tmp_path, tests=5, skipped=1)) == 4
    for counts in ({"tests": 2, "skipped": 2}, {"tests": 3, "failures": 1}, {"tests": 3, "errors": 1}, {}):
        with pytest.raises(ValueError, match="must hold passed tests and no failed one"):
            status.passed(report(tmp_path, **counts))


def test_a_record_needs_a_gpu(status, tmp_path, monkeypatch, capsys):
    xml = report(tmp_path, tests=1)
    record = tmp_path / "verified.json"
    arguments = ["--verify", "rollout", "--tests", str(xml), "--record", str(record)]
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="2"):
            status.main(arguments)
        assert "CUDA device" in capsys.readouterr().err and not record.exists()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    assert status.main(arguments) == 0
    assert status.read_record(record)["rollout"]["tests_passed"] == 1
    assert status.main(["--record", str(record)]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| rollout "))
    assert "| verified | a GPU |" in row


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_cuda_benchmarks_without_a_device():
    command = [sys.executable, "-m", "bench", "gumbel_topk", "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith("argument --device: torch finds no CUDA device; use --device cpu")


@pytest.mark.parametrize("name", ["prepare", "recommend"])
def test_questions_of_the_cpu_alone(name):
    command = [sys.executable, "-m", "bench", name, "--device", "cuda"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.splitlines()[-1].endswith(f"argument --device: {name} runs on the CPU alone; use --device cpu")


def test_the_script_for_a_gpu_parses():
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash on PATH")
    assert subprocess.run([bash, "-n", str(ROOT / "bench" / "gpu.sh")]).returncode == 0


def test_the_padded_peer_has_the_law_of_the_op(monkeypatch):
    """What is captured as a CUDA graph, run without one."""
    monkeypatch.syspath_prepend(str(ROOT))
    from bench.models import Size, make
    from bench.peers.rollout import graphed
    from bench.rollout import check_same, play_native

    models = make(Size("gru", 8, 16, 1, items=20), "random", 4, quick=True)
    played = graphed.padded(*models, sessions=200, slate_size=10, max_steps=6, completions=2)
    check_same("padded", play_native(models, 400, seed=1, cap=6, n=2), played, 20)
