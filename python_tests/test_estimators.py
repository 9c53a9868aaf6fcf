"""Values, advantages and importance weights against numbers worked out by hand."""

import math

import pytest
import torch
from torch.autograd import gradcheck

from irecgan_ext import estimators, losses

# Two sessions: two clicks then END; one click, censored.
MASK = torch.tensor([[True, True, True], [True, False, False]])
Q = torch.tensor([[0.5, 0.25, 1.0], [0.75, math.nan, math.nan]])
REWARDS = torch.tensor([[1.0, 1.0, 0.0], [1.0, math.nan, math.nan]])
STEP_REWARDS = torch.tensor([[4.0, 4.0, 1.0], [4.0, math.nan, math.nan]])
VALUES = torch.tensor([[5.0, 3.0, 2.0], [6.0, math.nan, math.nan]])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


def test_step_rewards():
    close(losses.step_rewards(Q[:, :1], REWARDS[:, :1]), [[2.0], [3.0]])
    close(losses.step_rewards(Q[:, :1], REWARDS[:, :1], 2.0, rescale=False), [[2.5], [2.75]])


def test_unscaled_rewards_in_the_returns():
    # q + 2 r: 2.5, 2.25, 1 and 2.75.
    expected = [[2.5 + 0.5 * 2.25 + 0.25, 2.25 + 0.5, 1.0], [2.75, 0.0, 0.0]]
    close(losses.agent_returns(Q, REWARDS, MASK, 0.5, 2.0, rescale=False), expected)


def test_one_step_advantages():
    # reward + 0.5 V(next) - V, nothing after the last step.
    expected = [[4 + 1.5 - 5, 4 + 1 - 3, 1 - 2.0], [4 - 6.0, 0.0, 0.0]]
    close(estimators.generalised_advantages(STEP_REWARDS, VALUES, MASK, gamma=0.5, trace=0.0), expected)


def test_full_trace_is_the_return_minus_the_value():
    got = estimators.generalised_advantages(STEP_REWARDS, VALUES, MASK, gamma=0.5, trace=1.0)
    returns = losses.discounted_returns(STEP_REWARDS, MASK, 0.5)
    close(returns, [[6.25, 4.5, 1.0], [4.0, 0.0, 0.0]])
    close(got, [[1.25, 1.5, -1.0], [-2.0, 0.0, 0.0]])


def test_a_trace_between():
    # Errors 0.5, 2, -1, each next one worth gamma trace = 0.25.
    got = estimators.generalised_advantages(STEP_REWARDS, VALUES, MASK, gamma=0.5, trace=0.5)
    close(got, [[0.5 + 0.25 * 2 - 0.0625, 2 - 0.25, -1.0], [-2.0, 0.0, 0.0]])


def test_value_loss():
    returns = torch.tensor([[6.0, 1.0, 2.0], [6.0, math.nan, math.nan]])
    values = VALUES.clone().requires_grad_()
    loss = estimators.value_loss(values, returns, MASK)
    close(loss, (1 + 4) / 4)
    loss.backward()
    close(values.grad, [[-0.5, 1.0, 0.0], [0.0, 0.0, 0.0]])


def test_importance_weights():
    log_probs = torch.tensor([[0.5, 0.2, 0.9]]).log().requires_grad_()
    logging = torch.tensor([[0.25, 0.4, 0.01]]).log()
    weights = estimators.importance_weights(log_probs, logging, cap=10.0)
    close(weights, [[2.0, 0.5, 10.0]])
    assert not weights.requires_grad
    close(estimators.importance_weights(log_probs, logging, cap=1.5), [[1.5, 0.5, 1.5]])


def test_shown_log_probs():
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    slates = torch.tensor([[2, 0], [3, -1]])
    got = estimators.shown_log_probs(logits.expand(2, 4), slates)
    close(got, [(math.log(0.3) + math.log(0.1)) / 2, math.log(0.4)])


def test_shown_log_probs_are_highest_for_shares_of_the_places_whatever_the_order():
    """Two slates that share one item of three: shares 1/4, 1/2, 1/4, though one item always comes first."""
    slates = torch.tensor([[1, 0], [1, 2]])
    logits = torch.zeros(3, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        (-estimators.shown_log_probs(logits.expand(2, 3), slates).mean()).backward()
        optimiser.step()
    torch.testing.assert_close(logits.softmax(0).detach(), torch.tensor([0.25, 0.5, 0.25]), rtol=0, atol=1e-4)


def test_gradients():
    logits = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: estimators.shown_log_probs(x, torch.tensor([[2, 0], [3, -1]])), logits)
    values = torch.randn(2, 3, dtype=torch.float64, requires_grad=True)
    returns = torch.randn(2, 3, dtype=torch.float64)
    assert gradcheck(lambda x: estimators.value_loss(x, returns, MASK), values)


@pytest.mark.parametrize("trace", [0.0, 0.5, 1.0])
def test_no_steps(trace):
    nothing = torch.zeros(2, 0)
    assert estimators.generalised_advantages(nothing, nothing, nothing.bool(), 0.9, trace).shape == (2, 0)
