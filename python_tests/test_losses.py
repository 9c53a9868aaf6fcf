"""Losses and returns against numbers worked out by hand, and their gradients."""

import itertools
import math

import pytest
import torch
from torch.autograd import gradcheck

from irecgan_ext import losses

# Two sessions: two clicks then END; one click, censored.
MASK = torch.tensor([[True, True, True], [True, False, False]])
CLICKED = torch.tensor([[True, True, False], [True, False, False]])
CLICK_LOG_PROBS = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, math.nan, math.nan]])
REWARD_LOG_PROBS = torch.tensor([[-0.5, -0.25, math.nan], [-1.0, math.nan, math.nan]])
Q = torch.tensor([[0.5, 0.25, 1.0], [0.75, math.nan, math.nan]])
REWARDS = torch.tensor([[1.0, 0.0, 0.0], [1.0, math.nan, math.nan]])


def close(actual, expected):
    torch.testing.assert_close(actual, torch.as_tensor(expected, dtype=actual.dtype))


def test_user_likelihood():
    close(losses.user_likelihood(CLICK_LOG_PROBS, None, MASK, CLICKED), (6 + 4) / 2)
    close(losses.user_likelihood(CLICK_LOG_PROBS, REWARD_LOG_PROBS, MASK, CLICKED, lambda_p=2.0), (10 + 2 * 1.75) / 2)


def test_discriminator_loss():
    close(losses.discriminator_loss(torch.zeros(3), torch.zeros(2)), 2 * math.log(2))
    real, fake = torch.tensor([math.log(3.0), 0.0]), torch.tensor([math.log(4.0)])
    close(losses.discriminator_loss(real, fake), -(math.log(0.75) + math.log(0.5)) / 2 - math.log(0.2))
    close(losses.discriminator_loss(torch.tensor([-200.0]), torch.tensor([200.0])), 400.0)


def test_user_policy_gradient():
    clicks = 0.5 * 1 + 0.25 * 2 + 1 * 3 + 0.75 * 4
    rewards = 0.5 * 0.5 + 0.25 * 0.25 + 0.75 * 1
    close(losses.user_policy_gradient(CLICK_LOG_PROBS, None, Q, MASK, CLICKED), clicks / 2)
    both = losses.user_policy_gradient(CLICK_LOG_PROBS, REWARD_LOG_PROBS, Q, MASK, CLICKED, lambda_p=2.0)
    close(both, (clicks + 2 * rewards) / 2)


def test_user_policy_gradient_on_logged_data_is_the_likelihood():
    ones = torch.ones_like(Q)
    gradient = losses.user_policy_gradient(CLICK_LOG_PROBS, REWARD_LOG_PROBS, ones, MASK, CLICKED, 0.5)
    close(gradient, losses.user_likelihood(CLICK_LOG_PROBS, REWARD_LOG_PROBS, MASK, CLICKED, 0.5))


def test_user_policy_gradient_weights():
    log_probs = CLICK_LOG_PROBS.clone().requires_grad_()
    q = Q.clone().requires_grad_()
    losses.user_policy_gradient(log_probs, None, q, MASK, CLICKED).backward()
    close(log_probs.grad, [[-0.25, -0.125, -0.5], [-0.375, 0.0, 0.0]])
    assert q.grad is None


def test_sequence_returns():
    close(losses.sequence_returns(Q, MASK, gamma=0.5), [[0.5 + 0.125 + 0.25, 0.25 + 0.5, 1.0], [0.75, 0.0, 0.0]])


def test_reward_returns_scale_each_reward_by_its_own_score():
    rewards = torch.tensor([[1.0, 2.0, 4.0], [1.0, math.nan, math.nan]])
    expected = [[0.5 + 0.5 * 0.5 + 0.25 * 4, 0.5 + 0.5 * 4, 4.0], [0.75, 0.0, 0.0]]
    close(losses.reward_returns(Q, rewards, MASK, gamma=0.5), expected)


def test_agent_returns():
    # q (1 + 3 r): 2, 0.25, 1 and 3; the END step counts in the return.
    expected = [[2 + 0.9 * 0.25 + 0.81, 0.25 + 0.9, 1.0], [3.0, 0.0, 0.0]]
    close(losses.agent_returns(Q, REWARDS, MASK), expected)
    parts = losses.sequence_returns(Q, MASK, 0.7) + 5 * losses.reward_returns(Q, REWARDS, MASK, 0.7)
    close(losses.agent_returns(Q, REWARDS, MASK, gamma=0.7, lambda_r=5.0), parts)


def test_returns_of_no_steps():
    nothing = torch.zeros(2, 0)
    assert losses.sequence_returns(nothing, nothing.bool()).shape == (2, 0)


def test_discounted_returns_gradient():
    rewards = torch.randn(2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([[True, True, True, True], [True, True, False, False]])
    assert gradcheck(lambda r: losses.discounted_returns(r, mask, 0.9), rewards)


def test_agent_policy_gradient():
    log_probs = torch.tensor([[-1.0, -2.0, math.nan], [-4.0, math.nan, math.nan]], requires_grad=True)
    returns = torch.tensor([[3.0, 2.0, 1.0], [0.5, math.nan, math.nan]], requires_grad=True)
    loss = losses.agent_policy_gradient(log_probs, returns, CLICKED)
    close(loss.detach(), (3 + 4 + 2) / 2)
    loss.backward()
    close(log_probs.grad, [[-1.5, -1.0, 0.0], [-0.25, 0.0, 0.0]])
    assert returns.grad is None


def test_plackett_luce_by_hand():
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64).log()
    slates = torch.tensor([[3, 0], [0, 3], [2, -1], [-1, 2]])
    expected = [math.log(4 / 10 * 1 / 6), math.log(1 / 10 * 4 / 9), math.log(3 / 10), math.log(3 / 10)]
    close(losses.plackett_luce_log_prob(logits.expand(4, 4), slates), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_plackett_luce_sums_to_one(size):
    logits = torch.tensor([0.3, -1.0, 2.0, 0.7], dtype=torch.float64)
    slates = torch.tensor(list(itertools.permutations(range(4), size)))
    log_probs = losses.plackett_luce_log_prob(logits.expand(len(slates), 4), slates)
    close(log_probs.exp().sum(), 1.0)


def test_plackett_luce_keeps_precision_behind_a_dominant_item():
    logits = torch.tensor([60.0, 0.0, 0.0, math.log(2.0)])
    close(losses.plackett_luce_log_prob(logits, torch.tensor([0, 3, 1])), math.log(0.5) + math.log(0.5))


@pytest.mark.filterwarnings("ignore:Anomaly Detection")
def test_plackett_luce_gradient():
    logits = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    slates = torch.tensor([[4, 0, 2, 1, 3, -1], [1, -1, 3, -1, -1, -1], [-1, -1, -1, -1, -1, -1]])
    with torch.autograd.detect_anomaly(check_nan=True):
        losses.plackett_luce_log_prob(logits, slates).sum().backward()
    assert gradcheck(lambda x: losses.plackett_luce_log_prob(x, slates), logits.detach().requires_grad_())


def test_plackett_luce_of_one_item_is_log_softmax():
    logits = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(2))
    slates = torch.randint(7, (2, 3, 1), generator=torch.Generator().manual_seed(3))
    close(losses.plackett_luce_log_prob(logits, slates), logits.log_softmax(-1).gather(-1, slates)[..., 0])


def test_policy_entropy():
    logits = torch.zeros(2, 3, 8)
    close(losses.policy_entropy(logits, MASK), 4 * math.log(8) / 2)
    logits[..., 2:] = -torch.inf
    close(losses.policy_entropy(logits, MASK), 4 * math.log(2) / 2)


def test_policy_entropy_gradient():
    logits = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(4), requires_grad=True)
    assert gradcheck(lambda x: losses.policy_entropy(x, MASK), logits)
    excluded = logits.detach().index_fill(-1, torch.tensor([0]), -torch.inf).requires_grad_()
    losses.policy_entropy(excluded, MASK).backward()
    assert bool(excluded.grad.isfinite().all()) and bool((excluded.grad[..., 0] == 0).all())


@pytest.mark.parametrize("name", ["likelihood", "discriminator", "user", "agent"])
def test_gradcheck_of_losses(name):
    generator = torch.Generator().manual_seed(5)
    a, b, c = (torch.randn(2, 3, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(3))
    checks = {
        "likelihood": lambda: gradcheck(lambda x, y: losses.user_likelihood(x, y, MASK, CLICKED, 0.5), (a, b)),
        "discriminator": lambda: gradcheck(lambda x, y: losses.discriminator_loss(x[0], y[1]), (a, b)),
        "user": lambda: gradcheck(
            lambda x, y: losses.user_policy_gradient(x, y, c.detach(), MASK, CLICKED, 0.5), (a, b)
        ),
        "agent": lambda: gradcheck(lambda x: losses.agent_policy_gradient(x, c.detach(), CLICKED), a),
    }
    assert checks[name]()
