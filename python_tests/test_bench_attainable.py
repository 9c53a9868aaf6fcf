"""What the benchmark of attainable rewards computes, on few hidden states; like test_bench.py, only in a checkout."""

import importlib

import pytest
import torch
from checkout import ROOT, needs_checkout
from torch.nn.functional import logsigmoid

from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import BeliefPolicy, policy_values
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


def test_whoever_has_no_doubt_plays_as_belief_does(bench):
    mdp, _ = small(1)
    played = [
        simulate(mdp, policy, 300, slate_size=3, seed=4)
        for policy in (
            bench("bench.uncertain_users").UncertainBeliefPolicy([mdp], 3),
            BeliefPolicy(mdp, 3),
        )
    ]
    assert torch.equal(played[0].slates, played[1].slates)


def test_a_session_tells_which_candidate_is_true(bench):
    """Two candidates with opposite tastes: whoever clicks what only one of them likes is known from then on."""
    mdp, _ = small(1)
    rewards = torch.full((2, 3, 6), 0.05, dtype=torch.float64)
    rewards[0, :, :3] = rewards[1, :, 3:] = 0.95
    users = [MDP(tastes, mdp.transitions) for tastes in rewards]
    policy = bench("bench.uncertain_users").UncertainBeliefPolicy(users, 3)
    policy.begin(2, 0)
    rows, slates = torch.arange(2), torch.tensor([[0, 1, 4], [0, 1, 4]])
    policy.observe(rows, slates, torch.tensor([1, 4]))
    held = policy.beliefs.sum(2)
    click = rewards[:, 0, 1].square() / rewards[:, 0][:, [0, 1, 4]].sum(1)
    torch.testing.assert_close(held[0], click / click.sum())
    assert bool((policy.recommend(rows, rows).sort(1).values == torch.tensor([[0, 1, 2], [3, 4, 5]])).all())


def test_fitted_users_explain_clicks_better_than_others_do(bench):
    """Of sessions that they were not fitted to: beyond users without hidden states, and not far from the true ones."""
    fit_users = bench("bench.hidden_markov").fit_users
    mdp = MDP.random(states=3, items=6, transition_temperature=0.05, seed=1)
    log, others = (simulate(mdp, RandomPolicy(6, 3), n, slate_size=3, seed=n) for n in (4000, 4001))
    (fitted,), (plain,) = (fit_users(log, states, 6, 1, seed=0) for states in (3, 1))
    true, known, blind = (float(session_law(users, others).clicks.sum()) / 4001 for users in (mdp, fitted, plain))
    assert true - 0.02 < known < true + 0.01
    assert blind < known - 0.03


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
    monkeypatch.setattr(bench("bench.hidden_markov"), "UPDATES", 3)
    for name, number in (("FITTED", 500), ("PLAYED", 200), ("PAIRED", 200), ("FITS", 1)):
        monkeypatch.setattr(attainable, name, number)
    attainable.main(["--seeds", "3", "4", "--log-sessions", "60", "--samples", "2"])
    header, _, *rows, means, gains = capsys.readouterr().out.splitlines()
    assert [row.count("|") for row in rows] == [header.count("|")] * 2 and "Bayesian" in header
    assert means.startswith("mean of the way: counts ") and gains.startswith("more than counts: Bayesian, two slates ")
