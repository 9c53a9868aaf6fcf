"""Exported programs: equal to the model without this package, checked before they are written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import FLAGS
from torch._inductor.cpp_builder import get_cpp_compiler

from irecgan_ext import cli, export, train
from irecgan_ext.models import Agent
from irecgan_ext.serving import Recommender
from irecgan_ext.serving.programs import export_programs
from irecgan_ext.serving.verify import Unequal, verify
from irecgan_ext.training.config import TrainConfig
from irecgan_ext.training.trained import load_trained
from irecgan_ext.types import BOS, END, PAD

ITEMS, K = 14, 5


def agent_of(cell: str, layers: int = 1) -> Agent:
    torch.manual_seed(0)
    agent = Agent(ITEMS, 5, 6, layers, cell)  # type: ignore[arg-type]
    torch.nn.init.normal_(agent.encoder.embedding.weight, std=2.0)
    return agent


@pytest.mark.parametrize(("cell", "layers", "start"), [("gru", 1, True), ("lstm", 2, False)])
def test_programs_equal_the_model(cell: str, layers: int, start: bool) -> None:
    agent = agent_of(cell, layers)
    programs = {name: p.module() for name, p in export_programs(agent, K, starts_from_item=start).items()}
    difference = verify(Recommender(agent), programs["history"], programs["step"], K, starts_from_item=start)
    assert difference < 1e-5
    targets = {str(node.target) for p in programs.values() for node in p.graph.nodes if node.op == "call_function"}
    assert not any("irecgan" in target for target in targets)


@pytest.fixture(scope="module")
def programs() -> dict[str, torch.nn.Module]:
    return {name: program.module() for name, program in export_programs(agent_of("gru"), K).items()}


def test_what_differs_is_not_written(programs: dict[str, torch.nn.Module]) -> None:
    recommender, history, step = Recommender(agent_of("gru")), programs["history"], programs["step"]
    assert verify(recommender, history, step, K, starts_from_item=False) < 1e-5
    with pytest.raises(Unequal):
        verify(recommender, history, step, K, starts_from_item=True)
    for program in (history, step):
        for name, place, what in (("head.bias", (3,), "log_probs"), ("rnn.weight_hh_l0", (0, 0), "state")):
            weights = program.state_dict()[name]
            weights[place] += 0.05
            with pytest.raises(Unequal, match=f"^{what} of the exported program differ"):
                verify(recommender, history, step, K, starts_from_item=False)
            weights[place] -= 0.05
    assert verify(recommender, history, step, K, starts_from_item=False) < 1e-5


def test_lists_end_where_the_items_do(programs: dict[str, torch.nn.Module]) -> None:
    program = programs["history"]
    exclude = torch.stack([torch.arange(ITEMS), torch.where(torch.arange(ITEMS) < ITEMS - 2, torch.arange(ITEMS), PAD)])
    items, log_probs, _ = program(torch.full((2, 1), PAD), exclude)
    assert items[0].tolist() == [PAD] * K
    assert sorted(items[1].tolist()) == [PAD] * (K - 2) + [ITEMS - 2, ITEMS - 1]
    assert torch.equal(items == PAD, log_probs == -torch.inf)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("export") / "run"
    assert cli.run_command(train.main, TrainConfig, prog="train", args=[*FLAGS, "--out", str(directory)]) == 0
    return directory


def export_here(*args: str | int | Path) -> int:
    return cli.run_command(export.main, export.ExportOptions, prog="export", args=[str(arg) for arg in args])


WITHOUT_THE_PACKAGE = """
import json, sys
class Blocked:
    def find_spec(self, name, *_):
        if name.split(".")[0] == "irecgan_ext":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
import torch
notes = {"irecgan_ext.json": ""}
history = torch.export.load(sys.argv[1], extra_files=notes).module()
step = torch.export.load(sys.argv[2]).module()
histories = torch.tensor([[3, -2, 7, 1], [5, -1, -1, -1], [-1, -1, -1, -1]])
items, log_probs, state = history(histories, torch.cat([histories, torch.tensor([[8], [-1], [-1]])], 1).clamp(min=-1))
later = step(state, torch.tensor([4, 4, -2]), torch.full((3, 1), -1))
try:
    import irecgan_ext
except ImportError:
    torch.save([items, log_probs, *later], sys.argv[3])
    print(notes["irecgan_ext.json"])
"""


def test_a_process_without_the_package_gets_the_models_answers(run: Path, tmp_path: Path) -> None:
    assert export_here(run, "--out", tmp_path / "agent.pt2", "--k", 4) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.pt2", "agent.step.pt2"]
    files = [str(tmp_path / name) for name in ("agent.pt2", "agent.step.pt2", "answers")]
    command = [sys.executable, "-W", "error", "-c", WITHOUT_THE_PACKAGE, *files]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"k": 4, "items": 50, "starts_from_item": false, "pad": -1, "unknown": -2, "ids": null' in done.stdout
    answers = torch.load(tmp_path / "answers")
    recommender = Recommender(load_trained(run).agent)
    state = recommender.replay([torch.tensor(row) for row in ([BOS, 3, END, 7, 1], [BOS, 5], [BOS])])
    exclude = torch.tensor([[3, 7, 1, 8], [5, PAD, PAD, PAD], [PAD] * 4])
    after = recommender.step(state, torch.tensor([4, 4, END]))
    expected = [*recommender.recommend(state, 4, exclude=exclude), *recommender.recommend(after, 4), after]
    for got, want in zip(answers, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--k", 0), "--k must be in 1..C (C = 50), got 0"),
        (("--k", 51), "--k must be in 1..C (C = 50), got 51"),
        (("--out", "agent.pt"), "--out must have the suffix .pt2, got agent.pt"),
        (("--out", "absent/agent.pt2"), "--out: absent is not a directory"),
        (("--agent", "none"), "--agent must be an agent of the run in"),
    ],
)
def test_bad_options_end_in_one_line(
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    args: Any,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    out = () if "--out" in args else ("--out", "agent.pt2")
    assert export_here(run, *out, *args) == 2
    shown = capsys.readouterr()
    assert message in shown.err
    assert shown.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_machine_that_cannot_compile(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*args: Any, **options: Any) -> None:
        raise RuntimeError("No working C++ compiler found\nin the path")

    monkeypatch.setattr(torch._inductor, "aoti_compile_and_package", refuse)
    assert export_here(run, "--out", tmp_path / "agent.pt2", "--k", 4, "--aot") == 2
    message = "error: --aot: AOTInductor cannot compile here (No working C++ compiler found); it needs a C++ compiler"
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_compiled_step_equals_the_model(tmp_path: Path) -> None:
    try:
        get_cpp_compiler()
    except Exception as error:
        pytest.skip(f"no C++ compiler: {error}")
    agent = agent_of("gru")
    step, content = export._compiled(export_programs(agent, K)["step"])
    recommender = Recommender(agent)
    state = recommender.replay([torch.tensor([BOS, 3, 7]), torch.tensor([BOS])])
    exclude = torch.tensor([[2, PAD, 5], [PAD, PAD, PAD]])
    got = step(state, torch.tensor([4, END]), exclude)
    after = recommender.step(state, torch.tensor([4, END]))
    for one, other in zip(got, [*recommender.recommend(after, K, exclude=exclude), after], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)
    (tmp_path / "step.pt2").write_bytes(content)
    assert torch._inductor.aoti_load_package(str(tmp_path / "step.pt2")) is not None
