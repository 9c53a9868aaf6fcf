"""Algorithm 1 at a tiny size: what changes, what is recorded, what averages and weights mean, and that it learns."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import ITEMS, SLATE, copied, make_run, tiny_config, tiny_log

from irecgan_ext.evaluation.coverage import evaluate_policy
from irecgan_ext.evaluation.policies import AgentPolicy
from irecgan_ext.losses import policy_entropy
from irecgan_ext.models import Agent
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import MaxPolicy, RandomPolicy
from irecgan_ext.training import adversarial
from irecgan_ext.training.adversarial import generate, train_irecgan
from irecgan_ext.training.agent_update import logged_weight, slate_log_probs
from irecgan_ext.training.batches import split
from irecgan_ext.training.config import AdversarialConfig, ModelConfig, PretrainConfig, TrainConfig
from irecgan_ext.training.metrics import read_metrics
from irecgan_ext.training.outcome import Outcome
from irecgan_ext.training.run import Diverged, Run

pytestmark = pytest.mark.usefixtures("one_thread")


VALUES = {
    "pretrain_user": {"ll_train", "ll_valid"},
    "pretrain_agent": {"loss", "loss_valid"},
    "logging_policy": {"logging_ll_train", "logging_ll_valid"},
    "pretrain_discriminator": {"agent_return", "d_loss", "d_accuracy_real", "d_accuracy_generated"},
    "adversarial": {"agent_return", "q_mean", "user_loss", "agent_loss", "d_loss"}
    | {"d_accuracy_real", "d_accuracy_generated"},
}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("action", ["click", "slate"])
def test_every_model_learns_and_every_value_is_finite(tmp_path: Path, action: str, binary: bool) -> None:
    run = make_run(tmp_path, tiny_config(action=action, log_weight=0.5), binary=binary)
    fresh = copied(run.models)
    train_irecgan(run)
    run.close()
    records = read_metrics(tmp_path)
    units = (2, 2, 2 if action == "slate" else 0, 1, 2)
    assert [record["phase"] for record in records] == [phase for phase, n in zip(VALUES, units) for _ in range(n)]
    assert [record["step"] for record in records] == list(range(1, sum(units) + 1))
    for record in records:
        values = {name: value for name, value in record.items() if name not in ("phase", "unit", "step", "wall")}
        assert set(values) == VALUES[record["phase"]]
        assert all(math.isfinite(value) for value in values.values()), record
    for record in records[-3:]:
        assert 0 <= record["d_accuracy_real"] <= 1
        assert 0 <= record["agent_return"] <= 5
    after = run.models.state_dict()
    for name, value in after.items():
        assert bool(value.isfinite().all())
        # Of the discriminator's reward scale, weight and bias move only through rewards; all others must move.
        assert not torch.equal(value, fresh[name]), name
    for name in ("user", "agent"):
        snapshot = run.snapshots[name]
        moved = [not torch.equal(v, snapshot[key]) for key, v in getattr(run.models, name).state_dict().items()]
        assert any(moved), f"the adversarial phase left {name} as it was"


@pytest.mark.parametrize("centre_q", [False, True])
def test_other_variants_run(tmp_path: Path, centre_q: bool) -> None:
    options = {"centre_q": centre_q, "max_steps": None, "trace": 1.0, "user_batch": 3, "d_epochs": 2}
    config = replace(tiny_config(**options), model=ModelConfig("lstm", 4, 8, 2))
    run = make_run(tmp_path, config)
    train_irecgan(run)
    run.close()
    assert run.max_steps == math.ceil(2 * run.train.lengths.double().mean())
    assert all(bool(value.isfinite().all()) for value in run.models.state_dict().values())


def test_training_repeats_itself(tmp_path: Path) -> None:
    weights = []
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run = make_run(tmp_path / name, replace(tiny_config(), seed=seed))
        train_irecgan(run)
        run.close()
        weights.append(run.models.state_dict())
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert not all(torch.equal(value, weights[2][key]) for key, value in weights[0].items())


def test_the_anchor_is_a_weight_over_the_size_of_the_log(tmp_path: Path) -> None:
    """40 logged sessions: 20 / 40 is the weight 0.5, and adds to another."""
    weights = []
    for name, options in (
        ("weight", {"log_weight": 0.5}),
        ("anchor", {"log_anchor": 20.0}),
        ("both", {"log_weight": 0.25, "log_anchor": 10.0}),
        ("neither", {}),
    ):
        run = make_run(tmp_path / name, tiny_config(**options))
        train_irecgan(run)
        run.close()
        weights.append(run.models.agent.state_dict())
    for key, value in weights[0].items():
        assert torch.equal(weights[1][key], value) and torch.equal(weights[2][key], value)
    assert not all(torch.equal(weights[3][key], value) for key, value in weights[0].items())


def test_what_the_agent_gathered_is_no_anchor(tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_config(log_anchor=20.0, log_weight=0.25))
    assert logged_weight(run) == 0.75
    run.gather(tiny_log(10))
    assert logged_weight(run) == 0.25
    run.close()


@pytest.mark.parametrize("units", range(1, 7))
def test_resumed_after_any_unit_ends_with_the_same_weights(
    tmp_path: Path, units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(tiny_config(action="slate", log_weight=0.5), checkpoint_seconds=0.0)
    whole = make_run(tmp_path / "whole", config)
    train_irecgan(whole)
    whole.close()

    class Killed(Exception):
        pass

    first = make_run(tmp_path / "parts", config)
    save = first.save

    def save_until(name: int | str | None = None) -> None:
        save(name)
        if first.step == units:
            raise Killed

    monkeypatch.setattr(first, "save", save_until)
    with pytest.raises(Killed):
        train_irecgan(first)
    first.close()
    second = make_run(tmp_path / "parts", config, resume=True)
    assert second.step == units
    train_irecgan(second)
    second.close()
    for name in ("models", "average"):
        expected, got = (getattr(run, name).state_dict() for run in (whole, second))
        for key, value in expected.items():
            assert torch.equal(got[key], value), (name, key)
    assert whole.scalars == second.scalars
    keys = [[(r["phase"], r["unit"], r["step"]) for r in read_metrics(tmp_path / part)] for part in ("whole", "parts")]
    assert keys[0] == keys[1]


def test_average_follows_the_weights_at_its_decay(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    with torch.no_grad():
        for parameter in run.models.parameters():
            parameter.fill_(1.0)
    run.begin_average()
    with torch.no_grad():
        for parameter in run.models.parameters():
            parameter.fill_(2.0)
    run.begin_average()  # once per run: the second call must not copy again
    run.update_average("user", 0.75)
    assert {value.item() for p in run.average.user.parameters() for value in p.flatten()} == {1.25}
    run.update_average("user", 0.75)
    assert {value.item() for p in run.average.user.parameters() for value in p.flatten()} == {1.4375}
    assert {value.item() for p in run.average.agent.parameters() for value in p.flatten()} == {1.0}
    run.update_average("agent", 0.0)
    assert {value.item() for p in run.average.agent.parameters() for value in p.flatten()} == {2.0}
    assert not any(parameter.requires_grad for parameter in run.average.parameters())
    run.close()


def test_without_decay_the_average_is_the_last_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_config(average=0.0))
    train_irecgan(run)
    run.close()
    for name in ("user", "agent"):
        for mean, value in zip(getattr(run.average, name).parameters(), getattr(run.models, name).parameters()):
            torch.testing.assert_close(mean, value, rtol=0, atol=1e-7)


def test_step_sizes_fall_to_the_final_rate(tmp_path: Path) -> None:
    options = {"user_learning_rate": 1e-3, "agent_learning_rate": 2e-3, "final_rate": 0.25}
    run = make_run(tmp_path, tiny_config(**options))
    seen: dict[str, list[float]] = {"user model's loss": [], "agent's loss": []}
    descend = run.descend

    def noted(optimiser, loss, what, rate=None):
        if what in seen and (not seen[what] or seen[what][-1] != rate):
            seen[what].append(rate)
        return descend(optimiser, loss, what, rate)

    run.descend = noted  # type: ignore[method-assign]
    train_irecgan(run)
    run.close()
    assert seen["user model's loss"] == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert seen["agent's loss"] == pytest.approx([2e-3, 1.5e-3, 1e-3, 5e-4])


def test_no_rounds_leave_the_pretrained_models(tmp_path: Path) -> None:
    run = make_run(tmp_path, tiny_config(epochs=0))
    train_irecgan(run)
    run.close()
    for name in ("user", "agent"):
        for key, value in getattr(run.average, name).state_dict().items():
            assert torch.equal(value, run.snapshots[name][key])


def test_dropout_of_the_agent_ends_with_its_pretraining(tmp_path: Path) -> None:
    model = ModelConfig(embedding=4, hidden=8, history_dropout=0.5)
    run = make_run(tmp_path, replace(tiny_config(), model=model))
    encoder = run.models.agent.encoder
    assert encoder.dropout.p > 0
    train_irecgan(run)
    assert (encoder.dropout.p, encoder.rnn.dropout) == (0, 0)
    assert encoder.history_dropout == 0.5
    run.close()


@pytest.mark.parametrize("part", ["user", "agent", "discriminator"])
def test_diverged_model_is_named(tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, replace(tiny_config(), checkpoint_seconds=0.0))

    name = "update_discriminator" if part == "discriminator" else f"update_{part}"
    update = getattr(adversarial, name)

    def poison(at: Run, unit, *rest):
        if (unit.phase, unit.index) == ("adversarial", 1):
            with torch.no_grad():
                next(getattr(at.models, part).parameters()).fill_(math.nan)
        return update(at, unit, *rest)

    monkeypatch.setattr(adversarial, name, poison)
    names = {"user": "user model's loss", "agent": "agent's loss", "discriminator": "discriminator's loss"}
    with pytest.raises(Diverged) as caught:
        train_irecgan(run)
    assert f"step 8: {names[part]} is nan; last good checkpoint: " in str(caught.value)
    assert str(caught.value).endswith("step-00000008.safetensors")
    run.close()
    again = make_run(tmp_path, run.config, resume=True)
    assert all(bool(parameter.isfinite().all()) for parameter in again.models.parameters())
    again.close()


def test_generated_sessions_start_as_logged_ones(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.train.start.copy_(torch.arange(40) % ITEMS)
    for unit in run.units("phase", 1):
        played = generate(run, unit, completions=2)
    run.close()
    assert sorted(played.trajectories.start.tolist()) != [played.trajectories.start[0].item()] * 16
    assert bool((played.trajectories.start >= 0).all())
    assert played.trajectories.slate_size == SLATE
    assert played.q is not None
    mask = played.trajectories.step_mask()
    assert bool(((played.q[mask] > 0) & (played.q[mask] < 1)).all())
    assert unit.values["q_mean"] == pytest.approx(played.q[mask].mean().item(), rel=1e-5)
    assert unit.values["agent_return"] == pytest.approx(played.trajectories.returns().mean().item())


def test_the_outcome_has_the_trained_discriminator(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    untrained = copied(run.models.discriminator)
    train_irecgan(run)
    run.close()
    kept = Outcome.of(run).models.discriminator.state_dict()
    assert all(torch.equal(value, kept[name]) for name, value in run.models.discriminator.state_dict().items())
    assert any(not torch.equal(value, kept[name]) for name, value in untrained.items())


def test_an_entropy_bonus_keeps_the_policy_spread(tmp_path: Path) -> None:
    entropies = []
    for weight in (0.0, 10.0):
        run = make_run(tmp_path / str(weight), tiny_config(entropy=weight, epochs=4, agent_learning_rate=0.05))
        train_irecgan(run)
        run.close()
        agent = run.models.agent.eval()
        entropies.append(policy_entropy(agent.logits(agent.encoder.at_steps(run.valid))).mean().item())
    assert entropies[1] > entropies[0] + 0.1


def test_slate_log_probs_are_the_draws_without_replacement(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    agent: Agent = run.models.agent.eval()
    batch = run.train.select(torch.arange(5))
    got = slate_log_probs(agent, batch)
    logits = agent.logits(agent.encoder(batch.inputs()))
    for b in range(5):
        for t in range(batch.horizon):
            expected = torch.zeros(())
            weights = logits[b, t].double().exp()
            for item in batch.slates[b, t].tolist() if t < batch.lengths[b] else []:
                expected = expected + (weights[item] / weights.sum()).log()
                weights = weights.clone()
                weights[item] = 0
            assert got[b, t].item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    run.close()


@pytest.mark.parametrize("action", ["click", "slate"])
def test_it_learns_what_to_recommend(tmp_path: Path, action: str) -> None:
    """One user state, two items of ten that are clicked often: greedy slates must hold them, and sampled ones more often
    than those of the agent that has seen the log alone."""
    rewards = torch.full((1, 10), 0.15, dtype=torch.float64)
    rewards[0, [3, 8]] = 0.8
    mdp = MDP(rewards, torch.ones(1, 10, 1, dtype=torch.float64))
    log = simulate(mdp, RandomPolicy(10, 2), 400, slate_size=2, seed=0)
    train, valid = split(log, 0.1, torch.Generator().manual_seed(0))
    config = TrainConfig(
        quiet=True,
        model=ModelConfig(embedding=8, hidden=16),
        user=PretrainConfig(1e-2, 6, batch=32),
        agent=PretrainConfig(1e-2, 3, batch=32),
        adversarial=AdversarialConfig(
            epochs=3,
            r_steps=4,
            generated=128,
            completions=2,
            max_steps=8,
            agent_learning_rate=1e-2,
            final_rate=1.0,
            average=0.5,
            log_anchor=0.0,
            action=action,
        ),
    )
    run = Run(config, tmp_path, train, valid, 10, "survival", torch.device("cpu"))
    train_irecgan(run)
    run.close()
    policies = (RandomPolicy(10, 2), AgentPolicy(run.average.agent, 2), MaxPolicy(mdp, 2))
    chance, learnt, best = (evaluate_policy(mdp, policy, 500, slate_size=2, seed=7) for policy in policies)
    assert learnt.reward - learnt.ci95 > 3 * (chance.reward + chance.ci95)
    assert learnt.reward == pytest.approx(best.reward, rel=0.05)
    pretrained = Agent(10, 8, 16, 1)
    pretrained.load_state_dict(run.snapshots["agent"])
    before, after = (
        evaluate_policy(mdp, AgentPolicy(agent, 2, sample=True), 2000, slate_size=2, seed=7).returns
        for agent in (pretrained, run.average.agent)
    )
    gain = after - before  # the same users
    assert float(gain.mean()) > max(0.5, 4 * float(gain.std()) / len(gain) ** 0.5)
