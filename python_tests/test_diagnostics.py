"""Section 6 in the simulator against closed-form values on two-state MDPs."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from irecgan_ext import losses
from irecgan_ext.evaluation.diagnostics import Diagnostics, diagnose, slate_set_log_prob
from irecgan_ext.models import Agent, Discriminator, UserModel
from irecgan_ext.rollout import rollout
from irecgan_ext.simulators.likelihood import session_law, slate_log_probs
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.simulators.policies import FixedPolicy, MaxPolicy, MixPolicy, Policy, RandomPolicy
from irecgan_ext.types import BOS, END, PAD, Trajectories

pytestmark = pytest.mark.usefixtures("one_thread")

F = Fraction


def two_states() -> MDP:
    """Two items: the first leads to state 1, the second to state 0."""
    rewards = torch.tensor([[0.5, 0.25], [0.125, 0.75]], dtype=torch.float64)
    transitions = torch.zeros(2, 2, 2, dtype=torch.float64)
    transitions[:, 0, 1] = 1
    transitions[:, 1, 0] = 1
    return MDP(rewards, transitions)


def memoryless(odds: float) -> tuple[UserModel, Agent]:
    """A user model that clicks with probability 1/2 whatever is shown, and an agent with pi(first) / pi(second) = odds."""
    user, agent = UserModel(2, 3, 4, 1), Agent(2, 3, 4, 1)
    with torch.no_grad():
        for parameter in (*user.query.parameters(), *agent.head.parameters()):
            parameter.zero_()
        agent.head.bias[0] = math.log(odds)
    return user, agent


def test_one_step_by_hand() -> None:
    """One item of two, one step: pi = (3/4, 1/4), logging 1/2 each, r = (1/2, 1/4), r^ = 1/2; every number by hand."""
    user, agent = memoryless(3.0)
    lam = F(1, 3)
    found = diagnose(
        two_states(),
        RandomPolicy(2, 1),
        user,
        agent,
        None,
        slate_size=1,
        sessions=20_000,
        max_steps=1,
        lambda_1=float(lam),
    )
    value, logged, generated = F(3, 4) * F(1, 2) + F(1, 4) * F(1, 4), F(3, 8), F(1, 2)
    optimal = F(3, 4) * F(2, 5) * F(1, 2) + F(1, 4) * F(2, 3) * F(1, 2)  # D* = (1/2) / (1/2 + pi)
    weights = lam * F(2, 5), lam * F(2, 3)  # lambda / (1 + pi / (1/2))
    expected = {
        "delta": F(1, 4) * F(1, 4),
        "delta_size": F(1, 4) * F(1, 4),
        "delta_1": 0,
        "delta_2": F(1, 2),
        "weight": F(3, 4) * weights[0] + F(1, 4) * weights[1],
        "value": value,
        "value_data": logged,
        "value_generated": generated,
        "value_optimal": optimal,
        "bias_without": lam * generated + (1 - lam) * logged - value,
        "bias_optimal": lam * optimal + (1 - lam) * logged - value,
        "term_delta": F(1, 4) * weights[1] * F(1, 4),
        "term_delta_2": (1 - lam) * (logged - value),
        "term_weight": -(F(3, 4) * (lam - weights[0]) * F(1, 2) + F(1, 4) * (lam - weights[1]) * F(1, 4)),
    }
    for name, number in expected.items():
        assert getattr(found, name) == pytest.approx(float(number), abs=0.008), name
    assert expected["bias_optimal"] == expected["term_delta"] + expected["term_delta_2"] + expected["term_weight"]
    assert found.value_learnt is None
    assert found.bias_learnt is None


@pytest.mark.parametrize("logging", [RandomPolicy, MaxPolicy])
def test_several_steps_against_enumeration(logging: type[Policy]) -> None:
    """Models with memory, slates of two of three items, up to three steps: sums over every possible session."""
    torch.manual_seed(3)
    mdp = MDP.random(states=2, items=3, transition_temperature=0.3, seed=5)
    user, agent = UserModel(3, 4, 5, 1), Agent(3, 4, 5, 1)
    for model in (user, agent):
        torch.nn.init.normal_(model.encoder.embedding.weight, std=2.0)
    with torch.no_grad():
        user.query.weight.mul_(4)  # far from the true users, so that P_g is far from P_pi
    policy = RandomPolicy(3, 2) if logging is RandomPolicy else MaxPolicy(mdp, 2)
    found = diagnose(mdp, policy, user, agent, None, slate_size=2, sessions=10_000, max_steps=3, lambda_1=0.4)
    exact = enumerate_sessions(mdp, policy, user, agent, steps=3, lambda_1=0.4)
    for name, number in vars(exact).items():
        assert getattr(found, name) == pytest.approx(number, abs=0.02), name
    assert found.steps.shape == (3, 5)
    assert found.bias_optimal == pytest.approx(
        0.4 * exact.value_optimal + 0.6 * exact.value_data - exact.value, abs=0.02
    )
    if logging is RandomPolicy:  # it shows whatever the agent shows
        assert terms(found) == pytest.approx(found.bias_optimal, abs=0.02)


def terms(found: Diagnostics) -> float:
    return found.term_delta + found.term_delta_2 + found.term_weight


def enumerate_sessions(
    mdp: MDP, policy: Policy, user: UserModel, agent: Agent, steps: int, lambda_1: float
) -> SimpleNamespace:
    """The diagnostics as sums over every prefix x_t, weighted with its probabilities."""
    sums = dict.fromkeys(("value", "value_data", "value_generated", "value_optimal", "term_delta", "term_weight"), 0.0)
    parts = dict.fromkeys(("delta", "delta_size", "delta_1", "delta_2", "weight"), 0.0)
    mass = {"pi": 0.0, "g": 0.0, "data": 0.0}

    def visit(clicks: tuple[int, ...], true: Tensor, generated: float, logged: Tensor) -> None:
        """`true` and `logged`: joint probability of the clicks and each hidden state, [M]."""
        history = torch.tensor([[BOS, *clicks]])
        state, own = user.encoder(history)[0, -1], agent.logits(agent.encoder(history)[0, -1]).double()
        for slate in itertools.combinations(range(3), 2):
            shown = torch.tensor(slate)
            orders = [losses.plackett_luce_log_prob(own, torch.tensor(order)).exp() for order in (slate, slate[::-1])]
            chosen = float(sum(orders))
            seen = logged * slate_log_probs(policy, mdp, shown).exp()
            pi, g, data = float(true.sum()) * chosen, generated * chosen, float(seen.sum())
            click = mdp.rewards[:, shown] ** 2 / mdp.rewards[:, shown].sum(1, keepdim=True)  # [M, 2]
            believed = torch.softmax(user.click_logits(state, shown), -1).double()
            reward = float(true @ click.sum(1)) / float(true.sum())
            expected = float(believed[:2].sum())
            weight = lambda_1 / (pi / g + pi / data) if data > 0 else 0.0
            sums["value"] += pi * reward
            sums["value_data"] += float(seen @ click.sum(1))
            sums["value_generated"] += g * expected
            sums["value_optimal"] += g * data / (data + g) * expected
            sums["term_delta"] += pi * weight * (expected - reward)
            sums["term_weight"] -= pi * (lambda_1 - weight) * reward
            parts["delta"] += pi * (expected - reward)
            parts["delta_size"] += pi * abs(expected - reward)
            parts["delta_1"] += abs(g - pi)
            parts["delta_2"] += abs(data - pi)
            parts["weight"] += pi * weight
            for name, probability in (("pi", pi), ("g", g), ("data", data)):
                mass[name] += probability
            if len(clicks) + 1 == steps:
                continue
            for place, item in enumerate(slate):
                moved = [(x * click[:, place]) @ mdp.transitions[:, item] for x in (true * chosen, seen)]
                visit((*clicks, item), moved[0], g * float(believed[place]), moved[1])

    start = torch.tensor([1.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        visit((), start, 1.0, start)
    laws = {"delta": "pi", "delta_size": "pi", "delta_1": "g", "delta_2": "data", "weight": "pi"}
    return SimpleNamespace(**sums, **{name: total / mass[laws[name]] for name, total in parts.items()})


def test_scores_rescale_generated_rewards() -> None:
    """A discriminator with equal embeddings scores every session the same, so value_learnt is that share of the rewards."""
    user, agent = memoryless(2.0)
    judge = Discriminator(2, 3, 4, 1)
    with torch.no_grad():
        judge.encoder.embedding.weight.fill_(0.5)  # e . e = 3/4 at each step: D = sigmoid(3/4)
    found = diagnose(
        two_states(), RandomPolicy(2, 1), user, agent, judge, slate_size=1, sessions=2_500, max_steps=4, lambda_1=1.0
    )
    played = rollout(user, agent, slate_size=1, max_steps=4, sessions=2_500, seed=0)
    score = 1 / (1 + math.exp(-0.75))
    assert found.value_learnt == pytest.approx(score * played.trajectories.returns().mean().item(), rel=1e-5)
    assert found.bias_learnt == pytest.approx(found.value_learnt - found.value)


@pytest.mark.parametrize("lambda_1", [0.0, 1.5])
def test_bad_share(lambda_1: float) -> None:
    user, agent = memoryless(1.0)
    with pytest.raises(ValueError, match=r"^lambda_1 must be in \(0, 1\], got"):
        diagnose(
            two_states(),
            RandomPolicy(2, 1),
            user,
            agent,
            None,
            slate_size=1,
            sessions=9,
            max_steps=2,
            lambda_1=lambda_1,
        )


def test_slate_as_a_set_sums_over_its_orders() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 7) * torch.tensor([0.1, 1.0, 3.0, 6.0, 10.0, 20.0])[:, None]
    slates = torch.stack([torch.randperm(7)[:3] for _ in range(6)])
    ordered = [
        losses.plackett_luce_log_prob(logits.double(), slates[:, list(order)])
        for order in itertools.permutations(range(3))
    ]
    expected = torch.stack(ordered).logsumexp(0)
    torch.testing.assert_close(slate_set_log_prob(logits, slates), expected, rtol=1e-8, atol=1e-8)
    everything = torch.arange(7).expand(6, 7)
    assert torch.equal(slate_set_log_prob(logits, everything), torch.zeros(6, dtype=torch.float64))
    uniform = slate_set_log_prob(torch.zeros(1, 50), torch.arange(10)[None])
    assert uniform.item() == pytest.approx(-math.log(math.comb(50, 10)), abs=1e-9)


def test_session_law_by_hand() -> None:
    """Slate {0, 1}: item 0 clicked in state 0, which leads to state 1; there the user leaves."""
    log = Trajectories(
        start=torch.tensor([BOS]),
        slates=torch.tensor([[[0, 1], [1, 0], [PAD, PAD]]]),
        clicks=torch.tensor([[0, END, PAD]]),
        rewards=torch.tensor([[1.0, 0.0, 0.0]]),
        lengths=torch.tensor([2]),
        censored=torch.tensor([False]),
    )
    law = session_law(two_states(), log)
    stays = (0.25 + 0.0625) / 0.75, (0.125**2 + 0.75**2) / 0.875
    expected = torch.tensor([[0.25 / 0.75, 1 - stays[1], 1.0]], dtype=torch.float64).log()
    torch.testing.assert_close(law.clicks, expected)
    torch.testing.assert_close(law.survival, torch.tensor([[*stays, 0.0]], dtype=torch.float64))
    assert not law.slates.any()


def test_the_laws_of_logging_policies() -> None:
    mdp = MDP.random(states=3, items=10, seed=2)
    for policy in (RandomPolicy(10, 3), MaxPolicy(mdp, 3), MixPolicy(mdp, 3)):
        subsets = torch.tensor(list(itertools.combinations(range(10), 3)))
        chances = slate_log_probs(policy, mdp, subsets).exp()
        torch.testing.assert_close(chances.sum(0), torch.ones(3, dtype=torch.float64))
        log = simulate(mdp, policy, 4000, slate_size=3, seed=1)
        first = log.slates[:, 0].sort(1).values
        counts = (first[:, None] == subsets).all(2).sum(0).double()
        spread = (chances[:, 0] * (1 - chances[:, 0]) / 4000).sqrt()
        assert ((counts / 4000 - chances[:, 0]).abs() <= 4.5 * spread).all()
    with pytest.raises(ValueError, match="^policy must be random, max or mix for its slates' probabilities, got Fixed"):
        slate_log_probs(FixedPolicy(torch.arange(3)), mdp, subsets)


def test_a_slate_with_padding_has_no_law() -> None:
    log = simulate(two_states(), RandomPolicy(2, 2), 3, slate_size=2, seed=0)
    log.slates[0, 0, 1] = PAD
    with pytest.raises(ValueError, match="^sessions must hold full slates, got PAD in a counted step$"):
        session_law(two_states(), log)
