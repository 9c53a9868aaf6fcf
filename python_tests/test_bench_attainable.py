"""What the benchmark of attainable rewards computes, on few hidden states; like test_bench.py, only in a checkout."""

import importlib

import pytest
import torch
from checkout import ROOT, needs_checkout
from torch.nn.functional import logsigmoid

from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import policy_values
from irecgan_ext.simulators.policies import FixedPolicy, RandomPolicy

pytestmark = needs_checkout


@pytest.fixture
def bench(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    return importlib.import_module


def small(sessions: int):
    mdp = MDP.random(states=3, items=6, transition_temperature=0.3, seed=1)
    return mdp, simulate(mdp, RandomPolicy(6, 3), sessions, slate_size=3, seed=2)


def test_the_posterior_is_the_law_of_the_sessions_times_the_prior(bench):
    posterior = bench("bench.posterior")
    mdp, log = small(200)
    target = posterior.Posterior(log, mdp.transitions)
    logits = torch.logit(mdp.rewards)
    density, gradient = target(logits)
    prior = (logsigmoid(logits) + logsigmoid(-logits)).sum()
    torch.testing.assert_close(density - prior, session_law(mdp, log).clicks.sum(), rtol=1e-5, atol=0)
    for at in ((0, 1), (2, 4)):
        step = torch.zeros_like(logits)
        step[at] = 1e-2
        slope = (target(logits + step)[0] - target(logits - step)[0]) / 2e-2
        torch.testing.assert_close(slope, gradient[at], rtol=1e-2, atol=1e-2)


def test_samples_surround_the_rewards_of_the_state_that_is_known(bench):
    """Every session begins in state 0: its rewards are within the samples' spread, which is far below the prior's."""
    posterior = bench("bench.posterior")
    mdp, log = small(2000)
    samples = posterior.sample_rewards(log, mdp.transitions, 60, seed=0)
    mean, spread = samples.mean(0), samples.std(0)
    assert bool((spread[0] < 0.1).all())
    errors = (mean[0] - mdp.rewards[0]) / spread[0]
    assert bool((errors.abs() < 5).all()) and float(errors.square().mean()) < 4


def test_the_value_of_two_slates(bench):
    attainable = bench("bench.attainable")
    mdp, _ = small(1)
    first, later = torch.tensor([0, 1, 2]), torch.tensor([2, 4, 5])
    same = attainable.mean_value(mdp.rewards[None], mdp.transitions, later, later)
    assert same == pytest.approx(float(policy_values(mdp, later.expand(3, -1))[0]), rel=1e-12)
    value = attainable.mean_value(mdp.rewards[None], mdp.transitions, first, later)
    played = simulate(mdp, FixedPolicy(torch.stack([first, later])), 20_000, slate_size=3, seed=0)
    clicks = (played.clicks >= 0).sum(1).double()
    assert abs(float(clicks.mean()) - value) < 4 * float(clicks.std()) / 20_000**0.5
    users = torch.stack([mdp.rewards, 1 - mdp.rewards])
    others = attainable.mean_value(1 - mdp.rewards[None], mdp.transitions, first, later)
    assert attainable.mean_value(users, mdp.transitions, first, later) == pytest.approx((value + others) / 2)


def test_the_table(bench, capsys, monkeypatch):
    attainable = bench("bench.attainable")
    monkeypatch.setattr(bench("bench.posterior"), "LEAST_ACCEPTANCE", 0.0)
    for name in ("FITTED", "PLAYED"):
        monkeypatch.setattr(attainable, name, 500)
    attainable.main(["--seeds", "3", "--log-sessions", "60", "--samples", "2"])
    header, _, row, means = capsys.readouterr().out.splitlines()
    assert header.count("|") == row.count("|") and "Bayesian" in header
    assert means.startswith("mean of the way: counts ")
