"""Learnt models as policies: greedy and sampled slates, states that follow the clicks, blindness to the true state."""

from __future__ import annotations

import pytest
import torch
from laws import chi_squared_p
from runs import ITEMS

from irecgan_ext.evaluation.policies import AgentPolicy, RecurrentPolicy, UserModelPolicy
from irecgan_ext.models import Agent, UserModel
from irecgan_ext.simulators.mdp import MDP, simulate
from irecgan_ext.types import BOS

CELLS = ("gru", "lstm")


def policy_of(kind: type[RecurrentPolicy], cell: str = "gru", sample: bool = False) -> RecurrentPolicy:
    torch.manual_seed(0)
    sizes = (ITEMS, 5, 7, 2, cell)
    model = Agent(*sizes, dropout=0.5, history_dropout=0.5) if kind is AgentPolicy else UserModel(*sizes, dropout=0.5)
    with torch.no_grad():
        for weights in model.parameters():  # large enough for the history to matter
            weights.mul_(4)
        model.encoder.embedding.weight.normal_()
    return kind(model, 4, sample)  # type: ignore[arg-type]


def expected_logits(policy: RecurrentPolicy, histories: torch.Tensor) -> torch.Tensor:
    """[A, C] after the clicks [A, n], by the encoder's own pass over BOS and the clicks."""
    start = torch.full((len(histories), 1), BOS)
    state = policy.encoder(torch.cat([start, histories], 1))[:, -1]
    if isinstance(policy, AgentPolicy):
        return policy.agent.head(state)
    assert isinstance(policy, UserModelPolicy)
    return policy.user.click_logits(state, torch.arange(ITEMS).expand(len(state), ITEMS))[:, :-1]


KINDS = (AgentPolicy, UserModelPolicy)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_slates_are_the_best_items_after_the_clicks(kind: type[RecurrentPolicy], cell: str) -> None:
    policy = policy_of(kind, cell)
    policy.begin(5, seed=0)
    rows, histories = torch.arange(5), torch.empty(5, 0, dtype=torch.int64)
    states = torch.zeros(5, dtype=torch.int64)
    seen = set()
    for running in ([0, 1, 2, 3, 4], [0, 2, 3], [3], [3]):
        on = torch.tensor(running)
        slates = policy.recommend(rows[on], states[on])
        assert torch.equal(slates, expected_logits(policy, histories[on]).topk(4).indices)
        seen |= {tuple(slate) for slate in slates.tolist()}
        clicks = (torch.arange(5) * 3 + histories.shape[1]) % ITEMS
        policy.observe(rows[on], slates, clicks[on])
        histories = torch.cat([histories, clicks[:, None]], 1)
    assert len(seen) > 1, "the history must matter for this test to mean anything"


@pytest.mark.parametrize("kind", KINDS)
def test_policies_do_not_see_the_true_state(kind: type[RecurrentPolicy]) -> None:
    for sample in (False, True):
        policy, slates = policy_of(kind, sample=sample), []
        for state in (0, 2):
            policy.begin(3, seed=1)
            slates.append(policy.recommend(torch.arange(3), torch.full((3,), state)))
        assert torch.equal(slates[0], slates[1])


@pytest.mark.parametrize("kind", KINDS)
def test_sampled_slates_follow_the_softmax(kind: type[RecurrentPolicy]) -> None:
    policy = policy_of(kind, sample=True)
    policy.begin(6000, seed=2)
    rows = torch.arange(6000)
    slates = policy.recommend(rows, torch.zeros(6000, dtype=torch.int64))
    assert bool((slates.sort(1).values.diff(dim=1) > 0).all())
    law = expected_logits(policy, torch.empty(1, 0, dtype=torch.int64))[0].softmax(-1)
    assert chi_squared_p(slates[:, 0].bincount(minlength=ITEMS), law) > 1e-3
    assert not torch.equal(slates, policy.recommend(rows, rows)), "a step's draws must not repeat the last one's"
    policy.begin(6000, seed=2)
    assert torch.equal(slates, policy.recommend(rows, rows))
    policy.begin(6000, seed=3)
    assert not torch.equal(slates, policy.recommend(rows, rows))


@pytest.mark.parametrize("sample", [False, True])
def test_sessions_in_the_simulator(sample: bool) -> None:
    mdp = MDP.random(3, ITEMS, seed=1)
    policy = policy_of(AgentPolicy, sample=sample)
    log = simulate(mdp, policy, 40, slate_size=4, seed=3)
    again = simulate(mdp, policy, 40, slate_size=4, seed=3)
    assert torch.equal(log.slates, again.slates)
    if not sample:
        counted = log.step_mask()
        logits = policy.logits(policy.encoder(log.inputs())[counted])
        assert torch.equal(log.slates[counted], logits.topk(4).indices)


@pytest.mark.parametrize("size", [0, ITEMS + 1])
def test_bad_slate_size(size: int) -> None:
    with pytest.raises(ValueError, match=rf"slate_size must be in 1\.\.C \(C = {ITEMS}\), got {size}"):
        AgentPolicy(Agent(ITEMS, 2, 3, 1), size)
