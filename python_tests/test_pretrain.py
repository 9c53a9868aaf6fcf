"""Lines 3 and 4 of Algorithm 1 at a tiny size, and what a run does with diverging losses and early stopping."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import copied, make_run, tiny_config

from irecgan_ext.training.config import PretrainConfig
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.pretrain import agent_loss, held_out, pretrain_agent, pretrain_user, user_loss
from irecgan_ext.training.run import Diverged, Run

pytestmark = pytest.mark.usefixtures("one_thread")


def with_epochs(count: int, patience: int = 4):
    user = PretrainConfig(2e-2, count, patience=patience, batch=16)
    return replace(tiny_config(), user=user, agent=user)


@pytest.mark.parametrize("binary", [False, True])
def test_likelihood_improves(tmp_path: Path, binary: bool) -> None:
    run = make_run(tmp_path, with_epochs(6), binary=binary)
    user, options = run.models.user, run.config.adversarial
    before = held_out(run, user, lambda log: user_loss(user, log, options))
    first = copied(user)
    pretrain_user(run)
    run.close()
    assert held_out(run, user, lambda log: user_loss(user, log, options)) < before
    records = read_metrics(tmp_path)
    assert [(r["phase"], r["unit"], r["step"]) for r in records] == [("pretrain_user", i, i + 1) for i in range(6)]
    assert records[-1]["ll_train"] > records[0]["ll_train"]
    assert max(r["ll_valid"] for r in records) > -before
    for name, value in user.state_dict().items():
        assert not torch.equal(value, first[name]), name


def test_agent_learns_to_expect_the_clicks(tmp_path: Path) -> None:
    run = make_run(tmp_path, with_epochs(6))
    agent, options = run.models.agent, run.config.adversarial
    before, first = held_out(run, agent, lambda log: agent_loss(agent, log, options)), copied(agent)
    pretrain_agent(run)
    run.close()
    assert held_out(run, agent, lambda log: agent_loss(agent, log, options)) < before
    assert all(math.isfinite(record[name]) for record in read_metrics(tmp_path) for name in ("loss", "loss_valid"))
    for name, value in agent.state_dict().items():
        assert not torch.equal(value, first[name]), name


@pytest.mark.parametrize(("batch", "least", "updates"), [(16, 1, 3), (16, 10, 10), (3, 1, 14), (16, 60, 40)])
def test_a_small_log_is_cut_into_smaller_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int, least: int, updates: int
) -> None:
    """40 sessions: at least `least` updates, unless there are fewer sessions."""
    user = PretrainConfig(1e-2, 1, batch=batch, min_updates=least)
    run, seen = make_run(tmp_path, replace(tiny_config(), user=user)), []
    descend = run.descend
    monkeypatch.setattr(run, "descend", lambda *args: seen.append(args) or descend(*args))
    pretrain_user(run)
    run.close()
    assert len(seen) == updates


def test_held_out_is_the_mean_over_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path)
    user = run.models.user

    def loss(log):
        return user_loss(user, log, run.config.adversarial)

    whole = held_out(run, user, loss)
    user.eval()
    alone = [loss(run.valid.select(torch.tensor([i]))).item() for i in range(20)]
    assert whole == pytest.approx(sum(alone) / 20, rel=1e-5)
    monkeypatch.setattr("irecgan_ext.training.pretrain.EVALUATION_BATCH", 7)
    assert held_out(run, user, loss) == pytest.approx(whole, rel=1e-5)
    run.close()


def test_best_epoch_is_kept_and_patience_stops(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    module = torch.nn.Linear(1, 1, bias=False)
    losses = [3.0, 2.0, 2.5, 1.5, 1.5, 1.6, 9.0]
    seen = []
    for unit in run.units("phase", len(losses)):
        torch.nn.init.constant_(module.weight, unit.index)
        run.improve("phase", "best", module, losses[unit.index], patience=2)
        seen.append(unit.index)
    assert seen == [0, 1, 2, 3, 4, 5]
    assert run.snapshots["best"]["weight"].item() == 3
    assert list(run.units("phase", len(losses))) == []
    run.close()


def test_the_kept_model_is_the_best_snapshot(tmp_path: Path) -> None:
    run = make_run(tmp_path, with_epochs(30, patience=1))
    pretrain_user(run)
    run.close()
    values = [record["ll_valid"] for record in read_metrics(tmp_path)]
    assert values.index(max(values)) == len(values) - 2 < 28
    for name, value in run.models.user.state_dict().items():
        assert torch.equal(value, run.snapshots["user"][name])
    user = run.models.user
    assert -held_out(run, user, lambda log: user_loss(user, log, run.config.adversarial)) == pytest.approx(max(values))


def test_step_size_decays(tmp_path: Path) -> None:
    options = PretrainConfig(1e-2, 3, batch=16, decay=0.5, weight_decay=0.25)
    run = make_run(tmp_path, replace(tiny_config(), user=options))
    pretrain_user(run)
    run.close()
    group = run.optimisers["user"].param_groups[0]
    assert (group["lr"], group["weight_decay"]) == (pytest.approx(2.5e-3), 0.25)


def descend_on(run: Run, loss: torch.Tensor, parameter: torch.nn.Parameter) -> None:
    run.descend(torch.optim.SGD([parameter], lr=1.0), loss, "a loss")


def test_gradient_is_clipped(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    parameter = torch.nn.Parameter(torch.zeros(2))
    descend_on(run, (parameter * torch.tensor([300.0, 400.0])).sum(), parameter)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-3.0, -4.0]))
    descend_on(run, (parameter * torch.tensor([0.3, 0.4])).sum(), parameter)
    torch.testing.assert_close(parameter.detach(), torch.tensor([-3.3, -4.4]))
    run.close()


def test_gradient_that_is_not_finite_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(
        Diverged, match="step 0: the gradient of a loss has norm inf; last good .*: none was written yet"
    ):
        descend_on(run, parameter.sqrt().sum(), parameter)
    assert parameter.tolist() == [0, 0]
    run.close()


def test_diverged_run_names_step_loss_and_checkpoint(tmp_path: Path) -> None:
    config = replace(with_epochs(3), checkpoint_seconds=0.0)
    run = make_run(tmp_path, config)
    for unit in run.units("pretrain_user", 2):
        assert unit.index < 2
    saved = tmp_path / "checkpoints/step-00000002.safetensors"
    good = saved.read_bytes()
    with torch.no_grad():
        run.models.user.query.weight[0, 0] = math.nan
    with pytest.raises(Diverged) as caught:
        pretrain_user(run)
    assert str(caught.value) == f"step 2: pretrain_user loss is nan; last good checkpoint: {saved}"
    assert saved.read_bytes() == good
    run.close()
    again = make_run(tmp_path, config, resume=True)
    assert all(bool(parameter.isfinite().all()) for parameter in again.models.parameters())
    assert (again.step, again.checkpoint) == (2, saved)
    again.close()


def test_units_are_seeded_by_phase_and_index(tmp_path: Path) -> None:
    def draws(directory: Path, seed: int) -> list[tuple[float, float]]:
        run = make_run(directory, replace(tiny_config(), seed=seed))
        units = [unit for phase in ("a", "b") for unit in run.units(phase, 2)]
        run.close()
        return [(torch.rand(1, generator=unit.generator).item(), unit.index) for unit in units]

    first, second, other = draws(tmp_path / "1", 4), draws(tmp_path / "2", 4), draws(tmp_path / "3", 5)
    assert first == second != other
    assert len(set(first)) == 4
