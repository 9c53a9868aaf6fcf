"""The experiments' command at a tiny size, and what each experiment runs."""

from __future__ import annotations

import contextlib
import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from irecgan_ext.cli import run_command
from irecgan_ext.experiments import ablation, bias, figure2, figure3, training_cell
from irecgan_ext.experiments.__main__ import main
from irecgan_ext.experiments.cells import Row
from irecgan_ext.experiments.experiments import EXPERIMENTS
from irecgan_ext.experiments.options import ExperimentName, ExperimentOptions, train_config
from irecgan_ext.experiments.report import sorted_rows
from irecgan_ext.training.config import PRESETS, preset

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = (
    "--model.embedding 4 --model.hidden 8 --user.epochs 1 --agent.epochs 1 --discriminator.pretrain-epochs 1 "
    "--adversarial.epochs 1 --adversarial.r-steps 1 --adversarial.generated 16 --adversarial.completions 2 "
    "--adversarial.max-steps 5 --online.iterations 2 --online.sessions 20 --online.evaluation-sessions 20"
)
COVERAGES = {f"coverage_{depth}" for depth in range(1, 11)}
LEARNT, MARKS = {"lstm", "pg", "lstmd", "irecgan"}, {"random", "log", "counts", "belief", "oracle"}


def command(*args: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output and standard error."""
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        status = run_command(main, ExperimentOptions, prog="experiments", args=[str(arg) for arg in args])
    return status, out.getvalue(), error.getvalue()


def options(experiment: ExperimentName, *configurations: str, seeds: int = 1, flags: str = TINY) -> ExperimentOptions:
    return ExperimentOptions(
        experiment, seeds=seeds, configurations=configurations, sessions=40, train_flags=flags, jobs=1
    )


def test_figure2_end_to_end_and_again(tmp_path: Path) -> None:
    """Two real cells in two workers; a second call repeats nothing and leaves the same files."""
    args = ("figure2", "--seeds", "2", "--jobs", "2", "--sessions", "40", "--configurations", "random(200)")
    args = (*args, "--out", str(tmp_path / "out"), f"--train-flags={TINY}")
    status, text, error = command(*args)
    assert (status, error.splitlines()[-1]) == (0, f"results in {tmp_path / 'out'}")
    with open(tmp_path / "out/results.csv", newline="") as stream:
        found = list(csv.DictReader(stream))
    by_method = {method: {row["metric"] for row in found if row["method"] == method} for method in LEARNT | MARKS}
    assert {row["method"] for row in found} == LEARNT | MARKS
    assert all(by_method[method] == {"reward", "reward_sampled", *COVERAGES} for method in LEARNT)
    assert all(by_method[method] == {"reward", *COVERAGES} for method in MARKS)
    assert {(row["configuration"], row["seed"]) for row in found} == {("random(200)", "0"), ("random(200)", "1")}
    page = (tmp_path / "out/README.md").read_text()
    assert "python -m irecgan_ext.experiments figure2 --preset quick --seeds 2 --jobs 2" in page
    assert "| **IRecGAN** |" in text
    assert "### Share of the way from random to belief" in text
    assert (tmp_path / "out/figure.png").read_bytes().startswith(b"\x89PNG")

    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*.*") if path.suffix != ".log"}
    assert command(*args, "--quiet") == (0, text, "")
    assert before == {path: path.read_bytes() for path in before}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--seeds", "0"), "--seeds must be at least 1, got 0"),
        (("--jobs", "0"), "--jobs must be at least 1, got 0"),
        (("--first-seed", "-1"), "--first-seed must be at least 0, got -1"),
        (("--sessions", "1"), "--sessions must be at least 2, got 1"),
        (("--train-flags=--seed 3",), "--train-flags must not hold --seed, which the grid decides, got '--seed 3'"),
        (("--train-flags=--seeed 3",), "error: Unrecognized options: --seeed"),
        (("--train-flags=--user.epochs 0",), "--user.epochs must be positive and finite, got 0"),
        (("--train-flags='",), '--train-flags: No closing quotation, got "\'"'),
        (("--configurations", "best(3)"), "--configurations must be among random(200), random(10000), max(10000), "),
        (("--preset", "slow"), "invalid choice"),
        (("--baselines", "best"), "invalid choice"),
    ],
)
def test_bad_flags_give_one_line(tmp_path: Path, args: tuple[str, ...], message: str) -> None:
    status, _, error = command("figure2", "--out", tmp_path / "out", *args)
    assert status == 2
    assert error.count("\n") == 1
    assert message in error
    assert not (tmp_path / "out").exists()


def test_an_unknown_experiment_gives_one_line() -> None:
    status, _, error = command("figure9")
    assert (status, error.count("\n")) == (2, 1)
    assert "figure9" in error
    assert command("bias", "--baselines", "ac") == (2, "", "error: --baselines is for figure2 only, got bias\n")


def test_figure2_runs_every_panel_once_per_seed() -> None:
    cells = EXPERIMENTS["figure2"].grid(options("figure2", seeds=5)).cells
    assert len(cells) == len({cell.name for cell in cells}) == 4 * 2 * 5
    assert [cell.seed for cell in cells[:8]] == [0] * 8  # seed by seed: what an interrupted grid has is balanced
    config = train_config("quick", cells[7].task["flags"])
    assert (config.log_policy, config.log_sessions, config.transition_temperature) == ("mix", 10_000, 0.05)
    assert (config.evaluation.sessions, config.model.hidden) == (40, 8)


def test_further_baselines_have_runs_of_their_own(tmp_path: Path) -> None:
    chosen = replace(options("figure2", "random(200)"), baselines=("pgis",))
    cells = figure2.grid(chosen).cells
    assert [(cell.job, "--baselines pgis" in chosen.command()) for cell in cells] == [("irecgan", True), ("pgis", True)]
    rows = training_cell.run(cells[1], tmp_path / "run")
    assert {row.method for row in rows} == {"pgis"}
    assert {row.metric for row in rows} == {"reward", "reward_sampled", *COVERAGES}


def test_what_is_compared_wins_over_further_flags() -> None:
    plan = figure2.grid(options("figure2", "max(10000)", flags="--log-sessions 50"))
    assert train_config("quick", plan.cells[0].task["flags"]).log_sessions == 10_000


def test_the_device_is_the_cpu_unless_asked_for(tmp_path: Path) -> None:
    plain = options("figure2", "random(200)")
    on_cuda = replace(plain, device="cuda")
    assert "device" not in plain.settings() and "--device" not in plain.command()  # as results of older versions
    assert on_cuda.settings() == {**plain.settings(), "device": "cuda"} and "--device cuda" in on_cuda.command()
    for chosen, device in ((plain, "cpu"), (on_cuda, "cuda")):
        cell = figure2.grid(chosen).cells[0]
        assert training_cell.cell_config(cell, tmp_path).device == device


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_gives_one_line(tmp_path: Path) -> None:
    status, _, error = command("figure2", "--device", "cuda", "--out", tmp_path / "out")
    assert status == 2 and error.count("\n") == 1 and error.endswith("use --device cpu\n")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", PRESETS)
def test_every_ablation_changes_one_thing_at_the_same_budget(name: str) -> None:
    own = replace(preset(name), device="cpu")  # as the grids' runs
    changes = ablation.variants(ExperimentOptions("ablation", preset=name))
    assert changes.pop("irecgan") == []
    both = "constant-scores random-scores no-rescaling completions-1 completions-20 value-baseline history-dropout generated-67"
    quick = "lstm-cell click generated-9 no-pessimism no-anchor"
    paper = "gru slate generated-33"
    assert set(changes) == {*both.split(), *(quick if name == "quick" else paper).split()}
    for variant, flags in changes.items():
        config = train_config(name, flags)
        assert config != own, variant
        sessions = config.adversarial.generated * (1 + config.adversarial.logged_ratio)
        assert sessions == pytest.approx(own.adversarial.generated * (1 + own.adversarial.logged_ratio), rel=2e-3)


def test_ablation_names_the_variant_and_draws(tmp_path: Path) -> None:
    plan = ablation.grid(options("ablation", "random(200)"))
    kept = {cell.job: cell.task["methods"] for cell in plan.cells}
    assert set(kept["irecgan"]) == {*MARKS, "lstm", "pg", "irecgan"}
    cell = next(cell for cell in plan.cells if cell.job == "constant-scores")
    rows = training_cell.run(cell, tmp_path / "run")
    assert {(row.configuration, row.method) for row in rows} == {("random(200)", "constant-scores")}
    both = [*rows, *(row._replace(method="irecgan") for row in rows)]
    ablation.draw(sorted_rows(ablation.EXPERIMENT, both), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_figure3_has_a_row_per_turn(tmp_path: Path) -> None:
    plan = figure3.grid(options("figure3"))
    assert [(cell.configuration, cell.job) for cell in plan.cells] == [
        (name, method) for name in ("online", "online peaked") for method in figure3.METHODS
    ]
    rows = [row for cell in plan.cells[-2:] for row in figure3.run(cell, tmp_path / cell.name)]
    turns = [f"turn {turn} peaked" for turn in (1, 2)]
    assert list(dict.fromkeys(row.configuration for row in rows)) == turns
    assert {row.metric for row in rows} == set(figure3.METRICS)
    assert all(0 <= row.value <= 1 for row in rows if "coverage" in row.metric)
    draws = [row._replace(method=method) for row in rows[: len(rows) // 2] for method in figure3.METHODS]
    figure3.draw(sorted_rows(figure3.EXPERIMENT, draws), tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_bias_measures_before_and_after(tmp_path: Path) -> None:
    cell = bias.grid(options("bias", "mix(10000)")).cells[0]
    assert cell.task["sessions"] == 40
    small = {**cell.task, "flags": [*cell.task["flags"], "--log-sessions", "60"]}
    rows = list(bias.run(type(cell)(cell.configuration, cell.job, cell.seed, small), tmp_path / "run"))
    values = {(row.method, row.metric): row.value for row in rows}
    assert {row.method for row in rows} == {"pretrained", "pretrained-user", "irecgan"}
    assert [method for method, metric in values if metric == "bias_learnt"] == ["irecgan"]
    # The agent and the users are the same, so the truth is; the user model is another one.
    assert values["pretrained-user", "value"] == values["irecgan", "value"]
    assert values["pretrained-user", "delta"] != values["irecgan", "delta"]
    for method in ("pretrained", "irecgan"):
        mixed = (values[method, "value_generated"] + 2 * values[method, "value_data"]) / 3  # logged to generated 2 : 1
        assert values[method, "bias_without"] == pytest.approx(mixed - values[method, "value"])
    bias.draw([Row(*row) for row in rows], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_an_interrupted_run_of_a_cell_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = figure2.grid(options("figure2", "random(200)", flags=f"{TINY} --checkpoint-seconds 0")).cells[0]
    expected = training_cell.run(cell, tmp_path / "whole")

    def stop(*args: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr("irecgan_ext.training.adversarial.update_discriminator", stop)
        with pytest.raises(Exception, match="interrupted"):
            training_cell.run(cell, tmp_path / "parts")
    done = (tmp_path / "parts/metrics.jsonl").read_text()
    assert '"pretrain_agent"' in done
    assert training_cell.run(cell, tmp_path / "parts") == expected
    assert (tmp_path / "parts/metrics.jsonl").read_text().startswith(done)
