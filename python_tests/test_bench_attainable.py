"""What the benchmark of attainable rewards computes, on few hidden states; like test_bench.py, only in a checkout."""

import importlib

import pytest
import torch
from checkout import ROOT, needs_checkout
from torch.nn.functional import logsigmoid

from irecgan_ext.simulators.likelihood import session_law
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.optimal import BeliefPolicy, counts_policy, policy_values
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


def test_sessions_tell_which_candidate_is_true(bench):
    """Two candidates with laws of their own: after two clicks the belief is that of a filter by hand, and so are the gains."""
    candidates = [MDP.random(states=3, items=6, transition_temperature=0.2, seed=seed) for seed in (1, 2)]
    policy = bench("bench.uncertain_users").UncertainBeliefPolicy(candidates, 3)
    policy.begin(1, 0)
    row, slates, clicks = torch.tensor([0]), torch.tensor([[0, 1, 4], [5, 2, 1]]), torch.tensor([4, 2])
    for slate, click in zip(slates, clicks):
        policy.observe(row, slate[None], click[None])
    expected = torch.zeros(2, 3, dtype=torch.float64)
    for b, mdp in enumerate(candidates):
        belief = torch.tensor([1.0, 0, 0], dtype=torch.float64)
        for slate, click in zip(slates, clicks):
            taken = belief * mdp.rewards[:, click] ** 2 / mdp.rewards[:, slate].sum(1)
            belief = taken @ mdp.transitions[:, click]
        expected[b] = belief
        torch.testing.assert_close(policy.gains[b], BeliefPolicy(mdp, 3).gains)
    torch.testing.assert_close(policy.beliefs[0], expected / expected.sum())


def test_learners_are_measured_beside_counts(bench, monkeypatch):
    """Whoever plays as `counts` does is worth exactly what `counts` is, however few sessions are played."""
    attainable = bench("bench.attainable")
    mdp = MDP.random(states=3, items=14, transition_temperature=0.05, seed=1)
    log = simulate(mdp, RandomPolicy(14, 10), 300, slate_size=10, seed=2)
    monkeypatch.setattr(attainable, "PAIRED", 50)
    monkeypatch.setattr(attainable, "fit_users", lambda *_: [mdp])
    monkeypatch.setattr(attainable, "UncertainBeliefPolicy", lambda *_: counts_policy(log, 14, 10))
    values = attainable.learnt(mdp, log, 2, seed=0)
    assert values["Bayesian"] == values["hidden Markov"] == pytest.approx(values["counts"], rel=1e-12)
    assert values["counts"] <= values["best two slates"]


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
    for name, number in (("FITTED", 500), ("PLAYED", 300), ("PAIRED", 200), ("FITS", 1)):
        monkeypatch.setattr(attainable, name, number)
    attainable.main(["--seeds", "3", "4", "--log-sessions", "60", "--samples", "2"])
    header, _, *rows, means, gains = capsys.readouterr().out.splitlines()
    assert [row.count("|") for row in rows] == [header.count("|")] * 2 and "Bayesian" in header
    assert means.startswith("mean of the way, %: counts ")
    assert gains.startswith("more than counts, %: Bayesian, two slates ")
